// Text of all streams: complete words, and the last one, which may still grow.
const QUIET = 1500; // ms between announcements to screen readers

export class Transcript {
  constructor(box, announcer) {
    Object.assign(this, { box, announcer, entries: [], unread: "", timer: null });
  }

  // Begins the text of a stream.
  begin(title) {
    const article = document.createElement("article");
    const heading = article.appendChild(document.createElement("h3"));
    heading.textContent = title;
    const paragraph = article.appendChild(document.createElement("p"));
    const [final, partial] = ["final", "partial"].map((name) => {
      const span = paragraph.appendChild(document.createElement("span"));
      span.className = name;
      return span;
    });
    this.entries.push({ final, partial, text: "" });
    this.box.append(article);
  }

  // Appends text to the current stream; its last word may still grow.
  add(text) { this.show(this.entries.at(-1).text + text, false); }

  // Ends the current stream with its whole text.
  end(text = this.entries.at(-1).text) { this.show(text, true); }

  show(text, ended) {
    const entry = this.entries.at(-1);
    const atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
    const complete = ended ? text.length : text.lastIndexOf(" ") + 1;
    this.announce(text.slice(entry.final.textContent.length, complete));
    entry.text = text;
    entry.final.textContent = text.slice(0, complete);
    entry.partial.textContent = text.slice(complete);
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
  }

  // Screen readers get words in groups, because a message for every word would interrupt itself.
  announce(words) {
    this.unread += words;
    this.timer ??= setTimeout(() => {
      this.announcer.textContent = this.unread;
      this.unread = "";
      this.timer = null;
    }, QUIET);
  }

  get text() { return this.entries.map(({ text }) => text).filter(Boolean).join("\n"); }

  clear() {
    this.entries = [];
    this.box.replaceChildren();
    this.announcer.textContent = "";
  }
}
