// Charts as SVG: text of a fixed size at whatever width there is, described for who does not see them.

import { el, svg } from "./dom.js";

const ROW = 48;
const BAR = 10;
const COLUMNS_HIGH = 110;
let charts = 0;

// A picture with title and description, its parts drawn for a width.
function picture({ title, desc, width, height }, ...parts) {
  const id = `chart-${(charts += 1)}`;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-labelledby": `${id}-title ${id}-desc` },
    svg("title", { id: `${id}-title` }, title),
    svg("desc", { id: `${id}-desc` }, desc),
    ...parts,
  );
}

const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, words);
const bar = (x, y, width, height, tone) =>
  svg("rect", { x, y, width: Math.max(0, width), height, rx: 2, class: tone });

// A bar for each row, its name and its number above it; `low` and `high` draw an interval below it.
export function bars({ title, desc, width, rows, max }) {
  const scale = (value) => (max > 0 ? Math.min(1, Math.max(0, value / max)) * width : 0);
  const parts = rows.flatMap(({ name, value, told, low, high, tone = "accent", rest }, index) => {
    const top = index * ROW;
    const line = top + 22 + BAR + 6;
    return [
      text(0, top + 14, name),
      text(width, top + 14, told, { "text-anchor": "end" }),
      bar(0, top + 22, width, BAR, "track"),
      bar(0, top + 22, scale(value), BAR, `tone-${tone}`),
      rest ? bar(scale(value), top + 22, scale(value + rest) - scale(value), BAR, "tone-warn") : null,
      high === undefined
        ? null
        : svg("path", {
            class: "whisker",
            d: `M${scale(low)} ${line}H${scale(high)}M${scale(low)} ${line - 3}v6M${scale(high)} ${line - 3}v6`,
          }),
    ];
  });
  return picture({ title, desc, width, height: rows.length * ROW }, ...parts);
}

// A column for each point, the highest named at the axis.
export function columns({ title, desc, width, points, highest }) {
  const max = Math.max(...points.map(({ value }) => value), 0);
  const step = width / points.length;
  const parts = points.map(({ value }, index) => {
    const high = max > 0 ? (value / max) * COLUMNS_HIGH : 0;
    const wide = Math.max(1, step - Math.min(4, step / 4));
    return bar(index * step, 20 + COLUMNS_HIGH - high, wide, high, "tone-accent");
  });
  const foot = 20 + COLUMNS_HIGH;
  return picture(
    { title, desc, width, height: foot + 20 },
    text(0, 12, highest, { class: "faint" }),
    ...parts,
    svg("path", { class: "axis", d: `M0 ${foot + 0.5}H${width}` }),
    text(0, foot + 16, points[0].label, { class: "faint" }),
    text(width, foot + 16, points.at(-1).label, { class: "faint", "text-anchor": "end" }),
  );
}

// One bar divided; the table beside it is its legend.
export function stack({ title, desc, width, pieces }) {
  const total = pieces.reduce((sum, { value }) => sum + value, 0);
  let left = 0;
  const parts = pieces.map(({ value, tone }) => {
    const wide = total > 0 ? (value / total) * width : 0;
    left += wide;
    return bar(left - wide, 0, wide - (wide > 3 ? 1.5 : 0), 22, `tone-${tone}`);
  });
  return picture({ title, desc, width, height: 22 }, ...parts);
}

// What may be wider than the screen, within reach of the keyboard.
export const scrolling = (name, ...content) =>
  el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, ...content);

export function table(caption, head, rows, { stacking = false } = {}) {
  const cell = (content, index) => {
    const { name, kind } = head[index];
    const shown = content ?? "";
    return index === 0
      ? el("th", { scope: "row", role: "rowheader", class: kind }, shown)
      : el("td", { role: "cell", class: kind, "data-label": name }, ...(shown === "" ? [] : [shown]));
  };
  const titles = head.map(({ name, kind }) =>
    el("th", { scope: "col", role: "columnheader", class: kind }, name));
  return el(
    "table",
    { role: "table", class: stacking ? "table stacking" : "table" },
    el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...titles)),
    el("tbody", { role: "rowgroup" }, ...rows.map((row) => el("tr", { role: "row" }, ...row.map(cell)))),
  );
}

// A chart in its place, drawn again when it has another width, with its numbers as a table below.
// What is folded open stays so when the numbers change.
export function chartIn(place, { open = false } = {}) {
  const caption = el("figcaption");
  const plot = el("div");
  const scroll = scrolling("");
  const numbers = open ? scroll : el("details", {}, el("summary", {}, "As a table"), scroll);
  const figure = el("figure", { class: "chart" }, caption, plot, numbers);
  let draw = null;
  let width = 0;
  new ResizeObserver(() => requestAnimationFrame(() => redraw(false))).observe(plot);

  function redraw(fresh) {
    const now = Math.floor(plot.clientWidth);
    if (!draw || !now || (!fresh && now === width)) return;
    width = now;
    plot.replaceChildren(draw(width));
  }

  return ({ title, desc, head, rows, drawn }) => {
    if (!figure.isConnected) place.replaceChildren(figure);
    caption.textContent = title;
    draw = (wide) => drawn({ title, desc, width: wide });
    redraw(true);
    scroll.setAttribute("aria-label", `${title}, as a table`);
    scroll.replaceChildren(table(title, head, rows));
  };
}
