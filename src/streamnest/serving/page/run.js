// One run of the page: audio goes to a connection, which is opened again if it is lost, and messages come back.
import { Failure, RATE } from "./audio.js";

const RETRIES = [500, 1000, 2000, 4000, 8000]; // ms before each attempt to reconnect
const MOST_BUFFERED = 1280000; // bytes: 40 s of live audio that the network has not taken
const MOST_KEPT = 60 * RATE; // samples that are kept to be sent again

export class Run {
  // `view` has the methods that show messages; `connect(receive, lost)` makes a connection.
  constructor(live, hello, connect, view) {
    Object.assign(this, { live, hello, connect, view });
    this.stopped = false; // no more audio
    this.finished = false;
    this.kept = []; // [end in samples, buffer]: audio that no result has covered yet
    this.total = 0; // samples of the stream
    this.times = []; // [end in samples, time of sending], for the delay from sending to a result
    this.attempts = 0;
    this.resume = null; // identifies the stream at the server
  }

  // Connects; resolves when the stream is open.
  start() {
    return new Promise((resolve, reject) => {
      Object.assign(this, { opened: resolve, refused: reject });
      this.open();
    });
  }

  open() {
    this.ready = false;
    this.times = [];
    const connection = this.connection = this.connect(
      (message) => { if (connection === this.connection && !this.finished) this.receive(message); },
      (opened) => { if (connection === this.connection && !this.finished) this.lost(opened); },
    );
    connection.open({ ...this.hello, ...(this.resume ? { resume: this.resume } : {}) });
  }

  receive(message) {
    if (message.type === "ready") this.begin(message);
    else if (message.type === "partial") {
      this.forget(Math.round(message.seconds * RATE));
      this.view.partial(message, this.delay(message));
    } else if (message.type === "lag") this.view.lag(message);
    else if (message.type === "final") {
      this.view.final(message);
      this.finish(this.stopped ? null : new Failure("The server has ended the stream, because it is stopping."));
    } else if (message.type === "error") this.refuse(message.message);
  }

  begin(message) {
    this.ready = true;
    this.attempts = 0;
    const resumed = this.resume && message.samples != null;
    if (!resumed) this.renumber();
    this.resume = message.resume ?? null;
    this.view.ready(message, resumed);
    this.opened();
    const received = message.samples ?? 0;
    for (const [end, buffer] of this.kept) {
      if (end > received) this.transmit(end, buffer.slice(Math.max(0, buffer.byteLength - 2 * (end - received))));
    }
    if (this.stopped) this.connection.end();
  }

  // Numbers the kept audio from the start of a new stream.
  renumber() {
    this.total = 0;
    for (const entry of this.kept) entry[0] = this.total += entry[1].byteLength / 2;
  }

  forget(samples) {
    while (this.kept.length && this.kept[0][0] <= samples) this.kept.shift();
  }

  refuse(reason) {
    if (this.attempts && this.resume && this.live) { // the server has no state of this stream any more
      this.resume = null;
      this.open();
    } else {
      this.finish(new Failure(`${this.connection.source}: ${reason}.`));
    }
  }

  // Returns the time since the last sample that a message covers was sent, in ms.
  delay(message) {
    const samples = Math.round(message.seconds * RATE);
    while (this.times.length > 1 && this.times[0][0] < samples) this.times.shift();
    return this.times.length ? performance.now() - this.times[0][1] : null;
  }

  // Bytes that wait in the browser.
  get buffered() { return this.ready ? this.connection.buffered : this.attempts ? Infinity : 0; }

  send(buffer) {
    if (this.finished) return;
    this.total += buffer.byteLength / 2;
    this.kept.push([this.total, buffer]);
    if (this.ready) this.transmit(this.total, buffer);
    while (this.total - this.kept[0][0] > MOST_KEPT) this.kept.shift();
    if (this.live && this.ready && this.buffered > MOST_BUFFERED) {
      this.finish(new Failure("The connection is too slow for live audio."));
    }
  }

  transmit(end, buffer) {
    this.connection.send(buffer);
    this.times.push([end, performance.now()]);
  }

  // The connection was lost; `opened` is true if it had been open.
  lost(opened) {
    const never = !opened && this.attempts === 0;
    const wait = RETRIES[this.attempts];
    if (never || wait === undefined || !(this.live || this.resume)) {
      this.finish(new Failure(
        never ? "The server cannot be reached, or refuses this page." : "The connection to the server was lost. Start again.",
      ));
      return;
    }
    this.attempts += 1;
    this.ready = false;
    this.view.reconnecting(this.attempts, RETRIES.length);
    this.timer = setTimeout(() => this.open(), wait);
  }

  // Ends the audio; the server answers with the final result.
  end() {
    if (this.stopped) return;
    this.stopped = true;
    this.release?.();
    if (this.ready) this.connection.end();
    else if (!this.attempts) this.finish(null);
    if (!this.finished) this.view.ending();
  }

  finish(failure) {
    if (this.finished) return;
    this.finished = this.stopped = true;
    clearTimeout(this.timer);
    this.release?.();
    this.connection?.close();
    this.refused?.(failure ?? new Failure(""));
    this.view.finished(failure);
  }
}
