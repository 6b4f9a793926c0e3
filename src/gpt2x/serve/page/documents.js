/** The documents that the browser keeps, one entry of its storage each. */

import { areRanges } from "./ranges.js";

const PREFIX = "gpt2x.document.";

/**
 * @typedef {object} Doc
 * @property {string} id
 * @property {string} title that the person gave; empty for none
 * @property {string} text
 * @property {[number, number][]} ranges what the model wrote; see ranges.js
 * @property {number} changed milliseconds since 1970
 * @property {string} version changes with each save; empty before the first
 */

/** Return a random name; also where pages have no `crypto.randomUUID`, as over plain HTTP. */
export function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Doc} */
export function newDocument(text = "", ranges = [], title = "") {
  return { id: randomName(), title, text, ranges, changed: Date.now(), version: "" };
}

/** Return a document's title, or its first words. */
export function titleOf({ title, text }) {
  const line = text.trimStart().split("\n", 1)[0];
  const words = line.length > 48 ? `${line.slice(0, 48).replace(/\s+\S*$/, "")}…` : line;
  return title || words || "Untitled";
}

/** Documents by their ids. */
export class Documents {
  #storage;

  /** @param storage a window's localStorage. */
  constructor(storage) {
    this.#storage = storage;
  }

  /** Return all documents, those changed last first. */
  list() {
    const ids = Object.keys(this.#storage).filter((key) => key.startsWith(PREFIX));
    const found = ids.map((key) => this.get(key.slice(PREFIX.length))).filter(Boolean);
    return found.sort((a, b) => b.changed - a.changed);
  }

  /** Return a document, or null if there is none. */
  get(id) {
    return parsed(this.#storage.getItem(PREFIX + id));
  }

  /**
   * Keep a document and return it as it is kept.
   *
   * If another window has saved this document since it was read here, it is kept beside that one,
   * under another id. Throws QuotaExceededError if the storage is full.
   */
  save(doc) {
    const stored = this.get(doc.id);
    const isOther = stored !== null && stored.version !== doc.version;
    const saved = { ...doc, changed: Date.now(), version: randomName() };
    if (isOther) Object.assign(saved, { id: randomName(), title: `${titleOf(doc)} (second)` });
    this.put(saved);
    return saved;
  }

  /** Keep a document as it is, as after it was deleted by mistake. */
  put(doc) {
    this.#storage.setItem(PREFIX + doc.id, JSON.stringify(doc));
  }

  delete(id) {
    this.#storage.removeItem(PREFIX + id);
  }

  /** Call `act` with each document that another window saves or deletes: its id. */
  watch(act) {
    addEventListener("storage", ({ key, storageArea }) => {
      if (storageArea === this.#storage && key?.startsWith(PREFIX)) act(key.slice(PREFIX.length));
    });
  }
}

/** Return the document of a stored text; null if it is not one. */
function parsed(json) {
  try {
    const doc = JSON.parse(json);
    const isWhole = ["id", "title", "text", "version"].every((name) => typeof doc[name] === "string");
    return isWhole && areRanges(doc.ranges, doc.text.length) ? doc : null;
  } catch {
    return null;
  }
}
