// The state machines of this folder, as the template deploys them.

import { readdirSync } from "node:fs";
import { readSource } from "./simulator.mjs";

const folder = new URL("../jobs/", import.meta.url);

/** Returns the names of all jobs, `group/job`. */
export function jobNames() {
  return readdirSync(folder)
    .flatMap((group) => readdirSync(new URL(`${group}/`, folder)).map((file) => `${group}/${file}`))
    .filter((path) => path.endsWith(".asl.json"))
    .map((path) => path.replace(".asl.json", ""));
}

/** Returns the text of a job's state machine. */
export function jobSource(name, values) {
  return readSource(new URL(`${name}.asl.json`, folder), values);
}

/** Returns a job's state machine. */
export function job(name, values) {
  return JSON.parse(jobSource(name, values));
}
