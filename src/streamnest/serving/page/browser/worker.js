// Runs the exported step of the model in onnxruntime-web; docs/EXPORT.md describes the loop, docs/SERVING.md the messages.
import * as ort from "./ort.wasm.bundle.min.mjs";

const LAG_MS = 500; // delay from which on the page is warned
const QUIET = 8000; // samples after which a message is sent although there are no results
const ARRAYS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };

ort.env.wasm.numThreads = 1; // threads need headers that static servers do not send

const loaded = load();

async function load() {
  const [model, graph] = await Promise.all([
    fetch("model.json").then((answer) => answer.json()),
    fetch("model.onnx").then((answer) => answer.arrayBuffer()),
  ]);
  return { model, session: await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ["wasm"] }) };
}

// Greedy CTC: the best token of each frame, without repeats and blanks.
class Text {
  constructor({ pieces }) { Object.assign(this, { pieces, last: 0, text: "" }); }

  add(frames) {
    let added = "";
    for (const frame of frames) {
      const best = frame.reduce((most, value, at) => (value > frame[most] ? at : most), 0);
      if (best !== this.last && best !== 0) added += this.pieces[best];
      this.last = best;
    }
    added = this.text ? added : added.replace(/^ +/, "");
    this.text += added;
    return { text: added };
  }

  end(frames) {
    this.add(frames);
    return { text: this.text };
  }
}

// Activity of speakers: a threshold and a median filter; before and after the audio all are silent.
class Activity {
  constructor({ graph, speakers, frame_ms: stride }) {
    const { threshold, past, future } = graph.head;
    Object.assign(this, { threshold, future, width: past + 1 + future, stride: stride / 1000, frame: 0, turns: [], begun: new Map() });
    this.silence = new Array(speakers).fill(0);
    this.pending = new Array(past).fill(this.silence);
  }

  add(frames) {
    this.pending.push(...frames.map((frame) => Array.from(frame, (value) => Number(value > this.threshold))));
    const first = this.frame;
    const active = [];
    for (; this.pending.length >= this.width; this.pending.shift()) {
      const window = this.pending.slice(0, this.width);
      active.push(this.silence.map((_, at) => Number(2 * window.reduce((sum, row) => sum + row[at], 0) > this.width)));
    }
    active.forEach((row) => this.follow(row));
    return { active, first_frame: first };
  }

  follow(row) {
    row.forEach((on, at) => {
      if (on && !this.begun.has(at)) this.begun.set(at, this.frame);
      if (on || !this.begun.has(at)) return;
      this.turns.push({ speaker: `speaker ${at + 1}`, start: this.begun.get(at) * this.stride, end: this.frame * this.stride });
      this.begun.delete(at);
    });
    this.frame += 1;
  }

  end(frames, seconds) {
    const last = this.add(frames);
    const rest = this.add(new Array(this.future).fill(this.silence));
    this.follow(this.silence);
    const turns = this.turns
      .map((turn) => ({ ...turn, end: Math.min(turn.end, seconds) }))
      .filter(({ start, end }) => start < end)
      .sort((a, b) => a.start - b.start || a.speaker.localeCompare(b.speaker));
    return { active: [...last.active, ...rest.active], first_frame: last.first_frame, turns };
  }
}

// One stream through the graph.
class Stream {
  constructor(model, session) {
    Object.assign(this, { m: model.graph, session, received: 0, answered: 0, emitted: 0, busy: 0 });
    this.decoder = model.kind === "text" ? new Text(model) : new Activity(model);
    this.pending = new Float32Array(this.m.initial_zeros);
    this.state = Object.fromEntries(this.m.state.map((entry) => [entry.name, initial(entry)]));
  }

  async push(samples) {
    this.received += samples.length;
    this.pending = joined(this.pending, samples);
    const frames = [];
    while (this.pending.length >= this.m.window_samples) frames.push(...await this.step(this.m.open_end));
    return frames;
  }

  async flush() {
    const frames = [];
    for (const total = this.total(); this.emitted < total;) {
      const rest = total - this.emitted;
      frames.push(...(await this.step(this.received)).slice(0, rest));
    }
    return frames;
  }

  // Runs the graph on one window; returns the outputs of the head.
  async step(end) {
    const start = performance.now();
    const m = this.m;
    const audio = new Float32Array(m.window_samples);
    audio.set(this.pending.subarray(0, audio.length));
    const outputs = await this.session.run({
      audio: new ort.Tensor("float32", audio, [1, audio.length]),
      end: new ort.Tensor("int64", BigInt64Array.of(BigInt(end)), [1]),
      ...this.state,
    });
    for (const { name, output } of m.state) this.state[name] = outputs[output];
    this.pending = this.pending.slice(m.chunk_samples);
    const { data, dims: [, count, size] } = outputs[m.head.output];
    if (count !== m.chunk_frames) throw new Error("The model does not compute the number of frames of its metadata."); // flush would never end
    const skipped = Math.max(0, m.warmup_frames - this.emitted);
    this.emitted += count;
    this.busy += performance.now() - start;
    return Array.from({ length: count }, (_, at) => data.slice(at * size, (at + 1) * size)).slice(skipped);
  }

  // Number of frames of the whole stream, with those that are skipped at its start.
  total() {
    let frames = Math.floor(this.received / this.m.hop_samples);
    if (!frames) return 0;
    for (let stage = 0; stage < this.m.stem_stages; stage++) {
      frames = this.m.stem === "aligned" ? Math.floor((frames + 1) / 2) : Math.floor(frames / 2) + 1;
    }
    return frames + this.m.warmup_frames;
  }
}

function initial({ shape, dtype, initial: value }) {
  const dims = [1, ...shape.slice(1)];
  const data = new ARRAYS[dtype](dims.reduce((size, length) => size * length, 1));
  const convert = dtype === "int64" ? BigInt : Number;
  if (Array.isArray(value)) data.set(value.flat(Infinity).map(convert));
  else data.fill(convert(value));
  return new ort.Tensor(dtype, data, dims);
}

function joined(before, after) {
  const all = new Float32Array(before.length + after.length);
  all.set(before);
  all.set(after, before.length);
  return all;
}

let stream = null;
let wantsOutputs = false;
let warned = 0;

async function take({ open, audio, end, time }) {
  if (open) {
    const { model, session } = await loaded;
    stream = new Stream(model, session);
    wantsOutputs = open.outputs;
    postMessage({ type: "ready", ...model });
  } else if (stream) {
    const frames = audio ? await stream.push(Float32Array.from(new Int16Array(audio), (sample) => sample / 32768)) : await stream.flush();
    const delay = performance.timeOrigin + performance.now() - time;
    if (end || frames.length || stream.received - stream.answered > QUIET) answer(end ? "final" : "partial", frames, delay);
    if (delay > LAG_MS && performance.now() - warned > 1000) {
      warned = performance.now();
      postMessage({ type: "lag", seconds: delay / 1000 });
    }
    if (end) stream = null;
  }
}

function answer(type, frames, delay) {
  const { received, emitted, busy, decoder, m } = stream;
  stream.answered = received;
  const seconds = received / m.sample_rate;
  const fields = type === "final" ? decoder.end(frames, seconds) : decoder.add(frames);
  const outputs = wantsOutputs ? { outputs: frames.map((frame) => Array.from(frame)) } : {};
  postMessage({ type, seconds, samples: received, frames: emitted, delay_ms: delay, busy_s: busy / 1000, ...fields, ...outputs });
}

// One message after the other, although a step does not block.
let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(() => take(data)).catch((error) => postMessage({ type: "error", message: error.message }));
};
