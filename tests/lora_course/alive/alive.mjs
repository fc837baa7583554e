// Runs gpt.js and breaking.js for test_alive.py: node alive.mjs gpt.js breaking.js model.safetensors source.safetensors jobs.json logits.bin
import { readFileSync, writeFileSync } from "node:fs";

const [engine, breaking, model, source, jobs, target] = process.argv.slice(2);
const paths = [engine, breaking, new URL("alive_jobs.js", import.meta.url)];
const scripts = paths.map(path => readFileSync(path, "utf-8").replace('"use strict";', "")).join("\n");
const page = new Function(`${scripts}; return { GPT, readSafetensors, roundTo, logitsOf };`)(); // as a page has them
const [file, int8] = [model, source].map(path => page.readSafetensors(new Uint8Array(readFileSync(path))));
const out = page.logitsOf(page, file, int8, JSON.parse(readFileSync(jobs)));
writeFileSync(target, Buffer.concat(out.map(row => Buffer.from(row.buffer))));
