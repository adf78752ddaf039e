// Drives npm's remove.bg 1.3.0 through its three ways to send a picture; its one constant is changed.
// `node drive.js HOME HOST KEY PICTURE PICTURE_URL` prints a line of JSON: what each call gave back,
// or the error it was rejected with.
"use strict";

const fs = require("fs");
const Module = require("module");
const path = require("path");

const [home, host, key, picture, url] = process.argv.slice(2);
const THEIRS = "https://api.remove.bg/v1.0/removebg";

function clientOf(file) {
  const source = fs.readFileSync(file, "utf8");
  if (source.split(THEIRS).length !== 2) throw new Error("the address stands there more than once");
  const module_ = new Module(file);
  module_.filename = file;
  module_.paths = Module._nodeModulePaths(path.dirname(file));
  module_._compile(source.replace(THEIRS, `${host}/v1.0/removebg`), file);
  return module_.exports;
}

const client = clientOf(path.join(home, "node_modules", "remove.bg", "dist", "index.js"));
const base64img = fs.readFileSync(picture).toString("base64");
const calls = {
  file: () =>
    client.removeBackgroundFromImageFile({ path: picture, apiKey: key, size: "regular" }),
  options: () =>
    client.removeBackgroundFromImageFile({
      path: picture, apiKey: key, size: "full", type: "auto", crop: true, crop_margin: "5px",
      roi: "0% 0% 100% 100%", scale: "50%", position: "center", channels: "rgba",
      bg_color: "ff0000", add_shadow: false,
    }),
  url: () => client.removeBackgroundFromImageUrl({ url, apiKey: key, size: "hd" }),
  base64: () => client.removeBackgroundFromImageBase64({ base64img, apiKey: key }),
  refused: () =>
    client.removeBackgroundFromImageBase64({ base64img, apiKey: key, size: "enormous" }),
};

(async () => {
  const said = {};
  for (const [name, call] of Object.entries(calls)) {
    said[name] = await call().catch((errors) => ({ errors }));
  }
  process.stdout.write(JSON.stringify(said) + "\n");
})();
