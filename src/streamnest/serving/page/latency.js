// Delays of the results of live audio: percentiles, and a plot over time.
import { Redraw } from "./redraw.js";

const MOST = 500;
const SECONDS = 30; // of the plot
const SHARES = [0.5, 0.95, 0.99];
const MARGIN = { left: 54, right: 6, top: 8, bottom: 18 };

// Shows a number of ms; tenths are noise from 100 ms on.
export const rounded = (value) => value.toFixed(value < 100 ? 1 : 0);

// Shows durations in ms, separated by slashes.
export function milliseconds(...values) {
  return values.includes(null) ? "unlimited" : `${values.map(rounded).join(" / ")} ms`;
}

export class Delays {
  constructor() { this.points = []; }

  // Adds a result: time on the clock of the page, ms at the server, and ms from sending to result.
  add(time, compute, total) {
    this.points.push({ time, compute, network: Math.max(0, total - compute), total });
    if (this.points.length > MOST) this.points.shift();
  }

  percentiles(name) {
    const sorted = this.points.map((point) => point[name]).sort((a, b) => a - b);
    return SHARES.map((share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  }
}

export class Plot {
  // The budget is the duration of a chunk in ms: a server that computes longer cannot keep up.
  constructor(svg) {
    Object.assign(this, { svg, points: [], budget: null, redraw: new Redraw(() => this.draw()) });
    new ResizeObserver(() => this.redraw.request()).observe(svg);
  }

  update(points, budget) {
    Object.assign(this, { points, budget });
    this.redraw.request();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    const last = this.points.at(-1)?.time ?? 0;
    const shown = this.points.filter(({ time }) => time > last - 1000 * SECONDS);
    const top = ceiling(Math.max(20, ...shown.map(({ total }) => total)));
    const x = (time) => width - MARGIN.right - ((last - time) / 1000 / SECONDS) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom);
    const nodes = [0, top / 2, top].flatMap((value) => [
      node("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      label(value === top ? `${value} ms` : value, MARGIN.left - 4, y(value) + 4, "end"),
    ]);
    nodes.push(label(`${SECONDS} s ago`, MARGIN.left, height - 3, "start"), label("last result", width - MARGIN.right, height - 3, "end"));
    if (this.budget != null && this.budget <= top) {
      nodes.push(node("line", { class: "budget", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(this.budget), y2: y(this.budget) }));
      nodes.push(label("one chunk", width - MARGIN.right, y(this.budget) - 3, "end"));
    }
    for (const [name, key] of [["network", "total"], ["compute", "compute"]]) {
      nodes.push(node("polyline", { class: name, points: shown.map((point) => `${x(point.time)},${y(point[key])}`).join(" ") }));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...nodes);
  }
}

// Returns the next number of the form 1, 2 or 5 times a power of ten.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((bound) => bound >= value);
}

function node(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

function label(text, x, y, anchor) {
  const made = node("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}
