// Results of all streams as text: a part that cannot change any more, and the rest.
const QUIET = 1500; // ms between announcements to screen readers

export class Transcript {
  constructor(box, announcer) {
    Object.assign(this, { box, announcer, entries: [], unread: "", timer: null });
  }

  // Begins the text of a stream.
  begin(title) {
    const article = document.createElement("article");
    article.appendChild(document.createElement("h3")).textContent = title;
    const paragraph = article.appendChild(document.createElement("p"));
    const [final, partial] = ["final", "partial"].map((name) => {
      const span = paragraph.appendChild(document.createElement("span"));
      span.className = name;
      return span;
    });
    this.entries.push({ final, partial, shown: 0 });
    this.box.append(article);
  }

  // Shows the text of the current stream; `final` begins with the final text that was shown before.
  show(final, partial) {
    const entry = this.entries.at(-1);
    const atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
    const added = final.slice(entry.shown);
    entry.final.append(added);
    entry.partial.textContent = partial;
    entry.shown = final.length;
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
    this.announce(added);
  }

  // Replaces the text of the current stream.
  replace(text) {
    const entry = this.entries.at(-1);
    this.announce(text.slice(entry.shown));
    entry.final.textContent = text;
    entry.partial.textContent = "";
    entry.shown = text.length;
  }

  // Screen readers get text in groups, because a message for every word would interrupt itself.
  announce(text) {
    if (!text) return;
    this.unread += text;
    this.timer ??= setTimeout(() => this.flush(), QUIET);
  }

  flush() {
    this.announcer.textContent = this.unread;
    this.timer = this.unread ? setTimeout(() => this.flush(), QUIET) : null;
    this.unread = "";
  }

  get text() {
    return this.entries.map(({ final, partial }) => final.textContent + partial.textContent).filter(Boolean).join("\n");
  }

  get empty() { return !this.entries.some(({ shown, partial }) => shown || partial.textContent); }

  clear() {
    this.entries.splice(0, this.entries.length);
    this.box.replaceChildren();
    this.unread = this.announcer.textContent = "";
  }
}
