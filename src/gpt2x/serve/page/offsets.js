/** Places in texts: the server counts Unicode code points, a browser UTF-16 code units. */

/** Return places in code units from places in code points, which must be in order. */
export function toUnits(text, places) {
  let units = 0;
  let points = 0;
  return places.map((place) => {
    for (; points < place && units < text.length; points++) {
      units += text.codePointAt(units) > 0xffff ? 2 : 1;
    }
    return units;
  });
}

/**
 * Return where the part begins that the model reads.
 *
 * @param starts of the tokens before the caret, in code units.
 * @param room tokens that the model reads.
 */
export function seenFrom(starts, room) {
  return starts.length <= room ? 0 : starts[starts.length - room];
}
