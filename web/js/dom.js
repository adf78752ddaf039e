// Elements out of data: text stays text, nothing is ever parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

export function show(node, visible) {
  node.hidden = !visible;
}

export function say(words) {
  byId("live").textContent = words;
}

export function trouble(problem) {
  const place = byId("trouble");
  show(place, Boolean(problem));
  place.replaceChildren(...(problem ? [problem] : []));
  if (problem) place.scrollIntoView({ block: "nearest" });
}

// One of several buttons is pressed; returns what presses another.
export function choices(place, options, chosen, onChoice) {
  const buttons = new Map();
  const press = (name) => {
    for (const [each, button] of buttons) button.setAttribute("aria-pressed", String(each === name));
  };
  for (const [name, label] of options) {
    const button = el("button", { class: "button", type: "button" }, label);
    button.addEventListener("click", () => { press(name); onChoice(name); });
    buttons.set(name, button);
  }
  place.replaceChildren(...buttons.values());
  press(chosen);
  return press;
}
