// The page as a whole: a picture in, tiles filling, a pick, a print; and all of it again after a reload.

import { Refusal, address, ask, picture, postJson, readRecord, tokenOf } from "./api.js";
import { Compare } from "./compare.js";
import { byId, choices, say, show, trouble } from "./dom.js";
import { readPlace, writePlace } from "./place.js";
import { PrintStep } from "./print.js";
import { openSession, tellShop } from "./session.js";
import { swatches } from "./shirt.js";
import { Tiles } from "./tiles.js";
import { acceptPictures, newKey, shoot } from "./upload.js";
import { zoomTools } from "./view.js";
import { bytes, nameOf } from "./words.js";

const POLL_MS = 1500;
const STEPS = { start: "picture", pick: "pick", print: "print" };

const state = {
  file: null, // what the customer chose; gone after a reload
  original: null, // an address that shows it
  shots: [], // {id, token}; the first, then those that were tried again
  models: [],
  entries: new Map(), // model → {shot, entry}
  records: new Map(), // id → the last record
  image: null,
  picked: null,
  print: null,
  view: "cutouts",
  polling: 0,
};
let aborter = new AbortController();

const view = zoomTools(byId("pick"));
const tiles = new Tiles(byId("tiles"), view, { pick, compare, retry, canRetry: () => state.file !== null });
const comparison = new Compare(view);
const printing = new PrintStep((render) => { state.print = render; remember(); });

function remember() {
  writePlace({ shots: state.shots, pick: state.picked, print: state.print });
}

function goTo(step, { focus = true } = {}) {
  for (const each of Object.keys(STEPS)) show(byId(each), each === step);
  for (const mark of byId("steps").children) {
    if (mark.dataset.step === STEPS[step]) mark.setAttribute("aria-current", "step");
    else mark.removeAttribute("aria-current");
  }
  if (!focus) return;
  scrollTo({ top: 0 });
  byId(step === "start" ? "main" : `${step}-title`).focus({ preventScroll: true });
}

function complain(error) {
  if (error.name === "AbortError") return;
  const words = error instanceof Refusal ? `${error.message} ${error.hint}`.trim() : "Something went wrong on this page. Load it again.";
  trouble(words);
  if (!(error instanceof Refusal)) console.error(error);
}

// ---- a shot

function forget() {
  aborter.abort();
  aborter = new AbortController();
  clearTimeout(state.polling);
  if (state.original?.startsWith("blob:")) URL.revokeObjectURL(state.original);
  Object.assign(state, { file: null, original: null, shots: [], models: [], entries: new Map(), records: new Map(), image: null, picked: null, print: null });
  comparison.reset();
  view.set(1, 0, 0);
  remember();
}

async function begin(file) {
  forget();
  trouble(null);
  state.file = file;
  state.original = URL.createObjectURL(file);
  goTo("start", { focus: false });
  show(byId("drop"), false);
  show(byId("sending"), true);
  await fire({}, newKey());
}

// One request; a connection that breaks before the shot is known is asked again under the same key,
// which never pays twice.
async function fire(wishes, key) {
  const { signal } = aborter;
  let known = null;
  const heard = ({ event, ...facts }) => {
    if (event === "accepted") known = accepted(facts);
    else if (event === "result") land(known, facts);
    else if (event === "done") known = settle(facts);
    else if (event === "failed") complain(new Refusal(facts, 200));
  };
  try {
    await shoot({ file: state.file, wishes, key, signal, heard, onSent: sending });
  } catch (error) {
    if (signal.aborted) return;
    if (known) return poll();
    failedToSend(error, wishes, key);
  }
  if (known) poll();
}

function sending(part) {
  const bar = byId("sending-progress");
  if (part === null) bar.removeAttribute("value");
  else bar.value = part;
  byId("sending-words").textContent = part === 1 ? "Your picture is there, the models begin" : `Sending your picture: ${bytes((part ?? 0) * state.file.size)} of ${bytes(state.file.size)}`;
}

function failedToSend(error, wishes, key) {
  show(byId("sending"), false);
  show(byId("drop"), true);
  complain(error);
  if (error.code !== "unreachable" && error.code !== "idempotency_in_flight") return;
  const again = document.createElement("button");
  again.type = "button";
  again.className = "button";
  again.textContent = "Send it again";
  again.addEventListener("click", () => {
    trouble(null);
    show(byId("drop"), false);
    show(byId("sending"), true);
    fire(wishes, key);
  });
  byId("trouble").append(" ", again);
}

function accepted({ request_id: id, models, image, record_url: link }) {
  const shot = { id, token: tokenOf(link) };
  state.shots.push(shot);
  if (state.shots.length === 1) openPick(models, image);
  for (const model of models) state.entries.set(model, { shot, entry: { model, status: "pending" } });
  remember();
  redraw();
  if (state.shots.length === 1) chooseOriginal();
  return shot;
}

// Where the service shows the picture: after a reload, and for what the browser cannot show itself.
function keptOriginal() {
  const [{ id, token }] = state.shots;
  const link = address(`results/${id}/original.webp`);
  if (token) link.searchParams.set("token", token);
  return link.href;
}

async function chooseOriginal() {
  const shows = (src) => { const image = new Image(); image.src = src; return image.decode().then(() => src); };
  const { original } = state;
  const found = await (original ? shows(original) : Promise.reject()).catch(() => shows(keptOriginal())).catch(() => null);
  if (state.original !== original || !state.shots.length) return;
  state.original = found;
  redraw();
  if (state.picked) printing.showOriginal(found);
}

function openPick(models, image) {
  [state.models, state.image] = [models, image];
  show(byId("sending"), false);
  show(byId("drop"), true);
  tiles.open(models, image);
  byId("pick-note").textContent = image.note ?? "";
  show(byId("pick-note"), Boolean(image.note));
  goTo("pick");
}

function land(shot, entry) {
  performance.mark(`landed ${entry.model}`);
  shot.token ??= tokenOf(entry.url);
  state.entries.set(entry.model, { shot, entry });
  remember();
  const done = succeeded().length;
  say(entry.status === "succeeded" ? `${nameOf(entry.model)} is ready, ${done} of ${state.models.length}.` : `${nameOf(entry.model)} has no cut-out.`);
  redraw();
}

// The whole record: of a stream's end, of a replay, or read after a reload.
function settle(record) {
  let shot = state.shots.find((each) => each.id === record.request_id);
  if (!shot) {
    shot = { id: record.request_id, token: null };
    state.shots.push(shot);
    if (state.shots.length === 1) openPick(record.results.map((each) => each.model), record.image);
  }
  state.records.set(shot.id, record);
  for (const entry of record.results) {
    shot.token ??= tokenOf(entry.url);
    state.entries.set(entry.model, { shot, entry });
  }
  remember();
  redraw();
  if (record.status === "expired") trouble("The pictures of this shot have expired. Send the picture again.");
  return shot;
}

const isRunning = (shot) => (state.records.get(shot.id)?.status ?? "running") === "running";

// What is still running when the answer has come, or has broken off, is read until it has landed.
async function poll() {
  clearTimeout(state.polling);
  const { signal } = aborter;
  for (const shot of state.shots.filter(isRunning)) {
    try {
      const record = await readRecord(shot);
      if (signal.aborted) return;
      settle(record);
    } catch (error) {
      if (error.code !== "unreachable") { complain(error); return; }
    }
  }
  if (state.shots.some(isRunning)) state.polling = setTimeout(poll, POLL_MS);
}

// ---- the tiles

const succeeded = () => state.models.filter((model) => state.entries.get(model)?.entry.status === "succeeded");
const recommended = () => state.records.get(state.shots[0]?.id)?.recommended ?? null;

function redraw() {
  const best = recommended();
  for (const model of state.models) {
    const { entry } = state.entries.get(model);
    tiles.fill(entry, { recommended: model === best, picked: model === state.picked }, state.view === "soft");
  }
  const ready = succeeded();
  const open = state.models.filter((model) => state.entries.get(model).entry.status === "pending").length;
  byId("pick-words").textContent = open
    ? `${ready.length} of ${state.models.length} are ready. The others are still at work; you need not wait for them.`
    : ready.length ? `${ready.length} of ${state.models.length} gave a cut-out.` : "None of them gave a cut-out. Try another picture, or try one of them again.";
  byId("pick-title").textContent = ready.length || open ? "Which one do you like best?" : "No cut-out this time";
  if (ready.length) comparison.offer(sources(ready), state.image);
  drawDifferences(ready);
}

function sources(ready) {
  const found = new Map();
  if (state.original) found.set("original", { label: "Your picture", small: state.original });
  for (const model of ready) {
    const { entry } = state.entries.get(model);
    found.set(model, { label: nameOf(model), small: picture(entry, { preview: 1024 }), large: picture(entry, { preview: 2048 }) });
  }
  return found;
}

function drawDifferences(ready) {
  const on = state.view === "differences";
  show(byId("differences"), on);
  if (!on) return;
  const [first] = state.shots;
  const within = ready.filter((model) => state.entries.get(model).shot === first);
  show(byId("differences-picture"), within.length > 1);
  byId("differences-words").textContent = within.length > 1
    ? "Grey: every cut-out agrees. Yellow to red: the more they differ, the closer you should look there."
    : "There is nothing to compare yet: it takes two cut-outs.";
  if (within.length < 2) return;
  const link = address(`results/${first.id}/disagreement.png`);
  if (first.token) link.searchParams.set("token", first.token);
  const source = `${link.href}#${within.length}`; // another has landed: another picture
  if (byId("differences-picture").src !== source) byId("differences-picture").src = source;
}

function compare(model) {
  const others = succeeded().filter((each) => each !== model);
  const best = recommended();
  const left = state.original ? "original" : best && best !== model ? best : others[0] ?? model;
  comparison.open(left, model);
}

async function retry(model, offer) {
  const wishes = { models: model, ...(offer === "insist" ? { triage: "off" } : {}) };
  trouble(null);
  await fire(wishes, newKey());
}

// ---- the pick

async function pick(model) {
  const { shot, entry } = state.entries.get(model);
  const shown = succeeded().filter((each) => state.entries.get(each).shot === shot);
  trouble(null);
  try {
    await postJson("preferences", { request_id: shot.id, model, shown });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    complain(error); // the pick is for statistics; the customer goes on
  }
  [state.picked, state.print] = [model, null];
  tellShop("dtf:picked", { request_id: shot.id, model });
  remember();
  redraw();
  openPrint({ shot, entry });
}

function openPrint(chosen) {
  goTo("print");
  printing.open({ original: state.original, ...chosen });
}

async function undo() {
  const { shot } = state.entries.get(state.picked);
  [state.picked, state.print] = [null, null];
  remember();
  redraw();
  goTo("pick");
  say("The pick is taken back.");
  tellShop("dtf:unpicked", { request_id: shot.id });
  await ask(`preferences/${shot.id}`, { method: "DELETE" }).catch((error) => {
    if (error.status !== 404) complain(error);
  });
}

// ---- the beginning

async function restore() {
  const { shots, pick: picked, print } = readPlace();
  if (!shots.length) return;
  const found = [];
  for (const shot of shots) {
    try {
      found.push([shot, await readRecord(shot)]);
    } catch (error) {
      if (error.code === "result_not_found" || error.code === "invalid_key") trouble("That picture is no longer kept here. Send it again.");
      else complain(error);
    }
  }
  if (!found.length) { forget(); return; }
  for (const [shot, record] of found) {
    state.shots.push(shot);
    if (state.shots.length === 1) openPick(record.results.map((each) => each.model), record.image);
    settle(record);
  }
  chooseOriginal();
  const chosen = picked && state.entries.get(picked);
  if (chosen?.entry.status === "succeeded") {
    state.picked = picked;
    state.print = print;
    const render = print && (await readRecord(print).catch(() => null));
    redraw();
    openPrint({ ...chosen, render, renderShot: print });
  }
  remember();
  poll();
}

byId("cancel").addEventListener("click", () => {
  forget();
  show(byId("sending"), false);
  show(byId("drop"), true);
});
byId("again").addEventListener("click", () => { forget(); goTo("start"); });
byId("undo-pick").addEventListener("click", undo);
choices(byId("views"), [["cutouts", "Cut-outs"], ["soft", "Soft edges"], ["differences", "Differences"]], "cutouts", (name) => {
  state.view = name;
  redraw();
});
swatches(byId("swatches"), byId("pick"), { group: "ground" });
acceptPictures((file) => begin(file).catch(complain));
openSession();
restore().catch(complain);
