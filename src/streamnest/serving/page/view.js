// What the messages of a run change on the page.
import { Delays, milliseconds, Plot, rounded } from "./latency.js";
import { Redraw } from "./redraw.js";
import { resultsOf, rowsOf } from "./results.js";
import { Timeline } from "./timeline.js";
import { Transcript } from "./transcript.js";

const PIECE_MS = 20; // of live audio
const METER_MS = 100;
const SILENT = 1e-3; // peak below which a microphone is probably muted
const SILENT_MS = 3000;
const LAG_MS = 1500; // after which a report of a slow server is over
const LATE = "The computation is slower than real time, so that the results are late.";
const SILENCE = "The microphone is silent. Check that it is not muted.";
const CERTIFICATES = {
  true: "declared and measured",
  false: "declared; the measurement differs: run streamnest verify",
};
const TITLES = { text: "Text", turns: "Speaker turns", codes: "Codes" };
const HEADINGS = { text: "Live transcription", turns: "Live diarization", codes: "Codes of a pretrained encoder" };

export const element = (id) => document.getElementById(id);
export const show = (id, text) => { element(id).textContent = text; };
export const transcript = new Transcript(element("text"), element("announcer"));
const plot = new Plot(element("plot"));
const timeline = new Timeline(element("timeline"));

// Enables the controls that fit the state of the page; `view` is that of a run, if there is one.
export function setButtons(view) {
  for (const id of ["start", "file", "pace", "context"]) element(id).disabled = Boolean(view);
  element("file-label").classList.toggle("disabled", Boolean(view));
  element("stop").disabled = !view;
  for (const id of ["copy", "download"]) element(id).disabled = transcript.empty;
  element("clear").disabled = Boolean(view) || transcript.empty;
  document.body.classList.toggle("running", Boolean(view));
  document.body.classList.toggle("recording", Boolean(view?.microphone));
  element("level").hidden = !view?.microphone;
  element("progress").hidden = !view || view.microphone;
}

// Shows the latency that a model declares.
export function showLatency(model) {
  const { kind = "text", context, lookahead_ms: lookahead, latency_mean_ms: mean, latency_worst_ms: worst } = model;
  show("heading", HEADINGS[kind] ?? HEADINGS.text);
  show("output-title", TITLES[kind] ?? TITLES.text);
  show("model", context ? `context ${context}` : "");
  show("lookahead", milliseconds(lookahead));
  show("certificate", CERTIFICATES[model.lookahead_measured] ?? "declared by the layers");
  show("algorithmic", milliseconds(mean, worst));
  element("decision-row").hidden = model.decision_ms == null;
  show("decision", milliseconds(model.decision_ms ?? null));
  element("timeline").hidden = kind === "text";
}

// Shows the messages of one run.
export class View {
  // `ended` is called when the run has finished.
  constructor(title, live, microphone, ended) {
    Object.assign(this, { title, live, microphone, ended, delays: new Delays(), results: null, seconds: null });
    this.began = this.lastSound = performance.now();
    Object.assign(this, { lastLag: Infinity, peak: 0, metered: 0, panel: new Redraw(() => this.showDelays()) });
    show("error", "");
    show("lag", "none");
    element("progress").value = element("level").value = 0;
    show("speed", "–");
  }

  ready(message, resumed) {
    this.latency = message;
    showLatency(message);
    show("error", "");
    show("status", this.microphone ? "Recording. Speak." : `Processing ${this.title}.`);
    if (!resumed) {
      this.results = resultsOf(message);
      transcript.begin(this.title);
      timeline.begin(this.results.labels ?? [], message.frame_ms ?? 40);
      this.began = performance.now();
    }
    this.results.ready(message);
    if (resumed) transcript.replace(this.results.final);
    this.update();
  }

  partial(message, delay) {
    this.results.partial(message);
    if (message.first_frame != null) timeline.addRows(message.first_frame, rowsOf(message));
    if (performance.now() - this.lastLag > LAG_MS) this.caughtUp();
    this.progress(message);
    if (this.live && delay != null) {
      this.delays.add(performance.now(), message.delay_ms, delay);
      this.panel.request();
    }
    this.update();
  }

  update() {
    transcript.show(this.results.final, this.results.partialText);
    setButtons(this);
  }

  showDelays() {
    for (const name of ["compute", "network", "total"]) {
      const cells = element(name).querySelectorAll("td");
      this.delays.percentiles(name).forEach((value, at) => { cells[at].textContent = rounded(value); });
    }
    const [typical, , worst] = this.delays.percentiles("total");
    const { latency_mean_ms: mean, latency_worst_ms: most, decision_ms: decision = 0 } = this.latency;
    if (mean != null) {
      show("whole", milliseconds(mean + decision + PIECE_MS / 2 + typical, most + decision + PIECE_MS + worst));
    }
    element("plot").setAttribute("aria-label", `Delay of results over time; the median is ${milliseconds(typical)}.`);
    plot.update(this.delays.points, this.latency.chunk_ms);
  }

  progress({ seconds, busy_s: busy }) {
    if (this.seconds) element("progress").value = seconds / this.seconds;
    // In real time, the duration of the run contains pauses.
    const spent = busy ?? (this.live ? null : (performance.now() - this.began) / 1000);
    if (spent != null && seconds) show("speed", (spent / seconds).toFixed(3));
  }

  lag({ seconds, load }) {
    if (!this.live) return; // a file is sent faster than in real time
    show("lag", `${seconds.toFixed(1)} s${load == null ? "" : `, load ${load.toFixed(1)}`}`);
    this.lastLag = performance.now();
    show("error", LATE);
  }

  caughtUp() {
    this.lastLag = Infinity;
    show("lag", "none");
    if (element("error").textContent === LATE) show("error", "");
  }

  final(message) {
    this.results.end(message);
    if (message.first_frame != null) timeline.addRows(message.first_frame, rowsOf(message));
    this.progress(message);
  }

  reconnecting(attempt, most) {
    show("status", `The connection was lost. Connecting again, attempt ${attempt} of ${most}.`);
  }

  ending() { show("status", "Waiting for the last results."); }

  // Shows audio that is sent: its spectrogram, the level of a microphone, and a hint if it records nothing.
  audio(buffer) {
    if (!element("timeline").hidden) timeline.addAudio(buffer);
    if (!this.microphone) return;
    const now = performance.now();
    const peak = new Int16Array(buffer).reduce((most, sample) => Math.max(most, Math.abs(sample)), 0) / 32768;
    this.peak = Math.max(this.peak, peak);
    if (now - this.metered > METER_MS) {
      element("level").value = Math.sqrt(this.peak);
      Object.assign(this, { peak: 0, metered: now });
    }
    if (peak > SILENT) this.lastSound = now;
    const shown = element("error").textContent;
    if (now - this.lastSound > SILENT_MS && !shown) show("error", SILENCE);
    if (now === this.lastSound && shown === SILENCE) show("error", "");
  }

  finished(failure) {
    if (this.results) transcript.replace(this.results.final + this.results.partialText);
    this.ended();
    show("status", failure ? "Stopped." : "Finished.");
    if (failure) show("error", failure.message);
    const focused = document.activeElement === element("stop");
    setButtons(null);
    if (focused) element("start").focus();
    if (failure?.message.includes("token")) {
      element("token-form").hidden = false;
      element("token").focus();
    }
  }
}
