/** The API key: kept until the window closes, or in the browser if the person wants that. */

const NAME = "gpt2x.key";

export class Key {
  #dialog;

  /** @param dialog asks for it. */
  constructor(dialog) {
    this.#dialog = dialog;
    this.value = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? "";
  }

  /** Ask for the key; return whether one was given. */
  async ask() {
    if (this.#dialog.open) return false;
    const { key, "keep-key": keep } = this.#dialog.querySelector("form").elements;
    key.value = "";
    keep.checked = localStorage.getItem(NAME) !== null;
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    await new Promise((done) => this.#dialog.addEventListener("close", done, { once: true }));
    if (this.#dialog.returnValue !== "use") return false;
    this.value = key.value.trim();
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
    (keep.checked ? localStorage : sessionStorage).setItem(NAME, this.value);
    return true;
  }
}
