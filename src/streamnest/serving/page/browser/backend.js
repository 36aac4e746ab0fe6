// What computes the results: a worker of this page, which runs the exported step of the model.
let worker = null;

// Connection of one stream to the worker, with the interface and the messages of a connection to a server.
class WorkerConnection {
  constructor(receive) {
    Object.assign(this, { receive, source: "The model cannot be computed", over: false, sent: 0, consumed: 0 });
  }

  open(hello) {
    worker ??= new Worker("worker.js", { type: "module" });
    worker.onerror = ({ message }) => this.take({ type: "error", message: message || "the worker could not start" });
    worker.onmessage = ({ data }) => this.take(data);
    worker.postMessage({ open: hello });
  }

  take(message) {
    if (this.over) return;
    if (message.type === "error") stop();
    this.over = message.type === "final" || message.type === "error";
    this.consumed = message.samples ?? this.consumed;
    this.receive(message);
  }

  get buffered() { return this.sent - 2 * this.consumed; }

  send(buffer) {
    this.sent += buffer.byteLength;
    worker?.postMessage({ audio: buffer, time: performance.timeOrigin + performance.now() });
  }

  end() { worker?.postMessage({ end: true, time: performance.timeOrigin + performance.now() }); }

  close() {
    if (!this.over) stop(); // it would compute the rest of the audio before the next stream
    this.over = true;
  }
}

function stop() {
  worker?.terminate();
  worker = null;
}

export const backend = {
  connect: (receive) => new WorkerConnection(receive),

  // Returns the fields of `ready`, before a stream is opened.
  async model() { return (await fetch("model.json")).json(); },
};
