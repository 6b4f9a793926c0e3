/**
 * Keeps the page's files, so that it opens while the server is away. With the server they are always
 * asked for, so that a new version is seen at once.
 */

const CACHE = "gpt2x";
const ROOT = new URL(registration.scope);

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(keepAll());
});

addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { request } = event;
  const { pathname } = new URL(request.url);
  const isPage = pathname === ROOT.pathname || pathname.startsWith(`${ROOT.pathname}page/`);
  if (request.method === "GET" && isPage) event.respondWith(answer(request));
});

async function keepAll() {
  const names = await (await fetch(new URL("page/files.json", ROOT))).json();
  const cache = await caches.open(CACHE);
  await cache.addAll([ROOT.href, ...names.map((name) => new URL(`page/${name}`, ROOT).href)]);
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  const name = new URL(request.url).pathname; // a query changes nothing
  const found = await fetch(request).catch(() => Response.error());
  if (found.ok) await cache.put(name, found.clone()).catch(() => {}); // the storage may be full
  const isAway = found.type === "error" || found.status >= 500; // a proxy may answer for it
  return isAway ? ((await cache.match(name)) ?? found) : found;
}
