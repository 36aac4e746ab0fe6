// Collects 20 ms of the microphone and posts them as int16 at the rate of the model.
const RATE = 16000;
const PIECE = 320;
const WIDTH = 16; // zero crossings of the low-pass filter on each side
const STEPS = 256; // entries of its table between two of them
const ROLLOFF = 0.9; // of half the rate

// Windowed sinc, by distance in samples of the lower rate.
const FILTER = Float32Array.from({ length: WIDTH * STEPS + 2 }, (_, at) => {
  const distance = at / STEPS;
  const x = Math.PI * ROLLOFF * distance;
  const window = distance < WIDTH ? Math.cos((Math.PI * distance) / WIDTH / 2) ** 2 : 0;
  return ROLLOFF * window * (x ? Math.sin(x) / x : 1);
});

// Converts audio of the browser's rate, for browsers that do not record at that of the model.
class Resampler {
  constructor(rate) {
    this.ratio = rate / RATE;
    this.scale = Math.max(1, this.ratio); // of the filter
    this.reach = Math.ceil(WIDTH * this.scale);
    this.buffer = new Float32Array(this.reach);
    this.place = this.reach; // of the next output, in the buffer
  }

  push(samples, emit) {
    const joined = new Float32Array(this.buffer.length + samples.length);
    joined.set(this.buffer);
    joined.set(samples, this.buffer.length);
    for (; this.place + this.reach < joined.length; this.place += this.ratio) emit(this.at(joined, this.place));
    const dropped = Math.max(0, Math.floor(this.place) - this.reach);
    this.buffer = joined.slice(dropped);
    this.place -= dropped;
  }

  at(samples, place) {
    let sum = 0;
    for (let at = Math.ceil(place - this.reach); at <= place + this.reach; at++) {
      const step = (Math.abs(at - place) / this.scale) * STEPS;
      const below = Math.floor(step);
      if (below <= WIDTH * STEPS) sum += samples[at] * (FILTER[below] + (step - below) * (FILTER[below + 1] - FILTER[below]));
    }
    return sum / this.scale;
  }
}

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.resampler = sampleRate === RATE ? null : new Resampler(sampleRate);
    this.emit = this.emit.bind(this);
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    if (this.resampler) this.resampler.push(channel, this.emit);
    else channel.forEach(this.emit);
    return true;
  }

  emit(sample) {
    this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
    if (this.filled < PIECE) return;
    this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }
}

registerProcessor("recorder", Recorder);
