// What each panel shows of what the routes last said. Numbers come out as <data value="…">, so that
// what is rounded for the eye is still there exactly.

import { bars, chartIn, columns, scrolling, stack, table } from "./ops-charts.js";
import { byId, el } from "./dom.js";
import { grouped, periods } from "./ops-time.js";

const FIGURE = "figure";

const figure = (value, words) => el("data", { value: String(value) }, words);
const whole = (value) => figure(value, value.toLocaleString("en"));
const usdWords = (value) =>
  value === 0 ? "$0" : `${value < 0 ? "−" : ""}$${Math.abs(value).toFixed(Math.abs(value) < 10 ? 4 : 2)}`;
const usd = (value) => figure(value, usdWords(value));
const msWords = (value) => (value < 1000 ? `${value} ms` : `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)} s`);
const ms = (value) => (value === null || value === undefined ? "–" : figure(value, msWords(value)));
const percent = (share) => `${(share * 100).toFixed(0)} %`;
const badge = (words, tone) => el("span", { class: tone ? `badge ${tone}` : "badge" }, words);
const clock = (time) => {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  const shown = today ? date.toLocaleTimeString() : date.toLocaleString();
  return el("time", { datetime: time, title: date.toISOString() }, shown);
};

const STATES = {
  ready: ["ready", "good"],
  loading: ["loading", "warn"],
  open: ["circuit open", "bad"],
  unavailable: ["unavailable", "bad"],
  unconfigured: ["unconfigured", ""],
};
const BREAKERS = { closed: ["closed", "good"], open: ["open", "bad"], half_open: ["half open", "warn"] };

// A state with what goes with it, and the reason below.
const stateOf = (known, state, reason, ...more) =>
  el(
    "div",
    {},
    el("div", { class: "ops-states" }, badge(...(known[state] ?? [state, ""])), ...more),
    reason ? el("div", { class: "soft" }, reason) : null,
  );

const charts = new Map();

function chart(name, what, options) {
  if (!charts.has(name)) charts.set(name, chartIn(byId(name), options));
  charts.get(name)(what);
}

// A table alone; what it scrolls in stays, and with it the place and the focus.
function tableIn(name, label, shown) {
  const place = byId(name);
  if (!place.querySelector(".scroll")) place.replaceChildren(scrolling(label));
  place.querySelector(".scroll").replaceChildren(shown);
}

// A place that holds words instead of its chart.
function words(name, content) {
  byId(name).replaceChildren(el("p", { class: "soft small" }, content));
}

function todays({ costs }) {
  const found = new Map();
  for (const row of costs?.spend ?? []) {
    if (row.day !== costs.until) continue;
    const sum = found.get(row.model) ?? { tasks: 0, cost: 0 };
    found.set(row.model, { tasks: sum.tasks + row.tasks, cost: sum.cost + row.cost_usd });
  }
  return found;
}

const spentToday = (costs) => costs.by_day[costs.until] ?? 0;

export function tiles({ ready, costs, stats, errors }) {
  const tile = (name, main, rest) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, main ?? "–", rest ? el("small", {}, rest) : null));
  const states = Object.values(ready?.models ?? {}).map(({ status }) => status);
  byId("tiles").replaceChildren(
    tile("Models ready", ready && whole(states.filter((state) => state === "ready").length), ready && `of ${states.length}`),
    tile("Shots running", ready && whole(ready.queue.running), ready && `of ${ready.queue.running_limit}, ${ready.queue.waiting} waiting`),
    tile("Memory for shots", ready && whole(ready.memory.reserved_mb), ready && (ready.memory.shots_mb === null ? "MiB" : `of ${ready.memory.shots_mb.toLocaleString("en")} MiB`)),
    tile("Spent today", costs && usd(spentToday(costs)), costs && "UTC day"),
    tile("Picks", stats && whole(stats.picks), stats && `since ${stats.since}`),
    tile("Errors seen", errors && whole(errors.seen), errors && "since the start"),
  );
}

export function models({ ready, models: known, costs }) {
  const told = new Map((known?.models ?? []).map((model) => [model.id, model]));
  const spent = todays({ costs });
  const ids = [...told.keys(), ...Object.keys(ready?.models ?? {}).filter((id) => !told.has(id))];
  if (!ids.length) return;
  const rows = ids.map((id) => {
    const model = told.get(id);
    const now = ready?.models[id] ?? model;
    const latency = model?.latency_ms.today;
    const paid = model && model.price_usd > 0;
    const price = paid ? usd(model.observed_price_usd ?? model.price_usd) : model && "free";
    return [
      id,
      stateOf(STATES, now.status, now.reason, now.sandbox ? badge("sandbox", "accent") : null),
      latency && whole(latency.count),
      latency && ms(latency.p50),
      latency && ms(latency.p95),
      price,
      costs && (paid ? whole(spent.get(id)?.tasks ?? 0) : "–"),
      costs && usd(spent.get(id)?.cost ?? 0),
    ];
  });
  const head = [
    { name: "Model", kind: "whole" },
    { name: "State", kind: "state" },
    { name: "Answers today", kind: FIGURE },
    { name: "Median", kind: FIGURE },
    { name: "95 %", kind: FIGURE },
    { name: "Price", kind: FIGURE },
    { name: "Paid tasks today", kind: FIGURE },
    { name: "Cost today", kind: FIGURE },
  ];
  const shown = table("Models, their state, latency and cost today", head, rows, { stacking: true });
  tableIn("models", "Models", shown);
}

export function latency({ models: known }) {
  const rows = (known?.models ?? [])
    .filter((model) => model.latency_ms.today.count > 0)
    .map((model) => ({ model, ...model.latency_ms.today }));
  if (!rows.length) {
    if (known) words("latency", "No model has answered today.");
    return;
  }
  chart("latency", {
    title: "Half of the answers come within the bar, 95 % within the line",
    desc: rows.map(({ model, p50, p95 }) => `${model.id}: median ${msWords(p50)}, 95 % within ${msWords(p95 ?? p50)}.`).join(" "),
    head: [{ name: "Model" }, { name: "Answers", kind: FIGURE }, { name: "Median", kind: FIGURE }, { name: "95 %", kind: FIGURE }],
    rows: rows.map(({ model, count, p50, p95 }) => [model.id, whole(count), ms(p50), ms(p95)]),
    drawn: (box) => bars({
      ...box,
      max: Math.max(...rows.map(({ p50, p95 }) => p95 ?? p50)),
      rows: rows.map(({ model, p50, p95 }) => ({
        name: model.id,
        value: p50,
        low: p50,
        high: p95 ?? p50,
        told: `${msWords(p50)} · ${msWords(p95 ?? p50)}`,
      })),
    }),
  });
}

const GATES = [
  ["queue", "Shots"],
  ["printing", "Enlargements"],
];

export function queue({ ready }) {
  if (!ready) return;
  const rows = GATES.flatMap(([name, shown]) => {
    const gate = ready[name];
    return [
      { name: `${shown} running`, value: gate.running, limit: gate.running_limit, tone: "accent" },
      { name: `${shown} waiting`, value: gate.waiting, limit: gate.waiting_limit, tone: "warn" },
    ];
  });
  chart("queue", {
    title: "Places taken",
    desc: rows.map(({ name, value, limit }) => `${name}: ${value} of ${limit}.`).join(" "),
    head: [{ name: "Line" }, { name: "Now", kind: FIGURE }, { name: "At most", kind: FIGURE }],
    rows: rows.map(({ name, value, limit }) => [name, whole(value), whole(limit)]),
    drawn: (box) => bars({
      ...box,
      max: 1,
      rows: rows.map(({ name, value, limit, tone }) => ({ name, tone, value: limit ? value / limit : 0, told: `${value} of ${limit}` })),
    }),
  });
}

export function memory({ ready }) {
  if (!ready) return;
  const { memory: box } = ready;
  const shots = box.shots_mb ?? 0;
  const pieces = [
    { name: "The service itself", value: box.floor_mb, tone: "ink" },
    { name: "Enlargements", value: box.enlarging_mb, tone: "warn" },
    { name: "Local networks", value: box.networks_mb ?? 0, tone: "soft" },
    { name: "local-ben2", value: box.ben2_mb, tone: "good" },
    { name: "Shots, reserved now", value: box.reserved_mb, tone: "accent" },
    { name: "Shots, free", value: Math.max(0, shots - box.reserved_mb), tone: "free" },
  ].filter(({ name, value }) => value > 0 || name.startsWith("Shots"));
  const granted = box.granted_mb === null ? "nobody knows how much the box grants" : `${box.granted_mb.toLocaleString("en")} MiB granted`;
  chart("memory", {
    title: `Memory: ${granted}`,
    desc: pieces.map(({ name, value }) => `${name}: ${value} MiB.`).join(" "),
    head: [{ name: "Kept for" }, { name: "MiB", kind: FIGURE }],
    rows: pieces.map(({ name, value, tone }) => [
      el("span", {}, el("span", { class: `key tone-${tone}`, "aria-hidden": "true" }), name),
      whole(value),
    ]),
    drawn: (box_) => stack({ ...box_, pieces }),
  }, { open: true });
}

export function house({ ready }) {
  if (!ready) return;
  const { inference, ben2, memory: box } = ready;
  const kept = ({ available, reason }) =>
    el("span", {}, badge(available ? "yes" : "no", available ? "good" : "bad"), reason ? ` ${reason}` : null);
  const facts = [
    ["Memory in use", box.resident_mb === null ? "–" : el("span", {}, whole(box.resident_mb), " MiB")],
    ["Networks", `${inference.engine}, ${inference.precision}, ${inference.threads} threads`],
    ["Loaded", inference.loaded.join(", ") || "none"],
    ["Network jobs", `${inference.running ? "one running" : "none running"}, ${inference.waiting} waiting`],
    ben2 ? ["local-ben2", `${ben2.device ?? "nowhere"}: ${ben2.why}`] : null,
    ready.data ? ["Data kept", kept(ready.data)] : null,
    ["Idempotency keys", kept(ready.idempotency)],
    ["Pillow", ready.pillow],
  ].filter(Boolean);
  const list = facts.flatMap(([name, shown]) => [el("dt", {}, name), el("dd", {}, shown)]);
  byId("house").replaceChildren(el("dl", { class: "facts" }, ...list));
}

export function spent({ costs }) {
  if (!costs) return;
  const rows = [...todays({ costs })].map(([model, { tasks, cost }]) => ({ model, tasks, cost }));
  if (!rows.length) {
    words("spent", el("span", {}, "Nothing was spent today. ", ...unsettled(costs)));
    return;
  }
  const uncertain = costs.unsettled.count
    ? ` ${costs.unsettled.count} tasks are not settled and may cost ${usdWords(costs.unsettled.may_cost_usd)}.`
    : "";
  chart("spent", {
    title: `${usdWords(spentToday(costs))} since midnight UTC.${uncertain}`,
    desc: rows.map(({ model, tasks, cost }) => `${model}: ${usdWords(cost)} in ${tasks} tasks.`).join(" "),
    head: [{ name: "Model" }, { name: "Tasks", kind: FIGURE }, { name: "Cost", kind: FIGURE }],
    rows: rows.map(({ model, tasks, cost }) => [model, whole(tasks), usd(cost)]),
    drawn: (box) => bars({
      ...box,
      max: Math.max(...rows.map(({ cost }) => cost)),
      rows: rows.map(({ model, tasks, cost }) => ({ name: model, value: cost, told: `${usdWords(cost)} · ${tasks}×` })),
    }),
  });
}

function unsettled({ unsettled: { count, may_cost_usd: most } }) {
  return count ? [whole(count), " tasks are not settled and may cost ", usd(most), "."] : [];
}

export function budgets({ costs }) {
  if (!costs) return;
  if (!costs.budgets.length) {
    words("budgets", "No budget is set (DAILY_BUDGET_USD, KEY_DAILY_BUDGETS).");
    return;
  }
  const rows = costs.budgets.map((each) => ({ ...each, shown: each.key ? `Key ${each.key}` : "All keys together" }));
  chart("budgets", {
    title: "Settled, and what is on its way",
    desc: rows.map((row) => `${row.shown}: ${usdWords(row.left_usd)} left of ${usdWords(row.limit_usd)}.`).join(" "),
    head: ["Budget", "Limit", "Settled", "On its way", "Left"].map((name, index) => ({ name, kind: index > 0 ? FIGURE : null })),
    rows: rows.map((row) => [row.shown, usd(row.limit_usd), usd(row.settled_usd), usd(row.in_flight_usd), usd(row.left_usd)]),
    drawn: (box) => bars({
      ...box,
      max: 1,
      rows: rows.map((row) => ({
        name: row.shown,
        value: row.limit_usd > 0 ? row.settled_usd / row.limit_usd : 1,
        rest: row.limit_usd > 0 ? row.in_flight_usd / row.limit_usd : 0,
        told: `${usdWords(row.left_usd)} left of ${usdWords(row.limit_usd)}`,
        tone: row.left_usd <= 0 ? "bad" : "accent",
      })),
    }),
  });
}

export function breakers({ costs }) {
  if (!costs) return;
  if (!costs.breakers.length) {
    words("breakers", "No paid provider is set up.");
    return;
  }
  const head = [
    { name: "Provider", kind: "whole" },
    { name: "Circuit", kind: "state" },
    { name: "Failures", kind: FIGURE },
    { name: "Opened", kind: FIGURE },
    { name: "Next try", kind: FIGURE },
  ];
  const rows = costs.breakers.map((each) => [
    each.provider,
    stateOf(BREAKERS, each.state, each.reason),
    whole(each.failures_in_a_row),
    whole(each.opened),
    each.state === "open" ? figure(each.probe_in_s, `in ${Math.ceil(each.probe_in_s)} s`) : "–",
  ]);
  const shown = table("Circuit breakers by provider", head, rows, { stacking: true });
  tableIn("breakers", "Circuit breakers", shown);
}

export function wins({ stats }) {
  if (!stats) return;
  if (!stats.picks) {
    words("wins", `Nobody has picked since ${stats.since}.`);
    byId("picked").replaceChildren();
    return;
  }
  const rate = (row) => (row.win_rate === null || row.win_rate === undefined ? "–" : percent(row.win_rate));
  const shown = stats.models.filter(({ shown: seen }) => seen > 0);
  chart("wins", {
    title: `Win rate in ${stats.picks.toLocaleString("en")} picks, with 95 % interval`,
    desc: shown.map((row) => `${row.model}: picked ${row.wins} times of ${row.shown}, ${rate(row)}.`).join(" "),
    head: ["Model", "Shown", "Wins", "Win rate", "From", "To", "Strength", "Cost a win"].map((name, index) => ({ name, kind: index > 0 ? FIGURE : null })),
    rows: stats.models.map((row) => [
      row.model,
      whole(row.shown),
      whole(row.wins),
      row.win_rate === null || row.win_rate === undefined ? "–" : figure(row.win_rate, rate(row)),
      figure(row.win_rate_low, percent(row.win_rate_low)),
      figure(row.win_rate_high, percent(row.win_rate_high)),
      figure(row.strength, row.strength.toFixed(2)),
      row.cost_per_win_usd === null || row.cost_per_win_usd === undefined ? "–" : usd(row.cost_per_win_usd),
    ]),
    drawn: (box) => bars({
      ...box,
      max: 1,
      rows: shown.map((row) => ({
        name: row.model,
        value: row.win_rate ?? 0,
        low: row.win_rate_low,
        high: row.win_rate_high,
        told: `${rate(row)} · ${row.wins} of ${row.shown}`,
        tone: "good",
      })),
    }),
  });
}

// Columns over the days (or months) of the range; `values` by the name of each.
function overTime(name, { title, unit, span, values, told, cell }) {
  const points = periods(span).map(({ key, label }) => ({ key, label, value: values.get(key) ?? 0 }));
  const filled = points.filter(({ value }) => value > 0);
  chart(name, {
    title,
    desc: filled.length ? filled.map(({ key, value }) => `${key}: ${told(value)}.`).join(" ") : "Nothing yet.",
    head: [{ name: span.by === "month" ? "Month" : "Day" }, { name: unit, kind: FIGURE }],
    rows: filled.map(({ key, value }) => [key, cell(value)]),
    drawn: (box) => columns({ ...box, points, highest: `at most ${told(Math.max(...points.map(({ value }) => value)))}` }),
  });
}

export function picked({ stats }) {
  if (!stats?.picks || !stats.groups) return;
  const { span } = stats;
  overTime("picked", {
    title: `Picks by ${span.by}`,
    unit: "Picks",
    span,
    values: new Map(stats.groups.map((group) => [group.name, group.picks])),
    told: String,
    cell: whole,
  });
}

export function spending({ costs }) {
  if (!costs) return;
  const { span } = costs;
  if (costs.cost_usd === 0) {
    words("spending", `Nothing was spent since ${costs.since}.`);
    return;
  }
  overTime("spending", {
    title: `${usdWords(costs.cost_usd)} since ${costs.since}, by ${span.by}`,
    unit: "Cost",
    span,
    values: grouped(costs.by_day, span),
    told: usdWords,
    cell: usd,
  });
}

export function errors({ errors: told, wanted = "" }) {
  if (!told) return;
  const found = told.errors.filter((each) => each.request_id.includes(wanted));
  byId("errors-words").textContent = wanted
    ? `${found.length} of ${told.errors.length} have this in their request id.`
    : told.errors.length
      ? "The latest first. The log has the rest of each under its request id."
      : `None since ${new Date(told.since).toLocaleString()}.`;
  const head = [
    { name: "Time", kind: "whole" },
    { name: "Code", kind: "wide" },
    { name: "Where", kind: "wide" },
    { name: "Request id", kind: "wide" },
    { name: "Status" },
    { name: "Key" },
  ];
  const rows = found.map((each) => [
    clock(each.time),
    el("code", {}, each.code),
    each.model ? `model ${each.model}` : `${each.method} ${each.route ?? "(no route)"}`,
    el("code", {}, each.request_id),
    each.status === undefined ? "" : badge(String(each.status), each.status >= 500 ? "bad" : "warn"),
    each.key,
  ]);
  const shown = table("Last errors", head, rows, { stacking: true });
  if (rows.length) tableIn("errors", "Last errors", shown);
  else byId("errors").replaceChildren();
}

