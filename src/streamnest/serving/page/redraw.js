// Draws at most ten times per second, however often it is requested.
const INTERVAL = 100; // ms

export class Redraw {
  constructor(draw) { Object.assign(this, { draw, pending: false }); }

  request() {
    if (this.pending) return;
    this.pending = true;
    setTimeout(() => requestAnimationFrame(() => { this.pending = false; this.draw(); }), INTERVAL);
  }
}
