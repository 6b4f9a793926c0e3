/** Counts of the text, and the part of it that the model reads. */

import { seenFrom } from "./offsets.js";

const PAUSE = 200; // milliseconds without a change after which the server is asked

/** Return how many words a text has, in any script. */
export function countWords(text) {
  let count = 0;
  for (const { isWordLike } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
    count += isWordLike;
  }
  return count;
}

/**
 * @typedef {object} Seen
 * @property {number} tokens of the whole text
 * @property {number} before tokens before the caret
 * @property {number} room tokens that the model reads before it writes
 * @property {number} from where the part begins that it reads, in code units
 */

/** Counts words, and tokens by the server's tokenizer. Sends `words` and `seen`: a number, a `Seen`. */
export class Context extends EventTarget {
  #client;
  #settings;
  #failed;
  #timer = null;
  #asked = null;
  #lengths = new Map();

  /**
   * @param client asks the server.
   * @param settings how continuations are written.
   * @param failed called with the error of a request.
   */
  constructor(client, settings, failed) {
    super();
    this.#client = client;
    this.#settings = settings;
    this.#failed = failed;
  }

  /** Return how many tokens a continuation may have, and how many the model reads before it. */
  async room(signal) {
    const { model, length } = this.#settings.values;
    if (!this.#lengths.has(model)) await this.#tokenize(model, "", signal);
    const longest = this.#lengths.get(model);
    const written = Math.min(length, longest - 1);
    return { written, read: longest - written };
  }

  /** Count soon, when nothing changes for a moment. */
  update(text, caret) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#count(text, caret), PAUSE);
  }

  async #count(text, caret) {
    this.#asked?.abort();
    this.#asked = new AbortController();
    const { signal } = this.#asked;
    const { model } = this.#settings.values;
    this.dispatchEvent(new CustomEvent("words", { detail: countWords(text) }));
    if (!model) return;
    try {
      const whole = await this.#tokenize(model, text, signal);
      // A token at the caret may be cut there.
      const isWhole = caret === text.length;
      const before = isWhole ? whole : await this.#tokenize(model, text.slice(0, caret), signal);
      const { read: room } = await this.room(signal);
      const from = seenFrom(before.starts, room);
      const detail = { tokens: whole.tokens.length, before: before.tokens.length, room, from };
      this.dispatchEvent(new CustomEvent("seen", { detail }));
    } catch (error) {
      if (error.name !== "AbortError") this.#failed(error);
    }
  }

  async #tokenize(model, text, signal) {
    const found = await this.#client.tokenize(model, text, signal);
    this.#lengths.set(model, found.longest);
    return found;
  }
}
