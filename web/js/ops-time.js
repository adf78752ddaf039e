// Days and months in UTC, as the routes name them.

const DAY_MS = 86_400_000;
const iso = (ms) => new Date(ms).toISOString().slice(0, 10);

// What the range chosen on the page means to the routes.
export const spanOf = (days) => ({ days, by: days > 31 ? "month" : "day" });

export const daysBack = ({ days }, today = Date.now()) => iso(today - (days - 1) * DAY_MS);

// The names of all days or months of a span, the earliest first, those without anything included.
export function periods({ days, by }, today = Date.now()) {
  const names = Array.from({ length: days }, (_, back) => iso(today - (days - 1 - back) * DAY_MS));
  const keys = by === "month" ? [...new Set(names.map((name) => name.slice(0, 7)))] : names;
  return keys.map((key) => ({ key, label: by === "month" ? key : key.slice(5) }));
}

// Sums by the same names.
export function grouped(byDay, { by }) {
  const sums = new Map();
  for (const [day, value] of Object.entries(byDay)) {
    const key = by === "month" ? day.slice(0, 7) : day;
    sums.set(key, (sums.get(key) ?? 0) + value);
  }
  return sums;
}
