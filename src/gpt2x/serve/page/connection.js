/** Whether the server answers. While it is away it is asked for again, less and less often. */

import { AwayError, ServerError } from "./client.js";

const FIRST = 1000; // milliseconds
const LONGEST = 15_000;

/** Sends `away` and `back`. */
export class Connection extends EventTarget {
  #client;
  #timer = null;
  #wait = FIRST;

  constructor(client) {
    super();
    this.#client = client;
    addEventListener("online", () => this.#timer !== null && this.#try());
    addEventListener("offline", () => this.lost());
  }

  get isAway() {
    return this.#timer !== null;
  }

  /** Take note of a request that failed; return whether the server is away. */
  failed(error) {
    const isAway = error instanceof AwayError || (error instanceof ServerError && error.status === 503);
    if (isAway) this.lost();
    return isAway;
  }

  /** The server is away: ask until it is back. */
  lost() {
    if (this.#timer !== null) return;
    this.#wait = FIRST;
    this.#later();
    this.dispatchEvent(new Event("away"));
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#try(), this.#wait);
    this.#wait = Math.min(LONGEST, this.#wait * 1.5);
  }

  async #try() {
    if (!(await this.#client.isReady())) return this.#later();
    clearTimeout(this.#timer);
    this.#timer = null;
    this.dispatchEvent(new Event("back"));
  }
}
