// The brush: strokes over the picture, kept as strokes so that each can be taken back, and drawn as
// two masks (white is painted) of the picture's own size when they are applied.

import { byId, choices, el, say, show } from "./dom.js";

const SCREEN = 1024; // longest side of what is drawn over the picture
const MASK = 4096; // longest side of a mask; larger pictures get one of the same shape
const COLOURS = { keep: "#1fb45a", erase: "#e0352b" };
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const sized = ({ width, height }, most) => {
  const factor = Math.min(1, most / Math.max(width, height));
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
};

function draw(context, stroke, colour) {
  const { width, height } = context.canvas;
  context.strokeStyle = context.fillStyle = colour;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = stroke.size * width;
  context.beginPath();
  const [[x, y]] = stroke.points;
  context.moveTo(x * width, y * height);
  for (const [px, py] of stroke.points) context.lineTo(px * width, py * height);
  if (stroke.points.length === 1) context.lineTo(x * width + 0.01, y * height);
  context.stroke();
}

export class Brush {
  #strokes = [];
  #undone = [];
  #mode = "keep";
  #now = null;
  #at = [0.5, 0.5];
  #shape;
  #stage;
  #canvas = el("canvas", { class: "paint", tabindex: "0", role: "application", "aria-labelledby": "brush-title", "aria-describedby": "brush-help" });
  #ring = el("span", { class: "ring", "aria-hidden": "true" });
  #changed;

  constructor({ onApply, onOpen, onChange }) {
    this.#changed = onChange;
    choices(byId("brush-modes"), [["keep", "Bring back"], ["erase", "Rub out"]], "keep", (mode) => { this.#mode = mode; });
    byId("brush-undo").addEventListener("click", () => this.#step(this.#strokes, this.#undone));
    byId("brush-redo").addEventListener("click", () => this.#step(this.#undone, this.#strokes));
    byId("brush-apply").addEventListener("click", onApply);
    byId("brush-size").addEventListener("input", () => this.#point());
    byId("brush-toggle").addEventListener("click", () => { this.open(byId("brush").hidden); onOpen(!byId("brush").hidden); });
    this.#canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#go(event));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const end of ["pointerup", "pointercancel"]) this.#canvas.addEventListener(end, () => this.#end());
  }

  // Put it over a stage that shows a picture of that shape; earlier strokes are forgotten.
  lay(stage, shape) {
    this.#stage = stage;
    this.#shape = shape;
    this.#strokes = [];
    this.#undone = [];
    [this.#canvas.width, this.#canvas.height] = sized(shape, SCREEN);
    stage.querySelector(".art").append(this.#canvas, this.#ring);
    this.open(false);
    this.#redraw();
  }

  open(on) {
    show(byId("brush"), on);
    this.#stage?.classList.toggle("brushing", on);
    byId("brush-toggle").setAttribute("aria-expanded", String(on));
    byId("brush-toggle").textContent = on ? "Close the brush" : "Open the brush";
    this.#point();
  }

  get isUsed() { return this.#strokes.length > 0; }

  get #size() { return Number(byId("brush-size").value) / 100; }

  // {keep, erase}: PNG blobs, only those that something was painted on.
  async masks() {
    const [width, height] = sized(this.#shape, MASK);
    const made = {};
    for (const mode of ["keep", "erase"]) {
      if (!this.#strokes.some((stroke) => stroke.mode === mode)) continue;
      const canvas = el("canvas", { width, height });
      const context = canvas.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, height);
      // the last stroke over a pixel wins
      for (const stroke of this.#strokes) draw(context, stroke, stroke.mode === mode ? "#fff" : "#000");
      made[mode] = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    }
    return made;
  }

  #step(from, to) {
    if (from.length) to.push(from.pop());
    this.#redraw();
    this.#changed();
    say(`${this.#strokes.length} strokes.`);
  }

  #redraw() {
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    for (const stroke of [...this.#strokes, ...(this.#now ? [this.#now] : [])]) {
      context.globalCompositeOperation = "destination-out"; // so that colours never mix
      draw(context, stroke, "#000");
      context.globalCompositeOperation = "source-over";
      draw(context, stroke, COLOURS[stroke.mode]);
    }
    byId("brush-undo").disabled = byId("brush-apply").disabled = !this.#strokes.length;
    byId("brush-redo").disabled = !this.#undone.length;
  }

  #where(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
  }

  #point() {
    const { style } = this.#ring;
    style.setProperty("left", `${100 * this.#at[0]}%`);
    style.setProperty("top", `${100 * this.#at[1]}%`);
    style.setProperty("width", `${100 * this.#size}%`);
  }

  #start(point) {
    this.#now = { mode: this.#mode, size: this.#size, points: [point] };
    this.#undone = [];
    this.#redraw();
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    this.#start(this.#where(event));
  }

  #go(event) {
    this.#at = this.#where(event);
    this.#point();
    if (!this.#now) return;
    this.#now.points.push(this.#at);
    this.#redraw();
  }

  #end() {
    if (!this.#now) return;
    this.#strokes.push(this.#now);
    this.#now = null;
    this.#redraw();
    this.#changed();
  }

  #key(event) {
    const slider = byId("brush-size");
    if (event.key in MOVES) {
      const step = event.shiftKey ? 0.005 : 0.02;
      this.#at = this.#at.map((value, axis) => Math.min(1, Math.max(0, value + MOVES[event.key][axis] * step)));
    } else if (event.key === " " || event.key === "Enter") {
      this.#start([...this.#at]);
      this.#end();
      say(this.#mode === "keep" ? "Brought back here." : "Rubbed out here.");
    } else if (event.key === "[" || event.key === "]") {
      slider.value = Number(slider.value) + (event.key === "]" ? 1 : -1);
    } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      this.#step(...(event.shiftKey ? [this.#undone, this.#strokes] : [this.#strokes, this.#undone]));
    } else return;
    event.preventDefault();
    this.#point();
  }
}
