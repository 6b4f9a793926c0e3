/** Links that carry a document and settings behind their `#`, which browsers do not send to servers. */

import { areRanges } from "./ranges.js";
import { valid } from "./settings.js";

const PREFIX = "#d=";
const MOST = 8_000_000; // bytes that a link may unfold to

/**
 * @typedef {object} Shared
 * @property {string} title
 * @property {string} text
 * @property {[number, number][]} ranges
 * @property {number} caret in code units
 * @property {number|null} attempt of the continuations that are shown there; null for none
 * @property {object} settings
 */

/** Return the part of an address that carries something shared; throws an Error if it is too long. */
export async function fold(shared) {
  const bytes = new TextEncoder().encode(JSON.stringify(shared));
  if (bytes.length > MOST) throw new Error("The document is too long for a link.");
  const folded = await through(new CompressionStream("deflate-raw"), bytes);
  const text = Array.from(folded, (byte) => String.fromCharCode(byte)).join("");
  return PREFIX + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * Return what an address carries behind its `#`, or null if that is not a link of this page.
 *
 * Throws an Error if it is damaged.
 *
 * @returns {Promise<Shared|null>}
 */
export async function unfold(hash) {
  if (!hash.startsWith(PREFIX)) return null;
  const text = atob(hash.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/"));
  const folded = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const bytes = await through(new DecompressionStream("deflate-raw"), folded);
  return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
}

function checked({ title, text, ranges, caret, attempt, settings }) {
  const isWhole =
    typeof title === "string" &&
    typeof text === "string" &&
    areRanges(ranges, text.length) &&
    Number.isInteger(caret) &&
    (attempt === null || (Number.isInteger(attempt) && attempt >= 0 && attempt < 10_000));
  if (!isWhole) throw new Error("The link does not hold a document.");
  const place = Math.min(Math.max(caret, 0), text.length);
  return { title, text, ranges, caret: place, attempt, settings: valid(settings) };
}

async function through(transform, bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    size += value.length;
    if (size > MOST) throw new Error("The link holds too much.");
  }
}
