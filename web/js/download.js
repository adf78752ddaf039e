// A file fetched with its progress shown, then handed to the browser under our own name.

import { ask } from "./api.js";
import { byId, el, say, show } from "./dom.js";
import { bytes } from "./words.js";

let stop = null;

function tell(got, whole) {
  byId("downloading-words").textContent = whole ? `${bytes(got)} of ${bytes(whole)}` : `${bytes(got)} so far`;
  const bar = byId("downloading-progress");
  if (whole) bar.value = got / whole;
  else bar.removeAttribute("value");
}

async function collected(answer) {
  const whole = Number(answer.headers.get("Content-Length")) || 0;
  const parts = [];
  let got = 0;
  tell(0, whole);
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts, { type: answer.headers.get("Content-Type") ?? "" });
    parts.push(value);
    got += value.length;
    tell(got, whole);
  }
}

function hand(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Raises Refusal; a body that breaks off is one, too.
export async function download(url, name) {
  stop?.abort();
  const mine = new AbortController();
  stop = mine;
  byId("downloading-words").textContent = "Being made";
  byId("downloading-progress").removeAttribute("value");
  show(byId("downloading"), true);
  try {
    const blob = await collected(await ask(url, { signal: mine.signal }));
    hand(blob, name);
    say(`${name} is downloaded.`);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  } finally {
    if (stop === mine) show(byId("downloading"), false);
  }
}

byId("download-cancel").addEventListener("click", () => stop?.abort());
