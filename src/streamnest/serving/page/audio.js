// Audio of the microphone or of a file, as int16 at the rate of the model.
export const RATE = 16000;
const LIVE_PIECE = 320; // samples of a message in real time: 20 ms
const PIECE = 3200;
const MOST_BUFFERED = 64000; // bytes that may wait in the browser

// An error with a sentence for the reader.
export class Failure extends Error {}

const SENTENCES = {
  NotAllowedError: "The browser refused the microphone. Allow it for this page and start again.",
  SecurityError: "The browser refused the microphone. Allow it for this page and start again.",
  NotFoundError: "No microphone was found. Connect one, or choose a file.",
  NotReadableError: "The microphone cannot be used: another program may be using it.",
  NotSupportedError: "This browser cannot record audio. Choose a file, or use another browser.",
  EncodingError: "The browser cannot decode this file. Choose another format, such as WAV or MP3.",
};

// Describes an error of the browser in a sentence.
export function sentence(error) {
  return error instanceof Failure ? error.message : SENTENCES[error.name] ?? `The audio cannot be used: ${error.message}`;
}

// Asks for the microphone; returns its stream.
export async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Failure("The browser offers no microphone to this page. Open it over HTTPS, or at 127.0.0.1.");
  }
  return navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
}

// Passes 20 ms of a microphone at a time to `send`; returns a function that releases the microphone.
export async function record(media, send, lost) {
  const [context, source] = listen(media);
  const release = () => {
    media.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
  };
  try {
    await context.audioWorklet.addModule("recorder.js");
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => send(data);
    source.connect(recorder);
    await context.resume();
  } catch (error) {
    release();
    throw error;
  }
  media.getTracks()[0].onended = lost;
  return release;
}

// Returns an audio context and its source, at the rate of the model or, if the browser refuses it, at its own.
function listen(media) {
  for (const options of [{ sampleRate: RATE }, {}]) {
    const context = new AudioContext(options);
    try {
      return [context, context.createMediaStreamSource(media)];
    } catch (error) {
      context.close();
      if (error.name !== "NotSupportedError" || !options.sampleRate) throw error;
    }
  }
}

// Decodes a file; returns its samples, averaged over the channels.
export async function decode(file) {
  // A context of this rate resamples what it decodes.
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, at) => decoded.getChannelData(at));
  return Int16Array.from({ length: decoded.length }, (_, at) => {
    const mean = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
    return Math.max(-32768, Math.min(32767, Math.round(mean * 32768)));
  });
}

// Sends samples to a run until it stops, in real time or as fast as the receiver reads; `sent` gets each piece.
export async function play(samples, run, paced, sent) {
  const size = paced ? LIVE_PIECE : PIECE;
  const start = performance.now();
  for (let at = 0; at < samples.length && !run.stopped; at += size) {
    const end = Math.min(at + size, samples.length);
    // In real time, a piece exists when its last sample would have been spoken.
    while (paced && !run.stopped && performance.now() - start < (1000 * end) / RATE) await pause(5);
    while (run.buffered > MOST_BUFFERED && !run.stopped) await pause(20);
    const { buffer } = samples.slice(at, end);
    sent(buffer);
    run.send(buffer);
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
