// From the picked cut-out to a file: its size, its edges, what the print check says, the download.

import { Refusal, ask, local, picture, tokenOf } from "./api.js";
import { Brush } from "./brush.js";
import { byId, el, say, show, trouble } from "./dom.js";
import { download } from "./download.js";
import { swatches } from "./shirt.js";
import { View, layer, stageOf } from "./view.js";
import { EDGES, PRESETS, checkOf, nameOf } from "./words.js";

const DPI = 300;
const LEAST_DPI = 150;
const FILM_IN = 22;
const MOST_TIMES = 8; // as large as the picture: the service's MAX_SCALE; a test compares
const GAUGE_DPI = 400;
const OWN = "own";
const PREVIEW = 1024;
const LARGE = 2048;
const GARMENTS = ["black", "white", "heather"]; // in every bundle, beside the one chosen here
const SEVERITIES = { pass: ["good", "Fine"], warn: ["warn", "Look at it"], fail: ["bad", "Mend it"] };

const rounded = (inches) => Math.max(0.5, Math.floor(inches * 20) / 20);
const options = (table, named) => Object.entries(table).map(([value, each]) => el("option", { value }, named(each)));

// What the service does itself about a finding, as a change of the form.
const FIXES = {
  resize: (form) => [`Make it ${form.sharpWidth} in wide`, () => form.setWidth(form.sharpWidth)],
  ghosts: (form) => ["Clear the traces", () => form.setEdge("print")],
  islands: (form) => ["Drop the specks", () => form.setEdge("print")],
  "edge=print": (form) => ["Make it solid", () => form.setEdge("print")],
  "edge=hard": (form) => ["Cut the edge hard", () => form.setEdge("hard")],
  "edge=halftone": (form) => ["Turn it into dots", () => form.setEdge("halftone")],
  trim: () => ["Cut the margin away", () => { byId("trim").checked = true; }],
  snap_white: (form) => ["Make white pure white", () => form.snapWhite()],
};

class SizeForm {
  #width = 1; // of the cut-out, in pixels
  #height = 1;
  #box = null;
  #snapsWhite = false;

  constructor(onChange) {
    byId("preset").replaceChildren(...options(PRESETS, ([name, inches]) => `${name} (${inches} in)`), el("option", { value: OWN }, "A size of my own"));
    byId("edge").replaceChildren(...options(EDGES, ([name]) => name));
    byId("preset").addEventListener("change", () => {
      const preset = PRESETS[byId("preset").value];
      if (preset) byId("width").value = preset[1];
      this.#changed(onChange);
    });
    byId("width").addEventListener("input", () => { byId("preset").value = OWN; this.#changed(onChange); });
    for (const id of ["edge", "trim"]) byId(id).addEventListener("change", () => this.#changed(onChange));
    this.#change = () => this.#changed(onChange);
  }

  #change;

  open(entry, wishes) {
    [this.#width, this.#height, this.#box] = [entry.width, entry.height, entry.bbox ?? null];
    byId("preset").value = wishes.preset ?? (wishes.width_in ? OWN : "front");
    byId("trim").checked = wishes.trim ?? true;
    byId("width").value = wishes.width_in ?? PRESETS[byId("preset").value]?.[1] ?? PRESETS.front[1];
    if (this.width > this.mostWidth) {
      byId("width").value = this.mostWidth;
      byId("preset").value = OWN;
    }
    byId("edge").value = wishes.edge ?? "print";
    this.#snapsWhite = wishes.snap_white ?? false;
    this.#tell();
  }

  get width() { return Number(byId("width").value); }

  // Pixels of the cut-out that the width is made of.
  get #pixels() {
    const box = byId("trim").checked && this.#box;
    return box ? [box[2] - box[0], box[3] - box[1]] : [this.#width, this.#height];
  }

  get mostWidth() { return rounded((MOST_TIMES * this.#pixels[0]) / DPI); }

  get sharpWidth() { return rounded(Math.min(FILM_IN, this.#pixels[0] / DPI)); }

  setWidth(inches) { byId("width").value = inches; byId("preset").value = OWN; this.#change(); }

  setEdge(edge) { byId("edge").value = edge; this.#change(); }

  snapWhite() { this.#snapsWhite = true; this.#change(); }

  wishes() {
    return {
      width_in: this.width, dpi: DPI, edge: byId("edge").value, trim: byId("trim").checked,
      snap_white: this.#snapsWhite,
    };
  }

  #changed(onChange) {
    this.#tell();
    onChange();
  }

  #tell() {
    const [across, down] = this.#pixels;
    const { width } = this;
    byId("edge-words").textContent = EDGES[byId("edge").value][1];
    const tooWide = width > this.mostWidth;
    byId("width").setCustomValidity(tooWide ? `This picture can become ${this.mostWidth} in wide at most.` : "");
    byId("width").setAttribute("aria-invalid", String(tooWide));
    if (!(width > 0)) return;
    const height = (width * down) / across;
    const inches = (value) => Number(value.toFixed(2));
    const centimetres = (value) => Number((value * 2.54).toFixed(1));
    byId("size-words").textContent =
      `${inches(width)} × ${inches(height)} in on the shirt (${centimetres(width)} × ${centimetres(height)} cm).`;
    this.#gauge(Math.round(across / width));
  }

  #gauge(dpi) {
    const level = dpi >= DPI ? "good" : dpi >= LEAST_DPI ? "warn" : "bad";
    const words = {
      good: "Sharp: the picture has enough pixels of its own at this size.",
      warn: "A little soft: the picture has fewer pixels of its own than a sharp print wants.",
      bad: `Blurry: sharp up to ${this.sharpWidth} in. Enlarging fills the file up but adds no detail.`,
    }[level];
    const gauge = byId("gauge");
    gauge.dataset.level = level;
    gauge.setAttribute("aria-valuenow", String(Math.min(dpi, GAUGE_DPI)));
    gauge.setAttribute("aria-valuetext", `${dpi} dots an inch. ${words}`);
    gauge.style.setProperty("--at", `${(100 * Math.min(dpi, GAUGE_DPI)) / GAUGE_DPI}%`);
    byId("gauge-told").textContent = `${dpi} dpi`;
    byId("gauge-words").textContent = words;
  }
}

export class PrintStep {
  #form = new SizeForm(() => this.#stale());
  #view = new View(byId("print"));
  #brush;
  #ground;
  #garment = null;
  #shot = null; // {id, token} of what is rendered, always the first unless a reload lost the strokes
  #entry = null;
  #render = null; // the record of the last rendering
  #fresh = false; // whether that rendering is what the form says
  #image;
  #original;
  #onRender;

  // `onRender` gets {id, token} of each rendering.
  constructor(onRender) {
    this.#onRender = onRender;
    this.#brush = new Brush({
      onApply: () => this.#applyBrush(),
      onOpen: (on) => this.#brushing(on),
      onChange: () => this.#stale(),
    });
    this.#ground = swatches(byId("print-swatches"), byId("print"), {
      group: "print-ground", drawn: true,
      onGround: (garment) => { this.#garment = garment; if (this.#entry) this.#stale(); },
    });
    byId("size-form").addEventListener("submit", (event) => { event.preventDefault(); this.update(); });
    byId("download-print").addEventListener("click", () => this.#download("print"));
    byId("download-bundle").addEventListener("click", () => this.#download("bundle"));
  }

  // Begin with a cut-out, or (after a reload) with a rendering of it.
  open({ shot, entry, original, render = null, renderShot = null }) {
    const asked = render?.rendered_from?.parameters ?? {};
    const mended = render && render.rendered_from.restored_px + render.rendered_from.erased_px > 0;
    [this.#shot, this.#entry] = [mended ? renderShot : shot, entry];
    [this.#render, this.#fresh] = [render, Boolean(render)];
    this.#form.open(entry, { ...asked });
    byId("print-words").textContent = `Cut out by ${nameOf(entry.model)}.`;
    this.#image = el("img", { class: "cut", decoding: "async" });
    this.#original = el("img", { class: "original", alt: "", decoding: "async" });
    if (original) this.#original.src = original;
    const art = layer(this.#image);
    art.prepend(this.#original);
    const stage = stageOf(this.#view, entry, art);
    byId("print-stage").replaceChildren(stage);
    this.#view.set(1, 0, 0);
    this.#brush.lay(stage, entry);
    this.#showPicture(this.#shown ?? entry);
    this.#tellChecks();
  }

  showOriginal(original) {
    if (original && this.#original) this.#original.src = original;
  }

  get #shown() { return this.#render?.results.find((each) => each.status === "succeeded"); }

  #brushing(on) {
    this.#ground.draw(!on);
    if (on && byId("print").dataset.ground === "black") this.#ground.choose("check");
  }

  async #applyBrush() {
    if (!(await this.update())) return;
    this.#brush.open(false); // its strokes stay, so that they can still be taken back
    this.#brushing(false);
    byId("brush-toggle").focus();
  }

  // The picture before stays until the new one is there.
  #showPicture(entry) {
    const image = this.#image;
    const src = picture(entry, { preview: PREVIEW });
    const next = new Image();
    next.src = src;
    const put = () => {
      if (image !== this.#image) return;
      image.alt = `Your cut-out by ${nameOf(entry.model)} as it will print`;
      image.src = src;
      image.dataset.large = picture(entry, { preview: LARGE });
      this.#view.sharpen();
    };
    if (image.src) next.decode().then(put).catch(put);
    else put();
  }

  #stale() {
    this.#fresh = false;
    const words = this.#render ? "You have changed something since the last check." : "Not checked yet.";
    byId("checks-words").textContent = words;
    byId("update").textContent = this.#render ? "Check again" : "Check this print";
  }

  // Have it rendered as the form and the brush say; whether that worked.
  async update() {
    if (!byId("size-form").reportValidity()) return false;
    this.#busy(true);
    trouble(null);
    try {
      const form = new FormData();
      const wishes = { model: this.#entry.model, ...this.#form.wishes(), garment: this.#garment };
      for (const [name, value] of Object.entries(wishes)) if (value !== null) form.append(name, value);
      for (const [name, mask] of Object.entries(await this.#brush.masks())) form.append(name, mask, `${name}.png`);
      this.#render = await (await ask(`results/${this.#shot.id}/render`, { method: "POST", body: form })).json();
      this.#fresh = true;
      this.#onRender({ id: this.#render.request_id, token: tokenOf(this.#shown?.url) });
      this.#showPicture(this.#shown);
      this.#tellChecks();
      return true;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      byId("checks-list").replaceChildren();
      show(byId("verdict"), false);
      byId("checks-words").className = "notice bad";
      byId("checks-words").textContent = `${error.message} ${error.hint}`.trim();
      return false;
    } finally {
      this.#busy(false);
    }
  }

  #busy(on) {
    byId("checks").setAttribute("aria-busy", String(on));
    for (const id of ["update", "brush-apply", "download-print", "download-bundle"]) byId(id).disabled = on;
    if (on) {
      byId("checks-words").className = "soft";
      byId("checks-words").textContent = "Looking at it";
    }
    else byId("brush-apply").disabled = !this.#brush.isUsed;
  }

  #tellChecks() {
    const check = this.#shown?.print_check;
    const verdict = byId("verdict");
    show(verdict, Boolean(check));
    show(byId("passed"), Boolean(check));
    byId("update").textContent = check ? "Check again" : "Check this print";
    byId("checks-list").replaceChildren();
    byId("checks-words").textContent = "Not checked yet.";
    if (!check) return;
    const [kind, word] = SEVERITIES[check.verdict];
    verdict.className = `badge ${kind}`;
    verdict.textContent = word;
    const found = check.checks.filter((each) => each.severity !== "pass");
    const worst = [...found].sort((a, b) => (a.severity === b.severity ? 0 : a.severity === "fail" ? -1 : 1));
    const words = found.length ? `${found.length} ${found.length === 1 ? "thing" : "things"} to know before it is printed.` : "It will print well.";
    byId("checks-words").textContent = words;
    say(`Print check: ${words}`);
    byId("checks-list").replaceChildren(...worst.map((each) => this.#finding(each)));
    byId("passed-list").replaceChildren(...check.checks.filter((each) => each.severity === "pass").map((each) => el("li", {}, `${checkOf(each.id)}: ${each.issue}`)));
  }

  #finding(check) {
    const [kind, word] = SEVERITIES[check.severity];
    const fix = FIXES[check.autofix]?.(this.#form);
    const mend = () => { fix[1](); this.update(); };
    return el("li", { class: `finding ${kind}` },
      el("div", { class: "row" }, el("b", {}, checkOf(check.id)), el("span", { class: `badge ${kind}` }, word)),
      el("p", { class: "small" }, check.issue),
      check.fix ? el("p", { class: "small soft" }, check.fix) : null,
      fix ? el("button", { class: "button", type: "button", onclick: mend }, fix[0]) : null);
  }

  async #download(what) {
    if (!this.#fresh && !(await this.update())) return;
    const entry = this.#shown;
    const id = this.#render.request_id;
    const url = what === "print" ? local(entry.print_url) : local(`/results/${id}/bundle.zip`);
    const token = tokenOf(entry.url);
    if (token) url.searchParams.set("token", token);
    if (what === "bundle") url.searchParams.set("garments", [...new Set([...GARMENTS, this.#garment ?? "black"])].join(","));
    trouble(null);
    try {
      await download(url, what === "print" ? `print-${id.slice(0, 8)}.png` : `print-${id.slice(0, 8)}.zip`);
    } catch (error) {
      const words = error instanceof Refusal ? error.message : "The download broke off. Try it again.";
      trouble(words);
    }
  }
}
