// The page: controls, the model, and the results of a run.
import { decode, Failure, openMicrophone, play, RATE, record, sentence } from "./audio.js";
import { backend } from "./backend.js";
import { element, setButtons, show, showLatency, transcript, View } from "./view.js";
import { Run } from "./run.js";

let run = null;
let model = {};

function hello() {
  const token = element("token").value;
  const context = element("context").value;
  return { rate: RATE, format: "int16", ...(token ? { token } : {}), ...(context ? { context } : {}) };
}

// Starts a run; `work` connects it and sends its audio.
async function begin(title, live, microphone, work) {
  const view = new View(title, live, microphone, () => { run = null; });
  const begun = run = new Run(live, hello(), backend.connect, view);
  setButtons(view);
  try {
    await work(begun, view);
  } catch (error) {
    begun.finish(new Failure(sentence(error)));
  }
}

async function useMicrophone() {
  if (run) return;
  const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  await begin(`Microphone, ${time}`, true, true, async (begun, view) => {
    show("status", "Waiting for the microphone.");
    const media = await openMicrophone();
    begun.release = () => media.getTracks().forEach((track) => track.stop());
    if (begun.stopped) { begun.release(); return; }
    show("status", "Connecting.");
    await begun.start();
    const send = (buffer) => { view.audio(buffer); begun.send(buffer); };
    const lost = () => begun.finish(new Failure("The microphone was disconnected."));
    begun.release = await record(media, send, lost);
    if (begun.stopped) begun.release();
  });
}

async function useFile(file) {
  if (!file || run) return;
  const paced = element("pace").checked;
  await begin(file.name, paced, false, async (begun, view) => {
    show("status", `Reading ${file.name}.`);
    const samples = await decode(file);
    view.seconds = samples.length / RATE;
    if (begun.stopped) return;
    await begun.start();
    await play(samples, begun, paced, (buffer) => view.audio(buffer));
    begun.end();
  });
}

// Shows the model and its contexts before a stream is opened; a server that needs a token answers after it was given.
async function describe() {
  model = await backend.model(element("token").value).catch(() => null) ?? {};
  const names = Object.keys(model.contexts ?? {});
  element("context").replaceChildren(...names.map((name) => new Option(name, name, name === model.context, name === model.context)));
  element("context-row").hidden = names.length < 2;
  if (model.lookahead_ms !== undefined) showLatency(model);
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${transcript.text.trimEnd()}\n`], { type: "text/plain" }));
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
element("clear").onclick = () => { transcript.clear(); setButtons(null); element("start").focus(); };
element("copy").onclick = copy;
element("download").onclick = download;
element("context").onchange = ({ target }) => showLatency({ ...model, ...model.contexts[target.value], context: target.value });
element("token-form").onsubmit = (event) => event.preventDefault();
element("token").onchange = describe;
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
describe();
