/**
 * The text that is written: a textarea, over a mirror with the same metrics that shows who wrote what
 * and which part the model still reads.
 */

import { Authorship, segments } from "./ranges.js";

/** Pixels of the window above and below the caret where header and footer may be. */
const ABOVE = 80;
const BELOW = 140;

const CLASSES = { isModel: "by-model", isUnseen: "unseen" };

/** Sends `change` after the text has changed, and `move` when the caret may have moved. */
export class Editor extends EventTarget {
  #area;
  #mirror;
  #authorship = new Authorship("", []);
  #seenFrom = 0;
  #isInserting = false;

  /**
   * @param area the textarea.
   * @param mirror the element behind it.
   */
  constructor(area, mirror) {
    super();
    this.#area = area;
    this.#mirror = mirror;
    area.addEventListener("input", (event) => this.#changed(event.inputType ?? ""));
    document.addEventListener("selectionchange", () => {
      if (document.activeElement === area) this.dispatchEvent(new Event("move"));
    });
  }

  get text() {
    return this.#authorship.text;
  }

  /** What the model wrote; see ranges.js. */
  get ranges() {
    return this.#authorship.ranges;
  }

  /** Where the caret stands: the end of what is selected. */
  get caret() {
    return this.#area.selectionEnd;
  }

  set caret(place) {
    this.#area.setSelectionRange(place, place);
  }

  /** Show another text. What was undone before belongs to the text before. */
  open(text, ranges, caret = text.length) {
    this.#authorship = new Authorship(text, ranges);
    this.#seenFrom = 0;
    this.#area.value = text;
    this.caret = caret;
    this.#render();
    this.#reveal();
  }

  /** Dim the text before a place. */
  dim(seenFrom) {
    if (seenFrom === this.#seenFrom) return;
    this.#seenFrom = seenFrom;
    this.#render();
  }

  /** Write a text of the model's behind the caret, as one step of undo. */
  insert(text) {
    this.focus();
    this.caret = this.caret; // what is selected stays
    this.#isInserting = true;
    // The only way that keeps the browser's own undo.
    if (!document.execCommand("insertText", false, text)) {
      this.#area.setRangeText(text, this.caret, this.caret, "end");
      this.#changed("insertText");
    }
    this.#isInserting = false;
  }

  undo() {
    this.focus();
    document.execCommand("undo");
  }

  redo() {
    this.focus();
    document.execCommand("redo");
  }

  /** Tell assistive technology which entry of a listbox is active; null for none. */
  pointTo(id) {
    if (id === null) this.#area.removeAttribute("aria-activedescendant");
    else this.#area.setAttribute("aria-activedescendant", id);
  }

  focus() {
    this.#area.focus({ preventScroll: true });
  }

  /** Return the caret's rectangle in the window. */
  caretBox() {
    const range = document.createRange();
    const [node, offset] = this.#nodeAt(this.caret);
    range.setStart(node, offset);
    range.collapse(true);
    const boxes = range.getClientRects();
    return boxes[boxes.length - 1] ?? this.#mirror.getBoundingClientRect();
  }

  #changed(kind) {
    const isUndo = kind.startsWith("history");
    this.#authorship.follow(this.#area.value, this.caret, this.#isInserting, isUndo);
    this.#render();
    this.#reveal();
    this.dispatchEvent(new Event("change"));
  }

  /** Scroll so that the caret is seen; by themselves browsers leave it under the footer. */
  #reveal() {
    const { top, bottom } = this.caretBox();
    const over = Math.max(0, bottom + BELOW - innerHeight);
    const under = Math.min(0, top - ABOVE);
    if (over || under) scrollBy(0, over || under);
  }

  #nodeAt(place) {
    for (const span of this.#mirror.children) {
      const node = span.firstChild;
      if (place <= node.length) return [node, place];
      place -= node.length;
    }
    return [this.#mirror, 0];
  }

  #render() {
    const { text, ranges } = this.#authorship;
    const parts = segments(text.length, ranges, this.#seenFrom).map((part) => {
      const span = document.createElement("span");
      span.textContent = text.slice(part.start, part.end);
      span.classList.toggle(CLASSES.isModel, part.isModel);
      span.classList.toggle(CLASSES.isUnseen, !part.isSeen);
      return span;
    });
    // A last empty line has height in a textarea only.
    const end = document.createElement("span");
    end.textContent = "\u200b";
    this.#mirror.replaceChildren(...parts, end);
  }
}
