/** What the page says of itself: a line to read, and a live region for screen readers. */

export class Notices {
  #notice;
  #live;
  #home;

  /**
   * @param notice the element with the line, a button for what can be done, and one to close it.
   * @param live the live region.
   * @param home gets the focus when a button that has it goes.
   */
  constructor(notice, live, home) {
    this.#notice = notice;
    this.#live = live;
    this.#home = home;
    notice.querySelector(".close").addEventListener("click", () => this.hide());
  }

  /** Show a line until the next or until it is closed; `action` has a `label` and a function `act`. */
  show(text, action = null) {
    this.#notice.querySelector("p").textContent = text;
    const old = this.#notice.querySelector(".act");
    const button = old.cloneNode(); // without what the old one did
    button.textContent = action?.label ?? "";
    button.hidden = action === null;
    button.addEventListener("click", () => {
      this.hide();
      action.act();
    });
    old.replaceWith(button);
    this.#notice.hidden = false;
    this.say(action === null ? text : `${text} Button: ${action.label}.`);
  }

  hide() {
    if (this.#notice.contains(document.activeElement)) this.#home.focus({ preventScroll: true });
    this.#notice.hidden = true;
  }

  /** Tell a screen reader. */
  say(text) {
    // The same words twice would not be read again.
    this.#live.textContent = this.#live.textContent === text ? `${text}\u00a0` : text;
  }
}
