/** How continuations are written; remembered by the browser. */

const KEY = "gpt2x.settings";

/** The settings that are numbers: what they are at first, and what they may be. */
export const NUMBERS = {
  temperature: { first: 0.8, min: 0, max: 2, step: 0.05 },
  topP: { first: 0.95, min: 0.05, max: 1, step: 0.01 },
  topK: { first: 0, min: 0, max: 1000, step: 1 }, // 0 for all
  length: { first: 24, min: 1, max: 200, step: 1 }, // tokens
  time: { first: 10, min: 1, max: 120, step: 1 }, // seconds
  seed: { first: 1, min: 0, max: Number.MAX_SAFE_INTEGER - 10_000, step: 1 },
};

/** Return settings in their limits; what is missing or not a number is as at first. */
export function valid(given) {
  const found = { model: typeof given?.model === "string" ? given.model : "" };
  for (const [name, { first, min, max, step }] of Object.entries(NUMBERS)) {
    const value = Number.isFinite(given?.[name]) ? given[name] : first;
    const limited = Math.min(max, Math.max(min, value));
    found[name] = step === 1 ? Math.round(limited) : limited;
  }
  return found;
}

/** The settings, and the form that changes them. Sends `change`. */
export class Settings extends EventTarget {
  #form;
  #storage;
  #models = null; // not known before the server tells

  /**
   * @param form whose fields have the settings' names.
   * @param storage that remembers them.
   */
  constructor(form, storage) {
    super();
    this.#form = form;
    this.#storage = storage;
    for (const [name, { min, max, step }] of Object.entries(NUMBERS)) {
      Object.assign(form.elements.namedItem(name), { min, max, step });
    }
    form.addEventListener("input", () => this.#read());
    form.addEventListener("change", () => this.#show());
    this.values = valid(remembered(storage));
    this.#show();
  }

  /** Take other settings; a model that is known not to be served becomes the first one. */
  set(values) {
    this.values = valid(values);
    const isKept = this.#models === null || this.#models.includes(this.values.model);
    if (!isKept) this.values.model = this.#models[0] ?? "";
    this.#remember();
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  /** Offer models; the first is taken if the one that was chosen is not among them. */
  offer(models) {
    const { model } = this.#form.elements;
    this.#models = models;
    model.replaceChildren(...models.map((name) => new Option(name, name)));
    if (models.includes(this.values.model)) model.value = this.values.model;
    else this.set(this.values);
  }

  #read() {
    const { model } = this.#form.elements;
    const values = { model: this.#models === null ? this.values.model : model.value };
    for (const name of Object.keys(NUMBERS)) {
      const text = this.#form.elements.namedItem(name).value;
      values[name] = text === "" ? this.values[name] : Number(text);
    }
    this.values = valid(values);
    this.#remember();
    this.#showOutputs();
    this.dispatchEvent(new Event("change"));
  }

  #remember() {
    try {
      this.#storage.setItem(KEY, JSON.stringify(this.values));
    } catch {
      // The storage is full: they hold until the page is closed.
    }
  }

  #show() {
    for (const [name, value] of Object.entries(this.values)) {
      this.#form.elements.namedItem(name).value = value;
    }
    this.#showOutputs();
  }

  #showOutputs() {
    for (const output of this.#form.querySelectorAll("output")) {
      output.value = this.values[output.htmlFor[0]];
    }
  }
}

function remembered(storage) {
  try {
    return JSON.parse(storage.getItem(KEY));
  } catch {
    return null;
  }
}
