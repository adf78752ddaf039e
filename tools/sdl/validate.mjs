// Holds deployment files against Akash's own schema and cross-references, and makes the manifest
// that a provider would be sent. Offline. `node tools/sdl/validate.mjs FILE…`; 1 where one is refused.
import { readFile } from "node:fs/promises";
import { MAINNET_ID, generateManifest, validateSDL } from "@akashnetwork/chain-sdk";
import { load } from "js-yaml";

const where = ({ instancePath, message }) => `${instancePath || "/"}: ${message}`;

async function problems(file) {
  let document;
  try {
    document = load(await readFile(file, "utf8"));
    const refused = validateSDL(document, MAINNET_ID) ?? [];
    if (refused.length > 0) return [...new Set(refused.map(where))];
    const manifest = generateManifest(document, MAINNET_ID);
    return manifest.ok ? [] : manifest.value.map(where);
  } catch (error) {
    return [error.message];
  }
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: node validate.mjs FILE…");
  process.exit(2);
}
for (const file of files) {
  const found = await problems(file);
  if (found.length === 0) console.log(`${file}: valid`);
  for (const problem of found) console.error(`${file}: ${problem}`);
  if (found.length > 0) process.exitCode = 1;
}
