// One run of the page: audio goes to a connection, which is opened again if it is lost, and messages come back.
import { Failure, RATE } from "./audio.js";

const RETRIES = [500, 1000, 2000, 4000, 8000]; // ms before each attempt to reconnect
const MOST_BUFFERED = 1280000; // bytes: 40 s of live audio that the network has not taken
const MOST_WAITING = 10 * RATE; // samples that are kept while the connection is lost

export class Run {
  // `view` has the methods that show messages; `connect(receive, lost)` makes a connection.
  constructor(live, hello, connect, view) {
    Object.assign(this, { live, hello, connect, view });
    this.stopped = false; // no more audio
    this.finished = false;
    this.sent = 0; // samples of the current connection
    this.times = []; // [samples sent so far, time], for the delay from sending to text
    this.waiting = []; // audio since the connection was lost
    this.attempts = 0;
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
    this.sent = 0;
    this.times = [];
    const connection = this.connection = this.connect(
      (message) => { if (connection === this.connection && !this.finished) this.receive(message); },
      (opened) => { if (connection === this.connection && !this.finished) this.lost(opened); },
    );
    connection.open(this.hello);
  }

  receive(message) {
    if (message.type === "ready") {
      this.ready = true;
      this.attempts = 0;
      this.view.ready(message);
      this.opened();
      this.waiting.splice(0).forEach((buffer) => this.send(buffer));
      if (this.stopped) this.connection.end();
    } else if (message.type === "partial") {
      this.view.text(message, this.delay(message));
    } else if (message.type === "lag") {
      this.view.lag(message.seconds);
    } else if (message.type === "final") {
      this.view.final(message);
      this.finish(this.stopped ? null : new Failure("The server has ended the stream, because it is stopping."));
    } else if (message.type === "error") {
      this.finish(new Failure(`The server reports: ${message.message}.`));
    }
  }

  // Returns the time since the last sample that a message covers was sent, in ms.
  delay(message) {
    const samples = Math.round(message.seconds * RATE);
    while (this.times.length > 1 && this.times[0][0] < samples) this.times.shift();
    return this.times.length ? performance.now() - this.times[0][1] : null;
  }

  get buffered() { return this.ready ? this.connection.buffered : 0; }

  send(buffer) {
    if (this.finished) return;
    if (!this.ready) {
      this.waiting.push(buffer);
      const most = Math.ceil((2 * MOST_WAITING) / buffer.byteLength);
      if (this.waiting.length > most) this.waiting.shift();
      return;
    }
    if (this.live && this.buffered > MOST_BUFFERED) {
      this.finish(new Failure("The connection is too slow for live audio."));
      return;
    }
    this.connection.send(buffer);
    this.sent += buffer.byteLength / 2;
    this.times.push([this.sent, performance.now()]);
  }

  // The connection was lost; `opened` is true if it had been open.
  lost(opened) {
    const never = !opened && this.attempts === 0;
    const [wait] = RETRIES.slice(this.attempts);
    if (never || !this.live || wait === undefined) {
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

  // Ends the audio; the server answers with the final text.
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
