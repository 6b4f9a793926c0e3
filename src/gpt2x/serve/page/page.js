/** The page: makes its parts and ties them together. */

import { Client, ServerError } from "./client.js";
import { Connection } from "./connection.js";
import { Context } from "./context.js";
import { Desk } from "./desk.js";
import { Documents, newDocument, titleOf } from "./documents.js";
import { Editor } from "./editor.js";
import { download, fileName, markdown } from "./exports.js";
import { Key } from "./key.js";
import { showLibrary } from "./library.js";
import { fold, unfold } from "./link.js";
import { Notices } from "./notices.js";
import { Probabilities } from "./probabilities.js";
import { Settings } from "./settings.js";
import { Suggestions } from "./suggestions.js";
import { Writing } from "./writing.js";

const $ = (id) => document.getElementById(id);

const notices = new Notices($("notice"), $("live"), $("text"));
const key = new Key($("ask-key"));
const client = new Client(() => key.value);
const connection = new Connection(client);
const settings = new Settings($("options"), localStorage);
const editor = new Editor($("text"), $("mirror"));
const documents = new Documents(localStorage);
const desk = new Desk(documents, editor, notices);
const context = new Context(client, settings, failed);
const suggestions = new Suggestions(editor, $("suggestions"), { client, context, settings, failed });
const probabilities = new Probabilities($("tokens"), $("token"), client, failed);
new Writing(
  editor,
  suggestions,
  { area: $("text"), popup: $("popup"), ask: $("continue"), others: $("others"), drop: $("drop") },
  notices,
);

// ---- the server ---------------------------------------------------------------------------------

async function failed(error) {
  if (connection.failed(error)) return;
  if (!(error instanceof ServerError)) throw error;
  if (error.status === 401) return askForKey();
  const wait = error.status === 429 ? ` Try again in ${error.wait ?? 1} s.` : "";
  notices.show(error.message + wait);
}

async function askForKey() {
  if (await key.ask()) await meet();
}

/** Learn which models there are, and count with them. */
async function meet() {
  try {
    settings.offer(await client.models());
    count();
  } catch (error) {
    failed(error);
  }
}

connection.addEventListener("away", () => {
  $("server").hidden = false;
  notices.say($("server").textContent);
});
connection.addEventListener("back", () => {
  $("server").hidden = true;
  notices.say("The server is back.");
  meet();
});

// ---- counts and what the model reads --------------------------------------------------------------

let words = 0;
let seen = null;

function count() {
  context.update(editor.text, editor.caret);
}

function showCounts() {
  const parts = [`${words} ${words === 1 ? "word" : "words"}`];
  if (seen) {
    parts.push(`${seen.tokens} ${seen.tokens === 1 ? "token" : "tokens"}`);
    const isWhole = seen.before <= seen.room;
    parts.push(isWhole ? "the model sees all" : `the model sees the last ${seen.room}`);
  }
  $("counts").textContent = parts.join(" · ");
}

context.addEventListener("words", ({ detail }) => {
  words = detail;
  showCounts();
});
context.addEventListener("seen", ({ detail }) => {
  seen = detail;
  editor.dim(seen.from);
  showCounts();
});
editor.addEventListener("change", count);
editor.addEventListener("move", count);
settings.addEventListener("change", () => {
  suggestions.drop(); // they are not of these settings
  count();
});

// ---- the document ---------------------------------------------------------------------------------

desk.addEventListener("open", () => {
  suggestions.drop();
  showProbabilities(false);
  seen = null;
  showTitle();
  count();
});

function showTitle() {
  const name = titleOf({ ...desk.doc, text: editor.text });
  $("title").value = desk.doc.title;
  $("title").placeholder = name;
  document.title = `${name} · Write with GPT-2`;
}

editor.addEventListener("change", showTitle);
$("title").addEventListener("input", () => desk.entitle($("title").value));
$("title").addEventListener("keydown", ({ key }) => key === "Enter" && editor.focus());
$("undo").addEventListener("click", () => editor.undo());
$("redo").addEventListener("click", () => editor.redo());

function listDocuments() {
  desk.save();
  const open = (doc) => {
    $("library").close();
    desk.open(documents.get(doc.id) ?? doc);
    editor.focus();
  };
  const remove = (doc) => {
    $("library").close();
    desk.delete(doc.id);
  };
  showLibrary($("documents"), documents.list(), desk.doc.id, { open, remove });
  $("library").showModal();
}

$("show-library").addEventListener("click", listDocuments);
$("new").addEventListener("click", () => {
  $("library").close();
  desk.open(newDocument());
  editor.focus();
});

// ---- sharing --------------------------------------------------------------------------------------

$("show-share").addEventListener("click", async () => {
  const { attempt } = suggestions;
  const { text, ranges, caret } = editor;
  const shared = { title: desk.doc.title, text, ranges, caret, attempt, settings: settings.values };
  let hash;
  try {
    hash = await fold(shared);
  } catch (error) {
    return notices.show(`${error.message} Export it instead.`);
  }
  $("link").value = new URL(hash, document.baseURI).href;
  $("share").showModal();
  $("link").select();
});
$("copy").addEventListener("click", async () => {
  $("link").select();
  try {
    await navigator.clipboard.writeText($("link").value);
  } catch {
    document.execCommand("copy"); // pages over plain HTTP have no other way
  }
  $("share").close();
  notices.show("The link is copied.");
});
$("save-text").addEventListener("click", () => {
  download(fileName(titleOf(desk.doc), "txt"), "text/plain", editor.text);
});
$("save-markdown").addEventListener("click", () => {
  const title = titleOf({ ...desk.doc, text: editor.text });
  download(fileName(title, "md"), "text/markdown", markdown(title, editor.text));
});

/** Open what the address carries; return whether it carries something. */
async function openLink() {
  let shared;
  try {
    shared = await unfold(location.hash);
  } catch {
    notices.show("The link is damaged: a part of it may be missing.");
    return false;
  }
  if (shared === null) return false;
  let doc;
  try {
    doc = documents.save(newDocument(shared.text, shared.ranges, shared.title));
  } catch {
    notices.show("The browser's storage is too full for this text: delete another, then reload.");
    return false;
  }
  history.replaceState(null, "", location.pathname + location.search); // a reload makes no second copy
  const own = settings.values;
  settings.set(shared.settings);
  desk.open(doc, shared.caret);
  const back = { label: "Use my settings", act: () => settings.set(own) };
  const { model } = shared.settings;
  const isServed = model === settings.values.model;
  const others = isServed ? "" : ` Its model ${model} is not served here: continuations differ.`;
  notices.show(`This is your copy of a text that was shared, with its settings.${others}`, back);
  if (shared.attempt !== null) suggestions.ask(shared.attempt);
  return true;
}

addEventListener("hashchange", openLink);

// ---- probabilities --------------------------------------------------------------------------------

function showProbabilities(isShown) {
  suggestions.drop();
  $("probabilities").setAttribute("aria-pressed", String(isShown));
  $("sheet").hidden = isShown;
  $("scores").hidden = !isShown;
  for (const id of ["continue", "undo", "redo"]) $(id).disabled = isShown;
  if (!isShown) return probabilities.clear();
  probabilities.show(settings.values.model, editor.text);
  $("tokens").focus();
}

$("probabilities").addEventListener("click", () => showProbabilities($("scores").hidden));
probabilities.addEventListener("leave", ({ detail: place }) => {
  showProbabilities(false);
  editor.focus();
  if (place !== null) editor.caret = place;
});

// ---- settings and help ----------------------------------------------------------------------------

for (const id of ["settings", "help"]) {
  $(`show-${id}`).addEventListener("click", () => $(id).showModal());
}
$("reset").addEventListener("click", () => settings.set({ model: settings.values.model }));
$("show-key").addEventListener("click", () => {
  $("settings").close();
  askForKey();
});

// A click beside a dialog closes it.
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("page/service-worker.js", { scope: "./" }).catch(() => {}); // it is a help only
}

desk.resume();
await meet();
if (!(await openLink())) editor.focus();
document.body.className = "ready";
