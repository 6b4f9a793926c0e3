/**
 * Who wrote which part of a text.
 *
 * Ranges are pairs [start, end) in UTF-16 code units, in order and apart from one another: what the
 * model wrote. The person wrote all else.
 */

/** Characters of earlier states of a text that are remembered, so that undo restores them. */
const REMEMBERED = 4_000_000;

const isHigh = (text, place) => (text.charCodeAt(place) & 0xfc00) === 0xd800;

/**
 * Return the change that turns one text into another: where it starts, and how many code units were
 * removed and inserted there. Where several fit ("aa" to "aaa"), it is the one that ends at the caret.
 */
export function difference(before, after, caret = after.length) {
  const shorter = Math.min(before.length, after.length);
  let same = 0; // code units at the end
  const extend = (most) => {
    while (same < most && before[before.length - 1 - same] === after[after.length - 1 - same]) same++;
  };
  extend(Math.min(shorter, after.length - caret));
  let start = 0;
  while (start < shorter - same && before[start] === after[start]) start++;
  extend(shorter - start);
  // Both halves of a surrogate pair belong to the same person.
  if (start > 0 && isHigh(after, start - 1)) start--;
  if (same > 0 && isHigh(after, after.length - same - 1)) same--;
  return { start, removed: before.length - same - start, inserted: after.length - same - start };
}

/** Return the ranges after a change, whose new text is the model's or the person's. */
export function edited(ranges, { start, removed, inserted }, isModel) {
  const shift = inserted - removed;
  const found = [];
  for (const [from, to] of ranges) {
    found.push([from, Math.min(to, start)]);
    found.push([Math.max(from, start + removed) + shift, to + shift]);
  }
  if (isModel) found.push([start, start + inserted]);
  return joined(found);
}

/** Return ranges in order, without empty ones, those that touch as one. */
function joined(ranges) {
  const found = [];
  for (const [from, to] of ranges.filter(([from, to]) => from < to).sort((a, b) => a[0] - b[0])) {
    const last = found.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else found.push([from, to]);
  }
  return found;
}

/** Return whether a value from elsewhere gives the ranges of a text of so many code units. */
export function areRanges(value, length) {
  let last = 0;
  const isNext = (range) => {
    if (!Array.isArray(range) || range.length !== 2 || !range.every(Number.isInteger)) return false;
    const isInOrder = last <= range[0] && range[0] < range[1] && range[1] <= length;
    last = range[1];
    return isInOrder;
  };
  return Array.isArray(value) && value.every(isNext);
}

/**
 * Return the text's parts that look alike, in order.
 *
 * @param length of the text.
 * @param ranges what the model wrote.
 * @param seenFrom where the part begins that the model still reads.
 */
export function segments(length, ranges, seenFrom) {
  const cuts = new Set([0, length, Math.min(seenFrom, length), ...ranges.flat()]);
  const places = [...cuts].sort((a, b) => a - b);
  let next = 0; // the first range that does not end before the part
  return places.slice(1).map((end, index) => {
    const start = places[index];
    while (next < ranges.length && ranges[next][1] <= start) next++;
    return { start, end, isModel: ranges[next]?.[0] <= start, isSeen: start >= seenFrom };
  });
}

/** The ranges of one text while it is edited; undo and redo bring back those of the earlier text. */
export class Authorship {
  #earlier = new Map();
  #size = 0;

  constructor(text, ranges) {
    this.text = text;
    this.ranges = ranges;
    this.#remember();
  }

  /**
   * Follow a change of the text.
   *
   * @param text after it.
   * @param caret after it.
   * @param isModel whether the model wrote what is new.
   * @param isUndo whether undo or redo made it.
   */
  follow(text, caret, isModel, isUndo) {
    const change = difference(this.text, text, caret);
    const known = isUndo ? this.#earlier.get(text) : undefined;
    this.ranges = known ?? edited(this.ranges, change, isModel);
    this.text = text;
    this.#remember();
  }

  #remember() {
    this.#size -= this.#earlier.delete(this.text) ? this.text.length : 0;
    this.#earlier.set(this.text, this.ranges);
    this.#size += this.text.length;
    for (const text of this.#earlier.keys()) {
      if (this.#size <= REMEMBERED || this.#earlier.size === 1) return;
      this.#earlier.delete(text);
      this.#size -= text.length;
    }
  }
}
