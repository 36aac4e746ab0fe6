// Results of one stream, by kind: each has `final` and `partial` text, and rows for the timeline.

// Words; the last one may still grow.
class Words {
  constructor() { this.text = ""; }

  ready({ text = "" }) { this.text = text; }

  partial({ text }) { this.text += text; }

  end({ text }) { Object.assign(this, { text, ended: true }); }

  get complete() { return this.ended ? this.text.length : this.text.lastIndexOf(" ") + 1; }

  get final() { return this.text.slice(0, this.complete); }

  get partialText() { return this.text.slice(this.complete); }
}

// Turns of speakers; those that still go on are partial.
class Turns {
  constructor({ frame_ms: stride, speakers }) {
    Object.assign(this, { stride: stride / 1000, turns: [], begun: new Array(speakers).fill(null), frame: 0 });
    this.labels = this.begun.map((_, at) => `speaker ${at + 1}`);
  }

  ready({ turns }) { if (turns) this.turns = turns; }

  partial({ active = [], first_frame: first }) {
    if (active.length) this.frame = first;
    for (const row of active) {
      row.forEach((on, at) => {
        if (on) this.begun[at] ??= this.frame;
        else if (this.begun[at] != null) {
          this.turns.push({ speaker: `speaker ${at + 1}`, start: this.begun[at] * this.stride, end: this.frame * this.stride });
          this.begun[at] = null;
        }
      });
      this.frame += 1;
    }
  }

  end({ turns }) {
    this.begun.fill(null);
    this.turns = turns;
  }

  get final() {
    return this.turns.map(({ speaker, start, end }) => `${start.toFixed(2)}–${end.toFixed(2)} s  ${speaker}\n`).join("");
  }

  get partialText() {
    return this.begun.flatMap((start, at) => (start == null ? [] : [`${(start * this.stride).toFixed(2)} s …  speaker ${at + 1}\n`])).join("");
  }
}

// Codes of a pretrained encoder; equal successive frames share an entry.
class Codes {
  constructor({ codebooks }) {
    Object.assign(this, { final: "", code: null, count: 0 });
    this.labels = codebooks > 1 ? Array.from({ length: codebooks }, (_, at) => `codebook ${at + 1}`) : [""];
  }

  ready() {}

  partial({ codes = [] }) {
    for (const row of codes) {
      const code = row.join("/");
      if (code !== this.code) {
        this.final += this.partialText;
        Object.assign(this, { code, count: 0 });
      }
      this.count += 1;
    }
  }

  end(message) {
    this.partial(message);
    this.final += this.partialText;
    this.count = 0;
  }

  get partialText() { return this.count > 1 ? `${this.code}×${this.count} ` : this.count ? `${this.code} ` : ""; }
}

const KINDS = { text: Words, turns: Turns, codes: Codes };

// Returns empty results for the model that `ready` describes.
export function resultsOf(ready) { return new (KINDS[ready.kind] ?? Words)(ready); }

// Returns the rows of a message for the timeline: one number or null for each line and frame.
export function rowsOf({ active, codes }) {
  if (active) return active.map((row) => row.map((on, at) => (on ? at : null)));
  return codes ?? [];
}
