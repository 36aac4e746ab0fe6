// Sends the microphone or a file to /stream, and shows the text with its latency.
const RATE = 16000;
const PIECE = 3200; // samples of a message from a file
const MOST_BUFFERED = 64000; // bytes that may wait in the browser
const MOST_DELAYS = 500;
const show = (id, text) => { document.getElementById(id).textContent = text; };
const element = (id) => document.getElementById(id);
let stream = null; // the running stream

class Failure extends Error {}

class Stream {
  constructor() {
    this.sent = 0; // samples
    this.times = []; // [samples sent so far, time], for the delay from sending to text
    this.server = [];
    this.total = [];
    this.stopped = false;
  }

  // Connects; resolves when the server is ready.
  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/stream`);
    this.socket.binaryType = "arraybuffer";
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => this.socket.send(JSON.stringify({
        rate: RATE, format: "int16", ...(element("token").value ? { token: element("token").value } : {}),
      }));
      this.socket.onmessage = (event) => this.receive(JSON.parse(event.data), resolve, reject);
      this.socket.onclose = () => {
        const failure = new Failure("The connection to the server was closed. Start again to reconnect.");
        reject(failure);
        if (!this.finished) finish(this, failure);
      };
    });
  }

  receive(message, resolve, reject) {
    if (message.type === "ready") {
      show("lookahead", milliseconds(message.lookahead_ms));
      show("algorithmic", `${milliseconds(message.latency_mean_ms)} / ${milliseconds(message.latency_worst_ms)}`);
      resolve();
    } else if (message.type === "partial") {
      element("partial").textContent += message.text;
      this.measure(message);
      show("lag", "none");
    } else if (message.type === "lag") {
      show("lag", `${message.seconds.toFixed(1)} s`);
      if (this.live) show("status", "The server is slower than real time: the text is late.");
    } else if (message.type === "final") {
      show("partial", "");
      element("final").textContent += `${message.text}\n`;
      finish(this, null);
    } else if (message.type === "error") {
      if (message.message.includes("token")) element("token-row").hidden = false;
      const failure = new Failure(`The server reports: ${message.message}.`);
      reject(failure);
      finish(this, failure);
    }
    element("text").scrollTop = element("text").scrollHeight;
  }

  measure(message) {
    const samples = Math.round(message.seconds * RATE);
    while (this.times.length > 1 && this.times[0][0] < samples) this.times.shift();
    if (this.times.length) add(this.total, performance.now() - this.times[0][1]);
    add(this.server, message.delay_ms);
    show("server", percentiles(this.server));
    show("total", percentiles(this.total));
  }

  send(buffer) {
    if (this.stopped || this.socket.readyState !== WebSocket.OPEN) return;
    if (this.live && this.socket.bufferedAmount > 20 * MOST_BUFFERED) {
      finish(this, new Failure("The connection is too slow for live audio."));
      return;
    }
    this.socket.send(buffer);
    this.sent += buffer.byteLength / 2;
    this.times.push([this.sent, performance.now()]);
  }

  // Ends the audio; the server answers with the final text.
  end() {
    if (this.stopped) return;
    this.stopped = true;
    this.release?.();
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ end: true }));
    show("status", "Waiting for the last words.");
  }
}

function add(delays, value) {
  delays.push(value);
  if (delays.length > MOST_DELAYS) delays.shift();
}

function percentiles(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return [0.5, 0.95, 0.99].map((share) => milliseconds(at(share))).join(" / ");
}

const milliseconds = (value) => (value == null ? "unlimited" : `${value.toFixed(1)} ms`);

function finish(ended, failure) {
  if (ended.finished) return;
  ended.finished = ended.stopped = true;
  ended.release?.();
  ended.socket?.close();
  if (element("partial").textContent) {
    element("final").textContent += `${element("partial").textContent}\n`;
    show("partial", "");
  }
  if (stream === ended) stream = null;
  element("start").disabled = element("file").disabled = false;
  const focused = document.activeElement === element("stop");
  element("stop").disabled = true;
  if (focused) element("start").focus();
  show("status", failure ? "Stopped." : "Finished.");
  if (failure) show("error", failure.message);
}

async function run(live, work) {
  if (stream) return;
  const started = stream = new Stream();
  started.live = live;
  show("error", "");
  show("lag", "none");
  element("start").disabled = element("file").disabled = true;
  element("stop").disabled = false;
  try {
    await work(started);
  } catch (error) {
    finish(started, error instanceof Failure ? error : new Failure(reason(error)));
  }
}

// Describes an error of the browser in a sentence.
function reason(error) {
  const sentences = {
    NotAllowedError: "The browser refused the microphone. Allow it for this page and start again.",
    NotFoundError: "No microphone was found. Connect one, or choose a file.",
    NotReadableError: "The microphone is in use by another program.",
    NotSupportedError: `This browser cannot record at ${RATE} Hz. Choose a file, or use another browser.`,
    EncodingError: "The browser cannot decode this file. Choose another format, such as WAV or MP3.",
  };
  return sentences[error.name] ?? `The audio could not be used: ${error.message}`;
}

async function microphone(started) {
  if (!navigator.mediaDevices) {
    throw new Failure("The browser gives no microphone to this page. Open it over HTTPS, or at 127.0.0.1.");
  }
  show("status", "Waiting for the microphone.");
  const media = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext({ sampleRate: RATE });
  started.release = () => {
    media.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
    started.release = null;
  };
  if (started.stopped) { started.release(); return; }
  await started.connect();
  await context.audioWorklet.addModule("recorder.js");
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  recorder.port.onmessage = (event) => started.send(event.data);
  context.createMediaStreamSource(media).connect(recorder);
  media.getTracks()[0].onended = () => finish(started, new Failure("The microphone was disconnected."));
  if (!started.stopped) show("status", "Recording.");
}

async function recording(file, started) {
  show("status", `Reading ${file.name}.`);
  // A context of this rate resamples what it decodes.
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, at) => decoded.getChannelData(at));
  if (started.stopped) return;
  await started.connect();
  show("status", `Transcribing ${file.name}.`);
  for (let at = 0; at < decoded.length && !started.stopped; at += PIECE) {
    const piece = new Int16Array(Math.min(PIECE, decoded.length - at));
    for (let i = 0; i < piece.length; i++) {
      const mean = channels.reduce((sum, channel) => sum + channel[at + i], 0) / channels.length;
      piece[i] = Math.max(-32768, Math.min(32767, Math.round(mean * 32768)));
    }
    started.send(piece.buffer);
    while (started.socket.bufferedAmount > MOST_BUFFERED && !started.stopped) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  started.end();
}

element("start").onclick = () => run(true, microphone);
element("stop").onclick = () => {
  if (!stream) return;
  if (stream.socket?.readyState === WebSocket.OPEN) stream.end();
  else finish(stream, null);
};
element("clear").onclick = () => { show("final", ""); show("partial", ""); };
element("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(element("final").textContent + element("partial").textContent);
    show("status", "Copied.");
  } catch {
    show("error", "The browser refused to copy. Select the text and copy it by hand.");
  }
};
element("file").onchange = ({ target }) => {
  const [file] = target.files;
  if (file) run(false, (started) => recording(file, started));
  target.value = "";
};
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) run(false, (started) => recording(file, started));
});

// A link may carry the token after #token=, which browsers do not send to servers.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  element("token").value = token;
  history.replaceState(null, "", location.pathname);
}
