// The operator view: asks the public JSON routes and keeps the panels up to date.
//
// The key is in this module's memory and nowhere else; a reload asks for it again.

import { byId, el, say, show } from "./dom.js";
import { Trouble, ask, feed } from "./ops-feed.js";
import * as panels from "./ops-panels.js";
import { daysBack, spanOf } from "./ops-time.js";

let key = null;
let unlocked = false;
let paused = false;
const heard = { span: spanOf(30), wanted: "" };
const troubles = new Map();

const ROUTES = {
  ready: { everyMs: 5_000, path: () => "ready" },
  models: { everyMs: 10_000, path: () => "models" },
  costs: { everyMs: 10_000, path: () => `costs?days=${heard.span.days}` },
  stats: { everyMs: 30_000, path: () => `preferences/stats?since=${daysBack(heard.span)}&by=${heard.span.by}` },
  errors: { everyMs: 10_000, path: () => "errors?limit=200" },
};

// Which panels stand on which routes.
const STANDS_ON = {
  models: ["ready", "models", "costs"],
  latency: ["models"],
  queue: ["ready"],
  money: ["costs"],
  picks: ["stats"],
  spending: ["costs"],
  errors: ["errors"],
};

const DRAWN_FROM = [
  [panels.tiles, ["ready", "costs", "stats", "errors"]],
  [panels.models, ["ready", "models", "costs"]],
  [panels.latency, ["models"]],
  [panels.queue, ["ready"]],
  [panels.memory, ["ready"]],
  [panels.house, ["ready"]],
  [panels.spent, ["costs"]],
  [panels.budgets, ["costs"]],
  [panels.breakers, ["costs"]],
  [panels.wins, ["stats"]],
  [panels.picked, ["stats"]],
  [panels.spending, ["costs"]],
  [panels.errors, ["errors"]],
];
const drawn = new Map();

// Only what has changed is drawn again, so that nobody's selection is lost for nothing.
function draw() {
  for (const [panel, names] of DRAWN_FROM) {
    const seen = JSON.stringify([heard.wanted, ...names.map((name) => heard[name])]);
    if (drawn.get(panel) === seen) continue;
    drawn.set(panel, seen);
    panel(heard);
  }
}

function showTroubles() {
  for (const [panel, names] of Object.entries(STANDS_ON)) {
    const notes = names.filter((name) => troubles.has(name)).map((name) => troubles.get(name));
    const place = document.querySelector(`[data-panel="${panel}"] [data-trouble]`);
    place.replaceChildren(...notes.map((note) => el("p", { class: "notice bad small" }, note)));
  }
}

function hears(name, data) {
  const before = heard[name];
  heard[name] = data;
  if (troubles.delete(name)) say(`/${name} answers again.`);
  showTroubles();
  byId("updated").replaceChildren("Updated ", el("time", { datetime: new Date().toISOString() }, new Date().toLocaleTimeString()));
  if (name === "ready") hearsReady(data, before);
  if (unlocked) draw();
}

function hearsReady(data, before) {
  show(byId("unreachable"), false);
  const state = byId("state");
  state.textContent = data.ready ? "ready" : "not ready";
  state.className = `badge ${data.ready ? "good" : "bad"}`;
  if (before && before.ready !== data.ready) say(`The service is ${state.textContent}.`);
  if (!unlocked && !data.keys_required) unlock(null);
  else if (!unlocked) show(byId("door"), true);
}

function fails(name, error, againS) {
  if (error instanceof Trouble && error.status === 401) {
    lock("The key is not known any more.");
    return;
  }
  const path = `/${ROUTES[name].path().split("?")[0]}`;
  const words = error instanceof Trouble ? error.message : "Its answer is not what this page expects.";
  const since = heard[name] ? " What is shown is what it said last." : "";
  if (!troubles.has(name)) say(`${path} fails.`);
  troubles.set(name, `${path}: ${words} Asked again in ${againS} s.${since}`);
  showTroubles();
  if (name !== "ready") return;
  byId("state").textContent = "not known";
  byId("state").className = "badge warn";
  byId("unreachable").textContent = troubles.get(name);
  show(byId("unreachable"), !unlocked);
}

const feeds = Object.fromEntries(
  Object.entries(ROUTES).map(([name, { everyMs, path }]) => [
    name,
    feed({
      everyMs,
      load: async () => {
        const { span } = heard;
        return { ...(await ask(path(), key)), span };
      },
      heard: (data) => hears(name, data),
      failed: (error, againS) => fails(name, error, againS),
    }),
  ]),
);
const asked = () => (unlocked ? Object.values(feeds) : [feeds.ready]);

const goOn = () => asked().forEach((each) => each.now({ once: paused }));
const rest = () => Object.values(feeds).forEach((each) => each.stop());

function unlock(found) {
  key = found;
  unlocked = true;
  show(byId("door"), false);
  show(byId("unreachable"), false);
  show(byId("wrong"), false);
  show(byId("panels"), true);
  show(byId("tools"), true);
  show(byId("forget"), found !== null);
  for (const name of Object.keys(feeds)) if (name !== "ready" || found) feeds[name].now();
  draw();
  if (found !== null) byId("main").focus();
}

// Forgets the key and all it has shown.
function lock(why) {
  rest();
  key = null;
  unlocked = false;
  for (const name of Object.keys(ROUTES)) delete heard[name];
  troubles.clear();
  showTroubles();
  drawn.clear();
  show(byId("panels"), false);
  show(byId("tools"), false);
  show(byId("door"), true);
  wrong(why);
  byId("key").focus();
  pause(false);
}

function wrong(words) {
  byId("wrong").textContent = words;
  show(byId("wrong"), Boolean(words));
}

const REFUSALS = {
  invalid_key: "This key is not known here.",
  missing_key: "This key is not known here.",
  not_allowed: "This is a browser session's token. The page needs an API key.",
};

async function tryKey(event) {
  event.preventDefault();
  const field = byId("key");
  const found = field.value.trim();
  wrong("");
  byId("open").disabled = true;
  try {
    // what no header can carry is no key
    if (!/^[\x21-\x7e]+$/.test(found)) throw new Trouble("", { code: "invalid_key" });
    await ask("errors?limit=1", found);
    field.value = "";
    unlock(found);
  } catch (error) {
    wrong(REFUSALS[error.code] ?? `The key could not be tried. ${error.message}`);
    field.focus();
    field.select();
  } finally {
    byId("open").disabled = false;
  }
}

function pause(wish) {
  paused = wish;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Paused" : "Pause";
  if (paused) rest();
  else if (!document.hidden) goOn();
}

byId("door-form").addEventListener("submit", tryKey);
byId("pause").addEventListener("click", () => pause(!paused));
byId("refresh").addEventListener("click", goOn);
byId("forget").addEventListener("click", () => lock(""));
byId("range").addEventListener("change", (event) => {
  heard.span = spanOf(Number(event.target.value));
  feeds.costs.now({ once: paused });
  feeds.stats.now({ once: paused });
});
byId("find").addEventListener("input", (event) => {
  heard.wanted = event.target.value.trim();
  draw();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) rest();
  else if (!paused) goOn();
});

feeds.ready.now();
