// What a cut-out is laid on: a checkerboard, a shirt's colour, or a drawn T-shirt of that colour.

import { el, svg } from "./dom.js";

// The names and colours of services/print_colours.py; a test compares.
export const SHIRTS = {
  white: "#ffffff",
  black: "#111111",
  heather: "#9ea0a3",
  navy: "#1e2842",
  royal: "#244a96",
  red: "#be182d",
  forest: "#203e30",
  sand: "#d0c6b2",
};

const TITLES = { white: "White", black: "Black", heather: "Heather grey", navy: "Navy", royal: "Royal blue", red: "Red", forest: "Forest green", sand: "Sand" };

const SHAPE = "M72 14 30 34 6 86l32 16 10-22v106h104V80l10 22 32-16-24-52-42-20a28 22 0 0 1-56 0z";

export const shirt = () =>
  svg("svg", { class: "shirt", viewBox: "0 0 200 200", "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" },
    svg("path", { class: "shirt-cloth", d: SHAPE }),
    svg("path", { class: "shirt-seam", d: "M72 14a28 22 0 0 0 56 0M69 17a32 27 0 0 0 62 0M48 80l3-22M152 80l-3-22" }));

function swatch(group, value, title, checked) {
  return el("label", { class: `swatch swatch-${value}`, title },
    el("input", { type: "radio", name: group, value, checked, class: "unseen" }),
    el("span", { class: "swatch-face" }), el("span", { class: "unseen" }, title));
}

// The row of backgrounds; `target` shows what is chosen, `onGround` hears "#rrggbb", a name or null.
export function swatches(place, target, { group, drawn = false, onGround = () => {} }) {
  const own = el("input", { type: "color", value: "#7a1fa2", class: "own", "aria-label": "A colour of your own" });
  const cloth = el("button", { class: "button cloth", type: "button", "aria-pressed": String(drawn) }, "T-shirt");
  const lay = (ground) => {
    target.dataset.ground = ground;
    target.style.setProperty("--shirt", SHIRTS[ground] ?? (ground === "check" ? "#ffffff" : own.value));
    onGround(ground === "check" ? null : ground === "own" ? own.value : ground);
  };
  const draw = (on) => {
    cloth.setAttribute("aria-pressed", String(on));
    target.classList.toggle("drawn", on);
  };
  place.replaceChildren(
    swatch(group, "check", "Checkerboard", true),
    ...Object.keys(SHIRTS).map((name) => swatch(group, name, TITLES[name], false)),
    el("label", { class: "swatch", title: "A colour of your own" },
      el("input", { type: "radio", name: group, value: "own", class: "unseen" }), el("span", { class: "unseen" }, "A colour of your own"), own),
    cloth);
  place.addEventListener("change", (event) => { if (event.target.type === "radio") lay(event.target.value); });
  own.addEventListener("input", () => { place.querySelector("[value=own]").checked = true; lay("own"); });
  cloth.addEventListener("click", () => draw(cloth.getAttribute("aria-pressed") !== "true"));
  const choose = (ground) => { place.querySelector(`[value=${ground}]`).checked = true; lay(ground); };
  choose(drawn ? "black" : "check");
  draw(drawn);
  return { choose, draw };
}
