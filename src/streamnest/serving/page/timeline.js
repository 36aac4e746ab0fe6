// Spectrogram of the audio, and below it a strip for each speaker or codebook, over the last seconds.
import { RATE } from "./audio.js";
import { Redraw } from "./redraw.js";

const SECONDS = 12;
const HOP = 160;
const SIZE = 512; // of the Fourier transform
const WINDOW = 400;
const BANDS = 64;
const COLUMNS = (SECONDS * RATE) / HOP;
const STRIP = 14; // pixels
const HEIGHT = 96; // of the spectrogram
const GOLDEN = 137.508; // degrees between the hues of successive numbers

export class Timeline {
  constructor(canvas) {
    Object.assign(this, { canvas, redraw: new Redraw(() => this.draw()) });
    this.image = document.createElement("canvas");
    Object.assign(this.image, { width: COLUMNS, height: BANDS });
    new ResizeObserver(() => this.redraw.request()).observe(canvas);
    this.begin([], 40);
  }

  // Begins a stream with a strip for each label.
  begin(labels, stride) {
    Object.assign(this, { labels, stride: stride / 1000, columns: [], first: 0, tail: new Float32Array(0), rows: new Map() });
    this.canvas.style.height = `${HEIGHT + 4 + labels.length * (STRIP + 3)}px`;
    this.redraw.request();
  }

  // Adds int16 samples in the order of the stream.
  addAudio(buffer) {
    const samples = Float32Array.from(new Int16Array(buffer), (sample) => sample / 32768);
    const audio = new Float32Array(this.tail.length + samples.length);
    audio.set(this.tail);
    audio.set(samples, this.tail.length);
    let at = 0;
    for (; at + WINDOW <= audio.length; at += HOP) this.columns.push(spectrum(audio.subarray(at, at + WINDOW)));
    this.tail = audio.slice(at);
    const extra = this.columns.length - COLUMNS;
    if (extra > 0) {
      this.columns.splice(0, extra);
      this.first += extra;
    }
    this.redraw.request();
  }

  // Adds rows: for each frame a number or null for each strip.
  addRows(first, rows) {
    rows.forEach((row, at) => this.rows.set(first + at, row));
    const oldest = first + rows.length - SECONDS / this.stride;
    for (const frame of this.rows.keys()) {
      if (frame >= oldest) break;
      this.rows.delete(frame);
    }
    this.redraw.request();
  }

  draw() {
    const scale = devicePixelRatio;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width) return;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const pixels = this.image.getContext("2d");
    pixels.putImageData(this.pixels(), 0, 0);
    context.drawImage(this.image, 0, 0, width, HEIGHT);
    context.font = "10px system-ui, sans-serif";
    this.labels.forEach((label, strip) => {
      context.fillStyle = "#8884";
      context.fillRect(0, HEIGHT + 4 + strip * (STRIP + 3), width, STRIP);
    });
    const start = (this.first * HOP) / RATE;
    const x = (seconds) => ((seconds - start) / SECONDS) * width;
    for (const [frame, row] of this.rows) {
      row.forEach((number, strip) => {
        if (number == null) return;
        context.fillStyle = `hsl(${(number * GOLDEN) % 360} 65% 52%)`;
        const left = x(frame * this.stride);
        context.fillRect(left, HEIGHT + 4 + strip * (STRIP + 3), x((frame + 1) * this.stride) - left + 0.5, STRIP);
      });
    }
    this.labels.forEach((label, strip) => {
      context.strokeStyle = "#000a";
      context.lineWidth = 3;
      context.fillStyle = "#fff";
      const place = [label, 4, HEIGHT + 4 + strip * (STRIP + 3) + STRIP - 4];
      context.strokeText(...place);
      context.fillText(...place);
    });
  }

  pixels() {
    const image = new ImageData(COLUMNS, BANDS);
    const pixels = new Uint32Array(image.data.buffer);
    pixels.fill(COLORS[0]);
    this.columns.forEach((column, at) => {
      for (let band = 0; band < BANDS; band++) pixels[(BANDS - 1 - band) * COLUMNS + at] = COLORS[column[band]];
    });
    return image;
  }
}

// Colors of the levels 0 to 255: navy, blue, yellow, white.
const STOPS = [[14, 17, 38], [40, 80, 160], [240, 190, 70], [255, 252, 240]];
const COLORS = Uint32Array.from({ length: 256 }, (_, level) => {
  const place = (level / 256) * (STOPS.length - 1);
  const [below, above] = [STOPS[Math.floor(place)], STOPS[Math.floor(place) + 1]];
  const [red, green, blue] = below.map((value, at) => value + (place % 1) * (above[at] - value));
  return (255 << 24) | (blue << 16) | (green << 8) | red;
});

const HANN = Float32Array.from({ length: WINDOW }, (_, at) => 0.5 - 0.5 * Math.cos((2 * Math.PI * at) / WINDOW));
// Bounds of bands that are equally wide on the mel scale.
const BOUNDS = Array.from({ length: BANDS + 1 }, (_, at) => {
  const mel = (at / BANDS) * 1127 * Math.log(1 + RATE / 2 / 700);
  return (700 * (Math.exp(mel / 1127) - 1) * SIZE) / RATE;
});

// Returns the level of each band of a window, from 0 to 255 for 80 dB.
function spectrum(window) {
  const real = new Float32Array(SIZE);
  const imaginary = new Float32Array(SIZE);
  window.forEach((sample, at) => { real[at] = sample * HANN[at]; });
  transform(real, imaginary);
  return Uint8Array.from({ length: BANDS }, (_, band) => {
    const from = Math.floor(BOUNDS[band]);
    const to = Math.max(from + 1, Math.ceil(BOUNDS[band + 1]));
    let power = 0;
    for (let bin = from; bin < to; bin++) power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
    return Math.max(0, Math.min(255, (255 * (10 * Math.log10(power + 1e-12) + 50)) / 80));
  });
}

// Fourier transform in place, radix 2.
function transform(real, imaginary) {
  for (let at = 1, reversed = 0; at < SIZE; at++) {
    let bit = SIZE >> 1;
    for (; reversed & bit; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (at < reversed) [real[at], real[reversed]] = [real[reversed], real[at]];
  }
  for (let length = 2; length <= SIZE; length *= 2) {
    for (let k = 0; k < length / 2; k++) {
      const cosine = Math.cos((-2 * Math.PI * k) / length);
      const sine = Math.sin((-2 * Math.PI * k) / length);
      for (let low = k; low < SIZE; low += length) {
        const high = low + length / 2;
        const a = real[high] * cosine - imaginary[high] * sine;
        const b = real[high] * sine + imaginary[high] * cosine;
        [real[high], imaginary[high]] = [real[low] - a, imaginary[low] - b];
        real[low] += a;
        imaginary[low] += b;
      }
    }
  }
}
