// One zoom and one place for all pictures of a group: what moves in one moves in all.

import { byId, el, show } from "./dom.js";
import { shirt } from "./shirt.js";

const MOST = 8;
const STEP = 0.2; // of a stage's side, for one press of a pan button
const SHARP_FROM = 1.5; // from this zoom on the larger preview is worth its bytes

export class View {
  zoom = 1;
  #x = 0;
  #y = 0;
  #target;
  #told;

  constructor(target, told = () => {}) {
    this.#target = target;
    this.#told = told;
  }

  // `x` and `y` shift the picture, in parts of the stage's sides.
  set(zoom, x = this.#x, y = this.#y) {
    this.zoom = Math.min(MOST, Math.max(1, zoom));
    const most = (this.zoom - 1) / 2;
    const within = (value) => Math.min(most, Math.max(-most, value));
    [this.#x, this.#y] = [within(x), within(y)];
    const { style } = this.#target;
    style.setProperty("--zoom", this.zoom);
    style.setProperty("--x", this.#x);
    style.setProperty("--y", this.#y);
    this.#target.classList.toggle("zoomed", this.zoom > 1);
    this.sharpen();
    this.#told(this.zoom);
  }

  shift(dx, dy) { this.set(this.zoom, this.#x + dx, this.#y + dy); }

  // Zoom so that the point under (`px`, `py`), measured from the stage's middle, stays where it is.
  zoomAt(zoom, px, py) {
    const factor = Math.min(MOST, Math.max(1, zoom)) / this.zoom;
    this.set(zoom, px - (px - this.#x) * factor, py - (py - this.#y) * factor);
  }

  // Where the zoom is worth it, the larger previews in the smaller ones' place once they are there.
  sharpen() {
    if (this.zoom <= SHARP_FROM) return;
    for (const image of this.#target.querySelectorAll("img[data-large]")) {
      const { large } = image.dataset;
      delete image.dataset.large;
      const loading = new Image();
      loading.src = large;
      const { src } = image;
      loading.decode().then(() => { if (image.src === src) image.src = large; }).catch(() => {});
    }
  }

  attach(stage) {
    const touching = new Map();
    let apart = 0;
    const middle = (event) => {
      const box = stage.getBoundingClientRect();
      return [(event.clientX - box.x) / box.width - 0.5, (event.clientY - box.y) / box.height - 0.5];
    };
    const distance = () => {
      const [a, b] = [...touching.values()];
      return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    };
    stage.addEventListener("pointerdown", (event) => {
      if (stage.classList.contains("brushing")) return;
      touching.set(event.pointerId, event);
      if (touching.size === 2) apart = distance();
      if (this.zoom > 1 || touching.size === 2) stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      const before = touching.get(event.pointerId);
      if (!before) return;
      touching.set(event.pointerId, event);
      if (touching.size === 2) {
        const now = distance();
        this.zoomAt(this.zoom * (now / apart), ...middle(event));
        apart = now;
      } else if (this.zoom > 1) {
        const box = stage.getBoundingClientRect();
        this.shift((event.clientX - before.clientX) / box.width, (event.clientY - before.clientY) / box.height);
      }
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      stage.addEventListener(end, (event) => touching.delete(event.pointerId));
    }
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      this.zoomAt(this.zoom * Math.exp(-event.deltaY / 300), ...middle(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      if (!stage.classList.contains("brushing")) this.zoomAt(this.zoom > 1 ? 1 : 3, ...middle(event));
    });
  }
}

// One picture on its ground, moved by its group's view.
export function layer(image) {
  return el("div", { class: "art" }, shirt(), image);
}

export function stageOf(view, shape, ...layers) {
  const stage = el("div", { class: "stage" }, ...layers);
  if (shape) stage.style.setProperty("aspect-ratio", `${shape.width} / ${shape.height}`);
  view.attach(stage);
  return stage;
}

// The toolbar's zoom: a slider, and buttons where there is something to pan.
export function zoomTools(target) {
  const slider = byId("zoom");
  const pan = byId("pan");
  const view = new View(target, (zoom) => {
    slider.value = zoom;
    byId("zoom-told").textContent = `${Number(zoom.toFixed(2))}×`;
    show(pan, zoom > 1);
  });
  const arrows = [["left", "←", STEP, 0], ["up", "↑", 0, STEP], ["down", "↓", 0, -STEP], ["right", "→", -STEP, 0]];
  for (const [side, sign, dx, dy] of arrows) {
    const press = () => view.shift(dx, dy);
    pan.append(el("button", { class: "button square", type: "button", "aria-label": `Look further ${side}`, onclick: press }, sign));
  }
  slider.addEventListener("input", () => view.set(Number(slider.value)));
  byId("fit").addEventListener("click", () => view.set(1, 0, 0));
  view.set(1);
  return view;
}
