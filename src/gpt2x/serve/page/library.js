/** The list of documents: opens and deletes them. */

import { countWords } from "./context.js";
import { titleOf } from "./documents.js";

/**
 * Show the documents in a list.
 *
 * @param list the element that holds it.
 * @param docs the documents; see documents.js.
 * @param openId the one that is open.
 * @param actions `open` and `remove`, called with a document.
 */
export function showLibrary(list, docs, openId, { open, remove }) {
  list.replaceChildren(
    ...docs.map((doc) => {
      const title = titleOf(doc);
      const opener = button("open", title, () => open(doc));
      opener.append(facts(doc));
      if (doc.id === openId) opener.setAttribute("aria-current", "true");
      const remover = button("remove", "Delete", () => remove(doc));
      remover.ariaLabel = `Delete ${title}`;
      const entry = document.createElement("li");
      entry.append(opener, remover);
      return entry;
    }),
  );
}

function button(kind, text, act) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = kind;
  const label = document.createElement("span");
  label.textContent = text;
  element.append(label);
  element.addEventListener("click", act);
  return element;
}

function facts({ text, changed }) {
  const element = document.createElement("small");
  const count = countWords(text);
  const when = new Date(changed).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" });
  element.textContent = `${count} ${count === 1 ? "word" : "words"} · ${when}`;
  return element;
}
