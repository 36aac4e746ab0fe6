// The page: controls, and what the messages of a run change.
import { decode, Failure, openMicrophone, play, RATE, record, sentence } from "./audio.js";
import { ServerConnection } from "./connection.js";
import { Delays, milliseconds, Plot } from "./latency.js";
import { Run } from "./run.js";
import { Transcript } from "./transcript.js";

const PIECE_MS = 20; // of live audio
const SILENT = 1e-3; // peak below which a microphone is probably muted
const SILENT_MS = 3000;
const element = (id) => document.getElementById(id);
const show = (id, text) => { element(id).textContent = text; };
const transcript = new Transcript(element("text"), element("announcer"));
const plot = new Plot(element("plot"));
let run = null;

// Shows the messages of one run.
class View {
  constructor(title, live, seconds) {
    Object.assign(this, { title, live, seconds, delays: new Delays(), began: performance.now(), begun: false });
    this.lastSound = performance.now();
  }

  ready(message) {
    this.latency = message;
    show("model", [message.model, message.context].filter(Boolean).join(", "));
    show("lookahead", milliseconds(message.lookahead_ms));
    show("lookahead-source", "declared by the layers");
    show("algorithmic", milliseconds(message.latency_mean_ms, message.latency_worst_ms));
    show("error", "");
    show("status", this.live && !this.seconds ? "Recording. Speak." : `Transcribing ${this.title}.`);
    if (this.begun) transcript.end();
    transcript.begin(this.title);
    this.begun = true;
    this.began = performance.now();
  }

  text(message, delay) {
    transcript.add(message.text);
    show("lag", "none");
    this.progress(message.seconds);
    if (this.live && delay != null) this.measure(message.delay_ms, delay);
    setButtons();
  }

  measure(compute, total) {
    this.delays.add(performance.now(), compute, total);
    for (const name of ["compute", "network", "total"]) {
      const cells = element(name).querySelectorAll("td");
      this.delays.percentiles(name).forEach((value, at) => { cells[at].textContent = value.toFixed(1); });
    }
    const [typical, , worst] = this.delays.percentiles("total");
    const { latency_mean_ms: mean, latency_worst_ms: most } = this.latency;
    if (mean != null) {
      show("whole", milliseconds(mean + PIECE_MS / 2 + typical, most + PIECE_MS + worst));
    }
    element("plot").setAttribute("aria-label", `Delay of text over time; the median is ${milliseconds(typical)}.`);
    plot.update(this.delays.points, this.latency.chunk_ms);
  }

  progress(seconds) {
    if (this.seconds) element("progress").value = seconds / this.seconds;
    if (!this.live) {
      const spent = (performance.now() - this.began) / 1000;
      show("speed", `${(seconds / spent).toFixed(1)} times real time`);
    }
  }

  lag(seconds) {
    show("lag", `${seconds.toFixed(1)} s`);
    if (this.live) show("error", "The server is slower than real time, so that the text is late.");
  }

  final(message) {
    transcript.end(message.text);
    this.progress(message.seconds);
  }

  reconnecting(attempt, most) {
    show("status", `The connection was lost. Connecting again, attempt ${attempt} of ${most}.`);
  }

  ending() { show("status", "Waiting for the last words."); }

  // Shows the level of the microphone, and a hint if it records nothing.
  level(buffer) {
    const peak = new Int16Array(buffer).reduce((most, sample) => Math.max(most, Math.abs(sample)), 0) / 32768;
    const now = performance.now();
    const meter = element("level");
    meter.value = Math.max(Math.sqrt(peak), 0.9 * meter.value);
    if (peak > SILENT) this.lastSound = now;
    const hint = "The microphone is silent. Check that it is not muted.";
    if (now - this.lastSound > SILENT_MS) { if (!element("error").textContent) show("error", hint); }
    else if (element("error").textContent === hint) show("error", "");
  }

  finished(failure) {
    if (this.begun) transcript.end();
    run = null;
    show("status", failure ? "Stopped." : "Finished.");
    if (failure) show("error", failure.message);
    if (failure?.message.includes("token")) {
      element("token-form").hidden = false;
      element("token").focus();
    }
    const focused = document.activeElement === element("stop");
    setButtons();
    if (focused) element("start").focus();
  }
}

function setButtons() {
  for (const id of ["start", "file", "pace", "context"]) element(id).disabled = Boolean(run);
  element("file-label").classList.toggle("disabled", Boolean(run));
  element("stop").disabled = !run;
  for (const id of ["copy", "download", "clear"]) element(id).disabled = !transcript.text;
  document.body.classList.toggle("running", Boolean(run));
  document.body.classList.toggle("recording", Boolean(run?.microphone));
  element("level").hidden = !run?.microphone;
  element("progress").hidden = !run?.view.seconds;
}

function hello() {
  const token = element("token").value;
  return { rate: RATE, format: "int16", ...(token ? { token } : {}) };
}

// Starts a run; `work` connects it and sends its audio.
async function begin(title, live, seconds, work) {
  const view = new View(title, live, seconds);
  const begun = run = new Run(live, hello(), (...callbacks) => new ServerConnection(...callbacks), view);
  show("error", "");
  show("lag", "none");
  element("progress").value = element("level").value = 0;
  element("speed-row").hidden = live;
  try {
    await work(begun, view);
  } catch (error) {
    begun.finish(new Failure(sentence(error)));
  }
}

async function useMicrophone() {
  if (run) return;
  const title = `Microphone, ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  await begin(title, true, null, async (begun, view) => {
    begun.microphone = true;
    setButtons();
    show("status", "Waiting for the microphone.");
    const media = await openMicrophone();
    const send = (buffer) => { view.level(buffer); begun.send(buffer); };
    const lost = () => begun.finish(new Failure("The microphone was disconnected."));
    const release = () => media.getTracks().forEach((track) => track.stop());
    begun.release = release;
    if (begun.stopped) { release(); return; }
    show("status", "Connecting.");
    await begun.start();
    begun.release = await record(media, send, lost);
    if (begun.stopped) begun.release();
  });
}

async function useFile(file) {
  if (!file || run) return;
  const paced = element("pace").checked;
  await begin(file.name, paced, 1, async (begun, view) => {
    setButtons();
    show("status", `Reading ${file.name}.`);
    const samples = await decode(file);
    view.seconds = samples.length / RATE;
    if (begun.stopped) return;
    await begun.start();
    await play(samples, begun, paced);
    begun.end();
  });
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${transcript.text}\n`], { type: "text/plain" }));
  link.download = "transcript.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(transcript.text);
    show("status", "Copied.");
  } catch {
    show("error", "The browser refused to copy. Select the text and copy it by hand.");
  }
}

element("start").onclick = useMicrophone;
element("stop").onclick = () => { if (run?.stopped) run.finish(null); else run?.end(); };
element("clear").onclick = () => { transcript.clear(); setButtons(); element("start").focus(); };
element("copy").onclick = copy;
element("download").onclick = download;
element("token-form").onsubmit = (event) => event.preventDefault();
element("file").onchange = ({ target }) => { useFile(target.files[0]); target.value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  useFile(event.dataTransfer.files[0]);
});

// A link may carry the token after #token=, which browsers do not send to servers.
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  element("token").value = token;
  history.replaceState(null, "", location.pathname);
}
plot.request();
