// Runs gpt.js for test_alive.py: node alive.mjs gpt.js model.safetensors jobs.json logits.bin
import { readFileSync, writeFileSync } from "node:fs";

const [engine, model, jobs, target] = process.argv.slice(2);
const paths = [engine, new URL("alive_jobs.js", import.meta.url)];
const scripts = paths.map(path => readFileSync(path, "utf-8").replace('"use strict";', "")).join("\n");
const page = new Function(`${scripts}; return { GPT, readSafetensors, logitsOf };`)(); // as a page has them
const file = page.readSafetensors(new Uint8Array(readFileSync(model)));
const out = page.logitsOf(page.GPT, file, JSON.parse(readFileSync(jobs)));
writeFileSync(target, Buffer.concat(out.map(row => Buffer.from(row.buffer))));
