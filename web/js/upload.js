// A picture on its way out and its shot's events on their way back, over one request.
//
// XMLHttpRequest, since fetch tells nothing about the progress of an upload.

import { Refusal, address, askForSession, needsSession } from "./api.js";
import { byId } from "./dom.js";
import { authorised } from "./session.js";
import { Lines } from "./stream.js";

const LIMIT_MS = 90_000; // of silence; the service says something every 8 s

export const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (each) => each.toString(16).padStart(2, "0")).join("");

// One attempt. `heard` gets each event; resolves when the stream has ended, raises Refusal.
function attempt({ file, wishes, key, onSent, heard, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const lines = new Lines();
    let patience = 0;
    const listen = () => {
      clearTimeout(patience);
      patience = setTimeout(() => request.abort(), LIMIT_MS);
      if (request.status === 200) for (const event of lines.read(request.responseText)) heard(event);
    };
    const end = (outcome, value) => { clearTimeout(patience); outcome(value); };
    request.open("POST", address("remove-background"));
    const headers = {
      Accept: "application/x-ndjson",
      "Idempotency-Key": key,
      Prefer: "respond-async", // leaving the page does not stop the shot
      ...authorised(),
    };
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) =>
      onSent(event.lengthComputable ? event.loaded / event.total : null));
    request.addEventListener("progress", listen);
    request.addEventListener("error", () => end(reject, new Refusal(null, 0)));
    request.addEventListener("abort", () => end(reject, new Refusal(null, 0)));
    request.addEventListener("load", () => {
      if (request.status !== 200) {
        return end(reject, new Refusal(parsed(request.responseText), request.status));
      }
      const type = request.getResponseHeader("Content-Type") ?? "";
      if (type.startsWith("application/json")) heard({ event: "done", ...parsed(request.responseText) });
      else listen();
      return end(resolve);
    });
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    for (const [name, value] of Object.entries(wishes)) form.append(name, value);
    form.append("image", file, "picture"); // what the customer called it is nobody's business
    request.send(form);
  });
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

export async function shoot(order) {
  try {
    await attempt(order);
  } catch (refusal) {
    if (order.signal.aborted || !needsSession(refusal)) throw refusal;
    await askForSession(refusal);
    await attempt(order);
  }
}

const pictureOf = (items) => [...(items ?? [])].find((each) => each.type.startsWith("image/") || /\.(tiff?|heic|heif|avif)$/i.test(each.name));

// Drop, paste, choose or photograph: `take` gets the file.
export function acceptPictures(take) {
  for (const id of ["file", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) take(file);
    });
  }
  const drop = byId("drop");
  let inside = 0;
  const mark = (by) => { inside = Math.max(0, by ? inside + by : 0); drop.classList.toggle("over", inside > 0); };
  addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(0);
    const file = pictureOf(event.dataTransfer.files) ?? event.dataTransfer.files[0];
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData?.files);
    if (file) take(file);
  });
}
