// node places.mjs VOICES.JS: what is written at each place of the dot, and a corner of a layer, as data/places.js.
// With numbers after it, such as 3 0 12 5: only these places, as JSON. The arithmetic is that of the page.
import { readFileSync } from "node:fs";

const WORDS = "I have ", DICE = 8, STEP = 0.1, SIDE = 21, LAYER = "blocks.2.attention.v_proj", CORNER = 48;
const script = name => readFileSync(new URL(name, import.meta.url), "utf-8").replace('"use strict";', "");
const [, , file, ...asked] = process.argv, window = {};
new Function("window", readFileSync(file, "utf-8"))(window);
const { GPT, readSafetensors, fromBase64, gains, written, leads } = new Function(
  `${script("gpt.js")}${script("writing.js")}; return { ...alive, ...writing };`)();
const { tensors, metadata } = readSafetensors(fromBase64(window.aliveFiles.voices));
const gpt = new GPT({ tensors, metadata }), session = gpt.newSession(), every = Array(gpt.rank).fill(1);

function place(i, j) { // playwright i steps, prophet j
  const text = [...written(gpt, session, { words: WORDS, dice: DICE, gain: gains(i * STEP, j * STEP, every) })].at(-1);
  return [text, leads(gpt, session, WORDS, text)];
}
// A corner of a layer: its codes, and of A and B as many columns and rows, in steps of a 127th of their largest.
function corner() {
  const base64 = numbers => Buffer.from(numbers.buffer).toString("base64"), { rank: r, d_model: d } = gpt;
  const cut = (rows, columns, value) =>
    Array.from({ length: rows * columns }, (_, i) => value(Math.floor(i / columns), i % columns));
  const factor = (name, rows, columns, width) => {
    const values = cut(rows, columns, (y, x) => tensors[`adapter.${LAYER}.${name}`][y * width + x]);
    const largest = Math.max(...values.map(Math.abs));
    return base64(Int8Array.from(values, value => Math.round(value / largest * 127)));
  };
  const both = (y, x) => tensors[LAYER + ".codes"][(y * d + x) >> 1]; // two codes, the first in the high half
  const codes = Uint8Array.from(cut(CORNER, CORNER, (y, x) => x & 1 ? both(y, x) & 15 : both(y, x) >> 4));
  return { side: CORNER, codes: base64(codes), A: factor("lora_A", r, CORNER, d), B: factor("lora_B", CORNER, r, r) };
}

if (asked.length) {
  const found = asked.map((i, n) => n % 2 ? null : place(Number(i), Number(asked[n + 1]))).filter(Boolean);
  console.log(JSON.stringify(found));
} else {
  const all = Array.from({ length: SIDE ** 2 }, (_, at) => place(at % SIDE, Math.floor(at / SIDE)));
  const known = { voices: metadata.adler32, words: WORDS, dice: DICE, step: STEP, side: SIDE, rank: gpt.rank };
  const found = { texts: all.map(([text]) => text), leads: all.map(([, whose]) => whose), corner: corner() };
  console.log(`window.places = ${JSON.stringify({ ...known, ...found })};`);
}
