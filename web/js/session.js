// Who this page is: a browser token, in this module's memory and nowhere else.
//
// It comes in the address's fragment (#session=…, taken out at once), from the shop's page around
// this one (postMessage), or for an operator's key, which is exchanged and forgotten.

import { byId, show } from "./dom.js";

let token = null;
let shop = null; // the origin of the page around this one, once it has spoken
const waiting = [];

export const authorised = () => (token ? { Authorization: `Bearer ${token}` } : {});
export const hasToken = () => token !== null;

function take(found) {
  token = found;
  show(byId("door"), false);
  for (const resume of waiting.splice(0)) resume();
}

function fromFragment() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const found = parts.get("session");
  if (!found) return;
  parts.delete("session");
  const rest = parts.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  take(found);
}

// Only frames of PAGE_EMBEDDED_BY can be around this page (frame-ancestors), so the parent is one.
function hear(event) {
  if (window.parent === window || event.source !== window.parent) return;
  if (event.data?.type !== "dtf:session" || typeof event.data.token !== "string") return;
  shop = event.origin;
  take(event.data.token);
}

export function tellShop(type, facts) {
  if (shop) window.parent.postMessage({ type, ...facts }, shop);
}

export function openSession() {
  fromFragment();
  addEventListener("hashchange", fromFragment);
  addEventListener("message", hear);
  if (window.parent !== window) window.parent.postMessage({ type: "dtf:ready" }, "*"); // no secret
  byId("door-form").addEventListener("submit", exchange);
}

async function exchange(event) {
  event.preventDefault();
  const field = byId("door-key");
  const key = field.value;
  field.value = "";
  const answer = await fetch(new URL("sessions", document.baseURI), {
    method: "POST",
    headers: { Authorization: `Bearer ${key}` },
  }).catch(() => null);
  if (answer?.ok) take((await answer.json()).token);
  else byId("door-why").textContent = (answer && (await answer.json()).detail) || "The service does not answer.";
}

// Resolves when somebody has handed over a (new) token.
export function wantSession(why) {
  token = null;
  if (why) byId("door-why").textContent = why;
  show(byId("door"), true);
  byId("door").scrollIntoView({ block: "nearest" });
  if (window.parent !== window) window.parent.postMessage({ type: "dtf:ready" }, "*");
  return new Promise((resolve) => waiting.push(resolve));
}
