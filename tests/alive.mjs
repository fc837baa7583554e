// Runs gpt.js and breaking.js for test_alive.py: node alive.mjs gpt.js breaking.js model.safetensors source.safetensors jobs.json logits.bin
import { readFileSync, writeFileSync } from "node:fs";

const [engine, breaking, model, source, jobs, target] = process.argv.slice(2);
const scripts = [engine, breaking].map(path => readFileSync(path, "utf-8").replace('"use strict";', "")).join("\n");
const { GPT, readSafetensors, roundTo } = new Function(`${scripts}; return { GPT, readSafetensors, roundTo };`)(); // as a page has them
const [file, int8] = [model, source].map(path => readSafetensors(new Uint8Array(readFileSync(path))));
const models = [false, true].map(wasm => new GPT(file, { wasm })), sessions = models.map(gpt => gpt.newSession()), out = [];
let before = "";
for (const { bytes, strength, rank, bits, blockSize, wasm, oneByOne } of JSON.parse(readFileSync(jobs))) {
  const gpt = models[+wasm], session = sessions[+wasm], now = `${bits} ${blockSize}`;
  if (now !== before) for (const each of models) bits ? roundTo(each, int8, bits, blockSize) : each.restore();
  before = now;
  Object.assign(gpt, { strength, rank });
  session.position = 0;
  const rows = oneByOne ? bytes.map(byte => gpt.next(session, byte).slice()) : [gpt.read(session, bytes)];
  out.push(...rows.map(row => Buffer.from(row.slice().buffer)));
}
writeFileSync(target, Buffer.concat(out));
