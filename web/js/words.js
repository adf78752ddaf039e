// What the service says in codes, for a customer.

const NAMES = {
  "runware-rmbg-2.0": "RMBG 2.0",
  "runware-birefnet-portrait": "BiRefNet Portrait",
  "kie-recraft": "Recraft",
  "local-birefnet-general": "BiRefNet General",
  "local-isnet": "ISNet",
  "local-knockout": "Colour knock-out",
  "local-ben2": "BEN2",
};

export const nameOf = (model) => NAMES[model] ?? model;

export const seconds = (ms) => (ms === undefined ? "" : ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);

export const dollars = (usd) =>
  usd === undefined ? "" : usd === 0 ? "free" : `$${usd < 0.01 ? usd.toFixed(4) : usd.toFixed(3)}`;

export const bytes = (count) => (count < 1e6 ? `${Math.ceil(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`);

const FLAGS = {
  empty: "Nothing is left",
  full_frame: "Nothing was removed",
  lost_interior: "A part inside is missing",
  many_islands: "Many loose specks",
  rim_equals_ground: "Rim looks like the background",
};

export const flagOf = (flag) => FLAGS[flag] ?? flag;

// Why a model has no cut-out, and what can be done: "retry", "insist" (without triage) or nothing.
const FAILURES = {
  provider_timeout: "It did not finish in time.",
  provider_unreachable: "Its service could not be reached.",
  provider_refused: "Its service turned us away. The shop has to look after that.",
  provider_quota: "The shop's credit there is used up.",
  provider_rate_limited: "It has too much to do at the moment.",
  provider_error: "It broke down at this picture.",
  provider_bad_result: "It sent something that is no cut-out.",
  provider_outcome_unknown: "Its answer was lost. It may have been paid for, so it is not asked again by itself.",
  content_rejected: "It does not work on pictures like this one.",
  model_crashed: "It broke down at this picture.",
  insufficient_memory: "The picture is too large for it at the moment.",
  insufficient_storage: "There is no room left for it. The shop has to look after that.",
  storage_unavailable: "It could not be kept. The shop has to look after that.",
  cancelled: "It was stopped before it had finished.",
};

const SKIPS = {
  unconfigured: ["The shop does not use it.", null],
  unavailable: ["It is not there at the moment.", "retry"],
  circuit_open: ["It is having trouble and is left alone for a while.", "retry"],
  budget: ["What may be spent today is spent.", null],
  not_needed: ["Not asked: your picture seems to be cut out already, or blank.", "insist"],
  enough: ["Not asked: the others were enough.", "retry"],
};

export function whyNot(entry) {
  if (entry.status === "skipped") {
    const [words, offer] = SKIPS[entry.reason] ?? [entry.detail ?? entry.reason, null];
    return { title: "Not asked", words, offer };
  }
  const code = entry.error?.code;
  const words = FAILURES[code] ?? entry.error?.message ?? "It did not work.";
  const offer = entry.error?.retryable || code === "cancelled" || code === "provider_outcome_unknown" ? "retry" : null;
  return { title: "No cut-out", words, offer };
}

export const EDGES = {
  soft: ["Soft", "As the picture has it. Soft pixels print with white under them."],
  print: ["Print (usual)", "Faint traces go, what is nearly solid becomes solid, the rim stays smooth."],
  hard: ["Hard", "No soft pixels at all: the cleanest film, outlines show their pixels."],
  halftone: ["Halftone dots", "Glows, shadows and smoke become dots, so that the shirt shows through."],
};

// Inches as services/print_size.py has them; a test compares.
export const PRESETS = {
  left_chest: ["Left chest", 4],
  front: ["Front", 11],
  oversize_front: ["Front, oversize", 13.25],
  full_back: ["Full back", 12.5],
  youth: ["Youth", 9],
  toddler: ["Toddler", 6],
  infant: ["Infant", 5],
  sleeve: ["Sleeve", 3.25],
  neck: ["Neck", 2.5],
};

const CHECKS = {
  effective_dpi: "Sharpness",
  output_dpi: "Resolution of the file",
  aspect_size: "Width on the film",
  has_transparency: "Background",
  ghost_pixels: "Faint traces",
  near_opaque: "Nearly solid areas",
  soft_area: "See-through areas",
  edge_band_px: "Softness of the edge",
  stray_islands: "Loose specks",
  min_line_px: "Thin lines",
  min_gap_px: "Narrow gaps",
  near_white: "Almost white",
  margin: "Empty margin",
  colour: "Colour space",
  visible_on_garment: "Visible on this shirt",
};

export const checkOf = (id) => CHECKS[id] ?? id;
