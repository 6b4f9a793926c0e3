/** The server's API, as the page uses it. */

import { toUnits } from "./offsets.js";

/** An answer that is an error; `status` is HTTP's, `wait` the seconds after which to ask again. */
export class ServerError extends Error {
  constructor(status, message, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** There is no answer: the server or the network is away. */
export class AwayError extends Error {}

/** Asks the server that the page came from. */
export class Client {
  #key;

  /** @param key returns the API key that is sent; an empty one is not. */
  constructor(key) {
    this.#key = key;
  }

  /** Return the names of the models that are served. */
  async models() {
    const answer = await this.#ask("v1/models");
    return (await answer.json()).data.map((model) => model.id);
  }

  /** Return whether requests are answered. */
  async isReady() {
    try {
      return (await this.#ask("health")).ok;
    } catch {
      return false;
    }
  }

  /** Return the tokens of a text, the code units at which they start, and how many the model reads. */
  async tokenize(model, text, signal) {
    const answer = await (await this.#ask("tokenize", { model, text }, signal)).json();
    const starts = toUnits(text, answer.offsets.map(([start]) => start));
    return { tokens: answer.tokens, starts, longest: answer.max_model_len };
  }

  /**
   * Return the logarithm of each token's probability after those before it, and of the likeliest ones'
   * there; null for the first.
   *
   * @returns {Promise<{chosen: (number|null)[], likeliest: (Object<string, number>|null)[]}>}
   */
  async score(model, tokens, alternatives, signal) {
    const body = { model, prompt: tokens, echo: true, max_tokens: 0, logprobs: alternatives };
    const answer = await (await this.#ask("v1/completions", body, signal)).json();
    const { token_logprobs: chosen, top_logprobs: likeliest } = answer.choices[0].logprobs;
    return { chosen, likeliest };
  }

  /** Yield the pieces of continuations as they are written: `index`, `text`, and `end` or null. */
  async *complete(body, signal) {
    const answer = await this.#ask("v1/completions", { ...body, stream: true }, signal);
    try {
      for await (const data of events(answer.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(500, chunk.error.message);
        for (const { index, text, finish_reason: end } of chunk.choices) yield { index, text, end };
      }
    } catch (error) {
      throw error instanceof TypeError ? new AwayError(error.message) : error;
    }
    throw new AwayError("The stream ended early.");
  }

  async #ask(path, body, signal) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (this.#key()) headers.Authorization = `Bearer ${this.#key()}`;
    const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
    let answer;
    try {
      answer = await fetch(new URL(path, document.baseURI), { ...options, headers, signal });
    } catch (error) {
      throw error.name === "AbortError" ? error : new AwayError(error.message);
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => null);
    const wait = Number(answer.headers.get("Retry-After")) || null;
    throw new ServerError(answer.status, said?.error?.message ?? answer.statusText, wait);
  }
}

/** Yield the data of each server-sent event of a stream of bytes. */
export async function* events(stream) {
  let rest = "";
  for await (const piece of texts(stream)) {
    const lines = (rest + piece).split(/\r\n|\n/);
    // An event's data is one line here; a line may have come in part.
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  }
}

/** Yield a stream's text; `for await` over a stream itself is not in every browser. */
async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}
