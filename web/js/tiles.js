// The models' tiles in their fixed order; each fills in when its model has landed.

import { picture } from "./api.js";
import { el } from "./dom.js";
import { layer, stageOf } from "./view.js";
import { dollars, flagOf, nameOf, seconds, whyNot } from "./words.js";

const PREVIEW = devicePixelRatio > 1.25 ? 512 : 320; // a tile is some 250 wide
const LARGE = 2048;

const badge = (kind, words) => el("span", { class: `badge ${kind}` }, words);

function badges(entry, { recommended, picked }) {
  return el("div", { class: "badges" },
    picked ? badge("accent", "Your pick") : null,
    recommended ? badge("good", "Recommended") : null,
    ...(entry.flags ?? []).map((flag) => badge("warn", flagOf(flag))),
    entry.sandbox ? badge("", "Sandbox") : null);
}

const facts = (entry) =>
  el("p", { class: "facts small soft number", elementtiming: `${entry.model} facts` }, [seconds(entry.latency_ms), dollars(entry.cost_usd)].filter(Boolean).join(" · "));

export class Tiles {
  #place;
  #view;
  #acts;
  #tiles = new Map();

  // `acts` are what the buttons do: pick, compare, retry, canRetry.
  constructor(place, view, acts) {
    this.#place = place;
    this.#view = view;
    this.#acts = acts;
  }

  // Empty tiles for these models, of pictures of that shape.
  open(models, shape) {
    this.#tiles.clear();
    this.#place.replaceChildren(...models.map((model) => {
      const stage = stageOf(this.#view, shape);
      const about = el("div", { class: "about" });
      const node = el("article", { class: "tile", "data-model": model, "aria-labelledby": `tile-${model}` },
        el("h2", { class: "tile-name", id: `tile-${model}` }, nameOf(model)), stage, about);
      this.#tiles.set(model, { node, stage, about, told: "" });
      return node;
    }));
    for (const model of models) this.fill({ model, status: "pending" }, {});
  }

  // One model's outcome; what is the same as before is left alone.
  fill(entry, standing, overlay = false) {
    const tile = this.#tiles.get(entry.model);
    const told = JSON.stringify([entry, standing, overlay]);
    if (!tile || tile.told === told) return;
    tile.told = told;
    tile.node.dataset.status = entry.status;
    tile.node.classList.toggle("picked", Boolean(standing.picked));
    tile.node.classList.toggle("recommended", Boolean(standing.recommended));
    if (entry.status === "succeeded") this.#landed(tile, entry, standing, overlay);
    else if (entry.status === "pending") this.#pending(tile);
    else this.#missing(tile, entry);
  }

  #landed(tile, entry, standing, overlay) {
    const name = nameOf(entry.model);
    const wishes = { overlay: overlay ? 1 : null };
    const image = tile.stage.querySelector("img") ?? el("img", { class: "cut", elementtiming: entry.model });
    const src = picture(entry, { ...wishes, preview: PREVIEW });
    if (image.dataset.small !== src) {
      image.alt = overlay ? `Cut-out by ${name}, its soft edges in red` : `Cut-out by ${name}`;
      image.dataset.small = src;
      image.dataset.large = picture(entry, { ...wishes, preview: LARGE });
      image.src = src;
    }
    if (!image.isConnected) tile.stage.replaceChildren(layer(image));
    this.#view.sharpen();
    tile.about.replaceChildren(badges(entry, standing), facts(entry),
      el("div", { class: "row tile-buttons" },
        this.#button("button main", "Pick", `Pick ${name}`, () => this.#acts.pick(entry.model)),
        this.#button("button", "Compare", `Compare ${name} with another`, () => this.#acts.compare(entry.model))));
  }

  #pending(tile) {
    tile.stage.replaceChildren(el("p", { class: "waiting soft small" }, el("span", { class: "spinner", "aria-hidden": "true" }), "Working on it"));
    tile.about.replaceChildren();
  }

  #missing(tile, entry) {
    const { title, words, offer } = whyNot(entry);
    const act = offer && this.#acts.canRetry() ? offer : null;
    tile.stage.replaceChildren(el("div", { class: "missing" }, el("b", {}, title), el("p", { class: "small" }, words)));
    const name = nameOf(entry.model);
    const label = offer === "insist" ? "Ask it all the same" : "Try it again";
    const retry = act
      ? this.#button("button", label, `${label}: ${name}`, () => this.#acts.retry(entry.model, offer))
      : offer ? el("p", { class: "small soft" }, "To try again, send the picture again.") : null;
    tile.about.replaceChildren(facts(entry), ...(retry ? [el("div", { class: "row tile-buttons" }, retry)] : []));
  }

  #button(kind, label, spoken, act) {
    return el("button", { class: kind, type: "button", "aria-label": spoken, onclick: act }, label);
  }
}
