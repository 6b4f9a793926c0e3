/** Asking for continuations and choosing among them: keys, buttons, and where the list appears. */

/** The share of a phone's window that the popup at its bottom leaves free at least. */
const FREE = 0.38;

/** Ties the suggestions to the editor's keys, the buttons and the popup. */
export class Writing {
  #editor;
  #suggestions;
  #popup;
  #notices;
  #canLeave = false;

  /**
   * @param editor that the text is written in.
   * @param suggestions the continuations.
   * @param elements `area`, the textarea; `popup`; `ask`, `others` and `drop`, the buttons.
   * @param notices tells what happens.
   */
  constructor(editor, suggestions, { area, popup, ask, others, drop }, notices) {
    this.#editor = editor;
    this.#suggestions = suggestions;
    this.#popup = popup;
    this.#notices = notices;
    area.addEventListener("keydown", (event) => this.#key(event));
    area.addEventListener("blur", () => (this.#canLeave = false));
    editor.addEventListener("change", () => suggestions.drop());
    editor.addEventListener("move", () => suggestions.attempt === null && suggestions.drop());
    suggestions.addEventListener("open", () => this.#open());
    suggestions.addEventListener("close", () => (popup.hidden = true));
    suggestions.addEventListener("ready", () => {
      this.#reveal();
      notices.say("Three continuations are ready. Arrow keys and Enter choose.");
    });
    for (const button of [ask, others]) button.addEventListener("click", (event) => this.#ask(event));
    drop.addEventListener("click", () => suggestions.drop());
    // The text keeps the focus, and a phone its keyboard.
    for (const element of [ask, popup]) {
      element.addEventListener("pointerdown", (event) => event.preventDefault());
      element.addEventListener("mousedown", (event) => event.preventDefault());
    }
    addEventListener("resize", () => this.#place());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && event.target !== area) suggestions.drop();
    });
  }

  #ask(event) {
    // A finger would bring a phone's keyboard, over the suggestions.
    if (event.pointerType !== "touch") this.#editor.focus();
    this.#suggestions.ask();
  }

  #key(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = this.#actOf(event);
    const couldLeave = this.#canLeave;
    this.#canLeave = false;
    if (act === null || (event.key === "Tab" && couldLeave)) return;
    event.preventDefault();
    act();
  }

  /** Return what a key does here, or null. */
  #actOf({ key, shiftKey }) {
    if (shiftKey) return null;
    if (key === "Tab") return () => this.#suggestions.ask();
    if (!this.#suggestions.isOpen) return key === "Escape" ? () => this.#leave() : null;
    const acts = {
      Escape: () => this.#suggestions.drop(),
      ArrowDown: () => this.#suggestions.move(1),
      ArrowUp: () => this.#suggestions.move(-1),
      Enter: () => this.#suggestions.choose(),
      1: () => this.#suggestions.choose(0),
      2: () => this.#suggestions.choose(1),
      3: () => this.#suggestions.choose(2),
    };
    return acts[key] ?? null;
  }

  #leave() {
    this.#canLeave = true;
    this.#notices.say("Tab now leaves the text.");
  }

  #open() {
    this.#popup.hidden = false;
    this.#place();
    this.#reveal();
  }

  /** Scroll so that the end of the text and the popup are seen together. */
  #reveal() {
    const isFixed = getComputedStyle(this.#popup).position === "fixed";
    if (!isFixed) return this.#popup.scrollIntoView({ block: "nearest" });
    const hidden = this.#editor.caretBox().bottom - innerHeight * FREE;
    if (hidden > 0) scrollBy(0, hidden);
  }

  /** Put the popup under the caret; on phones the style sheet puts it at the bottom. */
  #place() {
    if (this.#popup.hidden) return;
    const box = this.#editor.caretBox();
    const parent = this.#popup.offsetParent?.getBoundingClientRect();
    if (!parent) return; // fixed, at the bottom
    const left = Math.min(box.left - parent.left - 12, parent.width - this.#popup.offsetWidth);
    this.#popup.style.setProperty("--left", `${Math.max(-12, left)}px`);
    this.#popup.style.setProperty("--top", `${box.bottom - parent.top + 6}px`);
  }
}
