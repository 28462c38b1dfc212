// Reads a summary slide with zarrita alone: lists its arrays, reads some, and the JPEG stream of a kept patch.
// npm install zarrita @zarrita/storage; node read_summary.mjs B12.ozx
import { openAsBlob } from "node:fs";
import ZipFileStore from "@zarrita/storage/zip";
import * as zarr from "zarrita";

const store = ZipFileStore.fromBlob(await openAsBlob(process.argv[2]));
const root = await zarr.open(zarr.root(store), { kind: "group" });
const { members, patches, pixels } = root.attrs.wsisum;
const arrays = Object.keys(members)
  .filter((name) => name.endsWith("/zarr.json"))
  .map((name) => name.slice(0, -"/zarr.json".length));

for (const name of arrays) {
  if (name.indexOf("/") < 0 && name !== "0" && name !== "icc_profile") continue; // a group
  try {
    const array = await zarr.open(root.resolve(name), { kind: "array" });
    console.log(name, array.dtype, array.shape.join(" x "));
  } catch (error) {
    console.log(name, "not read:", error.message);
  }
}
const read = async (name, selection = null) =>
  (await zarr.get(await zarr.open(root.resolve(name), { kind: "array" }), selection)).data;
const weights = await read("patches/weights");
const coords = await read("patches/coords");
console.log("patches:", patches, "first at", coords[0], coords[1], "weights sum to", weights.reduce((a, b) => a + b).toFixed(6));
const row = await read(pixels.mode === "source" ? "patches/tiles" : "patches/pixels", [0, null]);
console.log("first row:", row.length, "bytes, begins with", [...row.slice(0, 3)].map((b) => b.toString(16)).join(" "));
