/** A view of the text that shades each token by its likelihood and tells what was likelier. */

const ALTERNATIVES = 5;
/** The least likelihoods of the shades, from none to the darkest. */
const SHADES = [0.5, 0.2, 0.05, 0.01, 0.001];

/** Return the number of a likelihood's shade: 0 for what was expected. */
export function shadeOf(likelihood) {
  const shade = SHADES.findIndex((least) => likelihood >= least);
  return shade < 0 ? SHADES.length : shade;
}

/**
 * Return the windows by which a long text is scored: each of at most `size` tokens, the second half
 * of which is new, so that a token always stands behind half a window.
 *
 * @param {number} size at least 1
 * @returns {{start: number, end: number, from: number}[]} `from` is the first token that is new
 */
export function windows(count, size) {
  const found = [];
  for (let from = 0; from < count; ) {
    const start = Math.max(0, from - Math.floor(size / 2));
    const end = Math.min(count, start + size);
    found.push({ start, end, from });
    from = end;
  }
  return found;
}

const percent = (likelihood) => {
  const digits = likelihood >= 0.1 ? 0 : likelihood >= 0.001 ? 1 : 3;
  return `${(100 * likelihood).toFixed(digits)}%`;
};

/** Show a token's spaces and line ends. */
const visible = (token) => token.replace(/\n/g, "⏎").replace(/^ | $/g, "␣") || "∅";

/** The tokens are a listbox: arrows, Home and End move in it, and the mouse does. Sends `leave`. */
export class Probabilities extends EventTarget {
  #list;
  #panel;
  #client;
  #failed;
  #asked = null;
  #tokens = [];
  #active = -1;

  /**
   * @param list the listbox.
   * @param panel the element that tells of one token.
   * @param client asks the server.
   * @param failed called with the error of a request.
   */
  constructor(list, panel, client, failed) {
    super();
    this.#list = list;
    this.#panel = panel;
    this.#client = client;
    this.#failed = failed;
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focus", () => this.#activate(Math.max(0, this.#active)));
    list.addEventListener("blur", () => this.#activate(-1));
    for (const kind of ["pointerover", "click"]) {
      list.addEventListener(kind, ({ target }) => {
        if (target.role === "option") this.#activate([...list.children].indexOf(target));
      });
    }
    list.addEventListener("pointerleave", () => {
      if (document.activeElement !== list) this.#activate(-1);
    });
  }

  /** Show a text, and score it from its beginning. */
  async show(model, text) {
    this.clear();
    this.#asked = new AbortController();
    const { signal } = this.#asked;
    this.#list.setAttribute("aria-busy", "true");
    try {
      const { tokens, starts, longest } = await this.#client.tokenize(model, text, signal);
      this.#tokens = starts.map((start, index) => ({ start, text: text.slice(start, starts[index + 1]) }));
      this.#list.replaceChildren(...this.#tokens.map(item));
      for (const { start, end, from } of windows(tokens.length, longest)) {
        const part = tokens.slice(start, end);
        this.#add(start, from, await this.#client.score(model, part, ALTERNATIVES, signal));
      }
      this.#list.setAttribute("aria-busy", "false");
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
    }
  }

  clear() {
    this.#asked?.abort();
    this.#activate(-1);
    this.#tokens = [];
    this.#list.replaceChildren();
  }

  #add(start, from, { chosen, likeliest }) {
    for (let index = from; index < start + chosen.length; index++) {
      const score = chosen[index - start];
      if (score === null) continue;
      const token = this.#tokens[index];
      token.likelihood = Math.exp(score);
      token.likeliest = Object.entries(likeliest[index - start])
        .map(([text, value]) => ({ text, likelihood: Math.exp(value) }))
        .sort((a, b) => b.likelihood - a.likelihood);
      this.#list.children[index].dataset.shade = shadeOf(token.likelihood);
    }
  }

  #key(event) {
    const last = this.#tokens.length - 1;
    const places = {
      ArrowRight: Math.min(last, this.#active + 1),
      ArrowDown: Math.min(last, this.#active + 1),
      ArrowLeft: Math.max(0, this.#active - 1),
      ArrowUp: Math.max(0, this.#active - 1),
      Home: 0,
      End: last,
    };
    if (event.key in places) this.#activate(places[event.key]);
    else if (event.key === "Escape" || event.key === "Enter") {
      const place = this.#tokens[this.#active]?.start;
      this.dispatchEvent(new CustomEvent("leave", { detail: place ?? null }));
    } else return;
    event.preventDefault();
  }

  #activate(index) {
    this.#list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = this.#tokens[index] ? index : -1;
    const element = this.#list.children[this.#active];
    this.#panel.hidden = !element;
    this.#list.removeAttribute("aria-activedescendant");
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    element.ariaLabel = description(this.#tokens[index]);
    this.#list.setAttribute("aria-activedescendant", element.id);
    this.#tell(this.#tokens[index], element);
  }

  #tell({ text, likelihood, likeliest }, element) {
    this.#panel.replaceChildren(row(text, likelihood, "chosen"));
    for (const other of likeliest ?? []) {
      this.#panel.append(row(other.text, other.likelihood, other.text === text ? "same" : ""));
    }
    const box = element.getClientRects()[0] ?? element.getBoundingClientRect();
    element.scrollIntoView({ block: "nearest" });
    const parent = this.#panel.offsetParent.getBoundingClientRect();
    const left = Math.min(box.left - parent.left, parent.width - this.#panel.offsetWidth);
    this.#panel.style.setProperty("--left", `${Math.max(0, left)}px`);
    this.#panel.style.setProperty("--top", `${box.bottom - parent.top}px`);
  }
}

function item({ text }, index) {
  const element = document.createElement("span");
  element.id = `token-${index}`;
  element.role = "option";
  element.setAttribute("aria-selected", "false");
  element.textContent = text;
  if (text.trim() === "") element.ariaLabel = visible(text); // else it has no name
  return element;
}

function description({ text, likelihood, likeliest }) {
  if (likelihood === undefined) return `${visible(text)}: the first token`;
  const others = likeliest.map((other) => `${visible(other.text)} ${percent(other.likelihood)}`);
  return `${visible(text)}: ${percent(likelihood)}. Likeliest: ${others.join(", ")}.`;
}

function row(text, likelihood, kind) {
  const element = document.createElement("div");
  element.className = `row ${kind}`;
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.style.setProperty("--share", likelihood ?? 0);
  const name = document.createElement("span");
  name.textContent = visible(text);
  const share = document.createElement("span");
  share.textContent = likelihood === undefined ? "first" : percent(likelihood);
  element.append(bar, name, share);
  return element;
}
