// What the page asks the service, and what went wrong in words.

import { authorised, wantSession } from "./session.js";

export class Refusal extends Error {
  constructor(problem, status) {
    super(problem?.detail ?? "The service does not answer. Look whether you are online, then try again.");
    this.code = problem?.code ?? "unreachable";
    this.hint = problem?.hint ?? "";
    this.status = status;
    this.retryable = problem?.retryable ?? true;
  }
}

export const address = (path) => new URL(path, document.baseURI);

// A link of a record as this page reaches it, whatever name the service has for itself.
export function local(link) {
  const found = new URL(link, document.baseURI);
  return address(found.pathname.slice(found.pathname.indexOf("/results/") + 1) + found.search);
}

export function picture(entry, wishes = {}) {
  const found = local(entry.url);
  for (const [name, value] of Object.entries(wishes)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  return found.href;
}

export const tokenOf = (link) => (link ? new URL(link, document.baseURI).searchParams.get("token") : null);

export async function refusalOf(answer) {
  return new Refusal(await answer.json().catch(() => null), answer.status);
}

export const needsSession = (refusal) =>
  refusal.status === 401 || refusal.code === "session_exhausted";

const WHY = {
  session_exhausted: "This session has used up what it may do. Ask the shop for another one.",
  invalid_key: "The session has ended, or the key is not known here. Ask the shop for another one.",
};

export const askForSession = (refusal) => wantSession(WHY[refusal.code] ?? "");

// fetch that raises Refusal; where a session is missing it waits for one and asks again, once.
export async function ask(path, options = {}, again = true) {
  const headers = { ...authorised(), ...options.headers };
  const answer = await fetch(path instanceof URL ? path : address(path), { ...options, headers }).catch(
    (error) => { throw error.name === "AbortError" ? error : new Refusal(null, 0); },
  );
  if (answer.ok) return answer;
  const refusal = await refusalOf(answer);
  if (!again || !needsSession(refusal)) throw refusal;
  await askForSession(refusal);
  return ask(path, options, false);
}

// The record of a shot; its own token opens it without a session.
export async function readRecord({ id, token }) {
  const path = address(`results/${id}`);
  if (token) path.searchParams.set("token", token);
  return (await ask(path)).json();
}

export async function postJson(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}
