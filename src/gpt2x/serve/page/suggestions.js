/** Three continuations of the text before the caret, in a listbox that fills while they are written. */

const COUNT = 3;
/** Code units of the prompt that are sent for each token that the model reads: more than enough. */
const UNITS = 64;

/**
 * Return the prompt of a text, its end if it is very long, and whether a space behind it was left out:
 * a token of GPT-2 begins with the space before its word, so that after one it would write a second.
 *
 * @param read tokens that the model reads.
 */
export function promptOf(text, read) {
  const hasSpace = /\S $/.test(text.slice(-2));
  const end = hasSpace ? text.length - 1 : text.length;
  const prompt = text.slice(Math.max(0, end - UNITS * read), end);
  return { prompt: prompt.replace(/^[\udc00-\udfff]/, ""), hasSpace }; // no half of a pair
}

/** Asks for continuations and shows them. Sends `open`, `ready` and `close`. */
export class Suggestions extends EventTarget {
  #editor;
  #list;
  #client;
  #context;
  #settings;
  #failed;
  #asked = null;
  #place = null;
  #entries = [];
  #active = -1;

  /**
   * @param editor that the text is written in.
   * @param list the listbox.
   * @param client asks the server.
   * @param context knows how much the model reads.
   * @param settings how continuations are written.
   * @param failed called with the error of a request.
   */
  constructor(editor, list, { client, context, settings, failed }) {
    super();
    this.#editor = editor;
    this.#list = list;
    this.#client = client;
    this.#context = context;
    this.#settings = settings;
    this.#failed = failed;
    list.addEventListener("click", (event) => this.choose(this.#indexOf(event.target)));
    list.addEventListener("pointermove", (event) => this.#activate(this.#indexOf(event.target)));
  }

  get isOpen() {
    return this.#asked !== null;
  }

  /** The number of the continuations that were last asked for at this place; null for none. */
  get attempt() {
    return this.#place?.key === this.#key() ? this.#place.attempt : null;
  }

  /** Ask for continuations, for others if there were some at this place. */
  ask(attempt = this.attempt === null ? 0 : this.attempt + 1) {
    this.#asked?.abort();
    this.#asked = new AbortController();
    this.#place = { key: this.#key(), attempt };
    this.#entries = Array.from({ length: COUNT }, () => ({ text: "", isDone: false }));
    this.#list.replaceChildren(...this.#entries.map((_, index) => option(index)));
    this.#list.setAttribute("aria-busy", "true");
    this.#activate(0);
    this.dispatchEvent(new Event("open"));
    return this.#write(this.#editor.text.slice(0, this.#editor.caret), attempt, this.#asked);
  }

  /** Drop the continuations, and what is still written of them. */
  drop() {
    if (!this.isOpen) return;
    this.#asked.abort();
    this.#asked = null;
    this.#activate(-1);
    this.dispatchEvent(new Event("close"));
  }

  /** Make another entry the active one. */
  move(by) {
    this.#activate((this.#active + by + COUNT) % COUNT);
  }

  /** Write an entry into the text, by default the active one, as far as it has come. */
  choose(index = this.#active) {
    const entry = this.#entries[index];
    if (!this.isOpen || !entry?.text) return;
    this.drop();
    this.#editor.insert(entry.text);
  }

  async #write(text, attempt, asked) {
    const { temperature, topP, topK, time, seed, model } = this.#settings.values;
    const clock = setTimeout(() => asked.abort("late"), 1000 * time);
    try {
      const { written, read } = await this.#context.room(asked.signal);
      const { prompt, hasSpace } = promptOf(text, read);
      const body = {
        model,
        // A text that is empty begins as the texts did that the model learnt from.
        prompt: prompt || "<|endoftext|>",
        n: COUNT,
        max_tokens: written,
        temperature,
        top_p: topP,
        top_k: topK,
        seed: seed + attempt,
        truncate_prompt_tokens: read,
      };
      for await (const { index, text, end } of this.#client.complete(body, asked.signal)) {
        this.#add(index, text, end !== null, hasSpace);
      }
    } catch (error) {
      if (asked === this.#asked && asked.signal.reason !== "late") {
        this.drop();
        this.#failed(error);
      }
    } finally {
      clearTimeout(clock);
    }
    if (asked === this.#asked) this.#end(asked.signal.aborted);
  }

  #add(index, text, isDone, hasSpace) {
    const entry = this.#entries[index];
    entry.text += entry.text === "" && hasSpace ? text.replace(/^ /, "") : text;
    entry.isDone = isDone;
    this.#show(index);
  }

  #end(isLate) {
    this.#entries.forEach((entry, index) => {
      entry.isDone = true;
      this.#show(index, isLate ? "Nothing came in this time." : "The text ends here.");
    });
    this.#list.setAttribute("aria-busy", "false");
    this.dispatchEvent(new Event("ready"));
  }

  #show(index, ifEmpty = "") {
    const { text, isDone } = this.#entries[index];
    const item = this.#list.children[index];
    const shown = text || ifEmpty;
    item.querySelector(".text").textContent = shown;
    item.ariaLabel = shown.trim() ? null : nameOf(index); // its text is its name, if there is one
    item.classList.toggle("done", isDone);
    item.classList.toggle("empty", isDone && !text);
  }

  #activate(index) {
    if (index < 0 && this.isOpen) return;
    this.#active = index;
    for (const [place, item] of [...this.#list.children].entries()) {
      item.setAttribute("aria-selected", String(place === index));
    }
    this.#editor.pointTo(index < 0 ? null : this.#list.children[index].id);
  }

  #indexOf(element) {
    return [...this.#list.children].indexOf(element.closest("[role=option]"));
  }

  /** What the continuations depend on, but for the attempt. */
  #key() {
    const { time, ...others } = this.#settings.values;
    return JSON.stringify([this.#editor.text.slice(0, this.#editor.caret), others]);
  }
}

const nameOf = (index) => `Continuation ${index + 1}`;

function option(index) {
  const item = document.createElement("li");
  item.ariaLabel = nameOf(index);
  item.id = `suggestion-${index + 1}`;
  item.setAttribute("role", "option");
  const number = document.createElement("kbd");
  number.textContent = index + 1;
  number.ariaHidden = "true";
  const text = document.createElement("span");
  text.className = "text";
  item.append(number, text);
  return item;
}
