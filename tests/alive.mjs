// Runs gpt.js for test_alive.py: node alive.mjs gpt.js model.safetensors source.safetensors jobs.json logits.bin
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";

const [engine, model, source, jobs, target] = process.argv.slice(2);
const { GPT, readSafetensors } = createRequire(import.meta.url)(engine);
const [file, int8] = [model, source].map(path => readSafetensors(new Uint8Array(readFileSync(path))));
const models = [false, true].map(wasm => new GPT(file, { wasm })), sessions = models.map(gpt => gpt.newSession()), out = [];
let before = "";
for (const { bytes, strength, rank, bits, blockSize, wasm, oneByOne } of JSON.parse(readFileSync(jobs))) {
  const gpt = models[+wasm], session = sessions[+wasm], now = `${bits} ${blockSize}`;
  if (now !== before) for (const each of models) bits ? each.roundTo(int8, bits, blockSize) : each.restore();
  before = now;
  Object.assign(gpt, { strength, rank });
  session.position = 0;
  const rows = oneByOne ? bytes.map(byte => gpt.next(session, byte).slice()) : [gpt.read(session, bytes)];
  out.push(...rows.map(row => Buffer.from(row.slice().buffer)));
}
writeFileSync(target, Buffer.concat(out));
