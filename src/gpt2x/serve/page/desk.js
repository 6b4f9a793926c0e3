/** The document that is open: read into the editor, saved while it is written, in step with other windows. */

import { newDocument } from "./documents.js";

const OPEN = "gpt2x.open";
const PAUSE = 300; // milliseconds without a change after which it is saved

/** Sends `open` after another document was opened. */
export class Desk extends EventTarget {
  #documents;
  #editor;
  #notices;
  #timer = null;

  constructor(documents, editor, notices) {
    super();
    this.#documents = documents;
    this.#editor = editor;
    this.#notices = notices;
    this.doc = newDocument();
    editor.addEventListener("change", () => this.#soon());
    documents.watch((id) => this.#changedElsewhere(id));
    addEventListener("pagehide", () => this.save());
    document.addEventListener("visibilitychange", () => this.save());
  }

  /** Open the document that this window had last, or the last of all. */
  resume() {
    const id = sessionStorage.getItem(OPEN);
    const doc = (id && this.#documents.get(id)) || this.#documents.list()[0] || newDocument();
    this.open(doc);
  }

  /** Open a document; the caret is put at its end if no place is given. */
  open(doc, caret = doc.text.length) {
    this.save();
    this.doc = doc;
    sessionStorage.setItem(OPEN, doc.id);
    this.#editor.open(doc.text, doc.ranges, caret);
    this.dispatchEvent(new Event("open"));
  }

  /** Give the open document a title. */
  entitle(title) {
    this.doc = { ...this.doc, title };
    this.#soon();
  }

  /** Save what has changed. */
  save() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    const { text, ranges } = this.#editor;
    const { id } = this.doc;
    try {
      this.doc = this.#documents.save({ ...this.doc, text, ranges });
    } catch {
      this.#notices.show("The browser's storage is full: export this text, or delete another.");
      return;
    }
    if (this.doc.id === id) return;
    sessionStorage.setItem(OPEN, this.doc.id);
    this.#notices.show("Another window changed this document too: yours is kept beside it.");
    this.dispatchEvent(new Event("open"));
  }

  /** Delete a document; the notice can undo it. */
  delete(id) {
    this.save();
    const doc = this.#documents.get(id);
    this.#documents.delete(id);
    if (this.doc.id === id) this.open(this.#documents.list()[0] ?? newDocument());
    if (doc === null) return;
    const undo = () => {
      this.#documents.put(doc);
      this.open(doc);
    };
    this.#notices.show("The document is deleted.", { label: "Undo", act: undo });
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.save(), PAUSE);
  }

  #changedElsewhere(id) {
    if (id !== this.doc.id) return;
    const doc = this.#documents.get(id);
    if (this.#timer !== null) {
      this.save(); // beside the other, if it was changed
    } else if (doc === null) {
      this.doc = { ...this.doc, version: "" };
      this.#notices.show("Another window deleted this document; it comes back if you go on writing.");
    } else if (doc.version !== this.doc.version) {
      this.open(doc, Math.min(this.#editor.caret, doc.text.length));
      this.#notices.say("Another window changed this document.");
    }
  }
}
