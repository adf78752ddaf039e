// One route, asked again and again: more slowly while it fails, not at all while nobody looks.

const MOST_MS = 120_000;
const PATIENCE_MS = 15_000;

export class Trouble extends Error {
  constructor(words, { status = 0, code = "unreachable", retryAfterS = 0 } = {}) {
    super(words);
    Object.assign(this, { status, code, retryAfterS });
  }
}

// The JSON of a route. /ready says with 503 that nothing is ready, and that is an answer too.
export async function ask(path, key) {
  const options = { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
  if (key) options.headers = { Authorization: `Bearer ${key}` };
  let answer;
  let body;
  try {
    answer = await fetch(new URL(path, document.baseURI), options);
    body = await answer.json();
  } catch (error) {
    if (answer) throw new Trouble("The answer is not JSON.", { status: answer.status });
    throw new Trouble(error.name === "TimeoutError" ? "It does not answer in time." : "It does not answer.");
  }
  if (answer.ok || (path === "ready" && "models" in body)) return body;
  const retryAfterS = Number(answer.headers.get("Retry-After")) || 0;
  throw new Trouble(body.detail ?? `It answers ${answer.status}.`, { status: answer.status, code: body.code, retryAfterS });
}

// How long to wait after so many failures in a row.
export const pauseMs = (everyMs, failures, retryAfterS = 0) =>
  Math.max(Math.min(everyMs * 2 ** failures, Math.max(MOST_MS, everyMs)), retryAfterS * 1000);

// `load` gives the data; `heard` gets it, `failed` the trouble and the seconds until the next try.
export function feed({ everyMs, load, heard, failed }) {
  let timer = null;
  let running = false;
  let failures = 0;
  let going = false;
  let round = 0; // what began before stop() is not listened to any more

  async function turn() {
    if (running === round) return;
    const mine = (running = round);
    clearTimeout(timer);
    let waitMs = everyMs;
    try {
      const data = await load();
      if (mine !== round) return;
      failures = 0;
      heard(data);
    } catch (error) {
      if (mine !== round) return;
      if (!(error instanceof Trouble)) console.error(error);
      failures += 1;
      waitMs = pauseMs(everyMs, failures, error.retryAfterS);
      failed(error, Math.round(waitMs / 1000));
    }
    if (mine !== round) return;
    running = false;
    if (going) timer = setTimeout(turn, waitMs);
  }

  return {
    now({ once = false } = {}) {
      going = !once;
      round += 1;
      return turn();
    },
    stop() {
      going = false;
      round += 1;
      running = false;
      clearTimeout(timer);
    },
  };
}
