// sharp as a peer of bench.upscale: paths come in on standard input, times and sizes go out as JSON.
// `node upscale_sharp.mjs FOLDER` takes sharp from FOLDER/node_modules. With each answer goes
// whether kernel lanczos3 gave the very bytes of kernel cubic (asked once a picture, not timed).

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const sharp = createRequire(`${process.argv[2]}/`)("sharp");
const SCALE = 4;
const kernelsAgree = new Map();

sharp.cache(false); // or a second round would find the first one's work

async function enlarged(path, kernel) {
  const { width, height } = await sharp(path).metadata();
  return sharp(path).resize(width * SCALE, height * SCALE, { kernel });
}

async function lanczosIsCubic(path) {
  if (!kernelsAgree.has(path)) {
    const [lanczos, cubic] = await Promise.all(
      ["lanczos3", "cubic"].map(async (kernel) => (await enlarged(path, kernel)).raw().toBuffer()),
    );
    kernelsAgree.set(path, lanczos.equals(cubic));
  }
  return kernelsAgree.get(path);
}

const { sharp: own, vips } = sharp.versions;
const version = `${own}, libvips ${vips}, sharp.concurrency() ${sharp.concurrency()}`;
console.log(JSON.stringify({ version }));
for await (const path of createInterface({ input: process.stdin })) {
  const begun = performance.now();
  const png = await (await enlarged(path, "lanczos3")).png().toBuffer();
  const ms = performance.now() - begun;
  const lanczos_is_cubic = await lanczosIsCubic(path);
  console.log(JSON.stringify({ ms, bytes: png.length, lanczos_is_cubic }));
}
