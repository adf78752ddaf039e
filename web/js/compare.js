// Two pictures on one stage with a line between them that can be slid.

import { byId, el, show } from "./dom.js";
import { layer, stageOf } from "./view.js";

const side = (name) => {
  const image = el("img", { class: "cut", decoding: "async" });
  const words = el("span", { class: `side side-${name} small` });
  return { image, words, cover: el("div", { class: `cover cover-${name}` }, layer(image)) };
};

export class Compare {
  #sources = new Map();
  #left = side("left");
  #right = side("right");
  #view;
  #stage;

  constructor(view) {
    this.#view = view;
    for (const id of ["compare-left", "compare-right"]) byId(id).addEventListener("change", () => this.#draw());
    byId("wipe").addEventListener("input", (event) => this.#slide(Number(event.target.value)));
    byId("compare-close").addEventListener("click", () => this.close());
  }

  // `sources` by name: {label, small, large}.
  offer(sources, shape) {
    this.#sources = sources;
    if (!this.#stage) this.#build(shape);
    for (const [id, other] of [["compare-left", 0], ["compare-right", 1]]) {
      const chooser = byId(id);
      const chosen = chooser.value;
      chooser.replaceChildren(...[...sources].map(([name, { label }]) => el("option", { value: name }, label)));
      chooser.value = sources.has(chosen) ? chosen : [...sources.keys()][Math.min(other, sources.size - 1)] ?? "";
    }
    if (!byId("compare").hidden) this.#draw();
  }

  #build(shape) {
    const line = el("span", { class: "wipe-line", "aria-hidden": "true" }, el("span", { class: "wipe-grip" }, "⇔"));
    this.#stage = stageOf(this.#view, shape, this.#left.cover, this.#right.cover, line, this.#left.words, this.#right.words);
    this.#stage.classList.add("wiped");
    line.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      event.preventDefault();
      line.setPointerCapture(event.pointerId);
    });
    line.addEventListener("pointermove", (event) => {
      if (!line.hasPointerCapture(event.pointerId)) return;
      const box = this.#stage.getBoundingClientRect();
      this.#slide((100 * (event.clientX - box.x)) / box.width);
    });
    byId("compare-stage").replaceChildren(this.#stage);
    this.#slide(50);
  }

  #slide(percent) {
    const place = Math.round(Math.min(100, Math.max(0, percent)));
    byId("wipe").value = place;
    this.#stage.style.setProperty("--wipe", `${place}%`);
  }

  #draw() {
    for (const [part, id] of [[this.#left, "compare-left"], [this.#right, "compare-right"]]) {
      const source = this.#sources.get(byId(id).value);
      if (!source) continue;
      part.words.textContent = source.label;
      part.image.alt = source.label;
      if (part.image.dataset.small === source.small) continue;
      part.image.dataset.small = source.small;
      if (source.large) part.image.dataset.large = source.large;
      part.image.src = source.small;
    }
    this.#view.sharpen();
  }

  open(left, right) {
    byId("compare-left").value = left;
    byId("compare-right").value = right;
    show(byId("compare"), true);
    this.#draw();
    this.#view.sharpen();
    byId("compare").scrollIntoView({ block: "start" });
    byId("compare-title").focus({ preventScroll: true });
  }

  close() { show(byId("compare"), false); }

  reset() {
    this.#stage = undefined;
    this.close();
  }
}
