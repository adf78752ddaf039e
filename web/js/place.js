// Where the customer is, in the address's fragment: it survives a reload and is never sent anywhere.
//
// #shot=<id>[.<token>][,…]&pick=<model>&print=<id>[.<token>]; a token opens its one result, no more.

const ID = /^[0-9a-f]{32}$/;

const written = ({ id, token }) => (token ? `${id}.${token}` : id);

function readOne(text) {
  const [id, token = null] = text.split(".");
  return ID.test(id) ? { id, token } : null;
}

const readAll = (text) => (text ?? "").split(",").map(readOne).filter(Boolean);

export function readPlace() {
  const parts = new URLSearchParams(location.hash.slice(1));
  return { shots: readAll(parts.get("shot")), pick: parts.get("pick"), print: readAll(parts.get("print"))[0] ?? null };
}

export function writePlace({ shots, pick, print }) {
  const parts = [];
  if (shots.length) parts.push(`shot=${shots.map(written).join(",")}`);
  if (pick) parts.push(`pick=${encodeURIComponent(pick)}`);
  if (print) parts.push(`print=${written(print)}`);
  const rest = location.pathname + location.search;
  history.replaceState(null, "", parts.length ? `${rest}#${parts.join("&")}` : rest);
}
