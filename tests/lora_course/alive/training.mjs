// For test_train_js.py: node training.mjs VOICES.JS FOLDER: what train.js and adapter.js compute, as JSON, and adapter.zip.
import { readFileSync, writeFileSync } from "node:fs";

const [, , file, target] = process.argv, window = {}, here = new URL("../../../lora_course/alive/", import.meta.url);
const scripts = ["gpt.js", "writing.js", "adapter.js", "train.js"].map(name => readFileSync(new URL(name, here), "utf-8"));
new Function("window", readFileSync(file, "utf-8"))(window);
const page = new Function(`${scripts.join("\n").replaceAll('"use strict";', "")};
  return { ...alive, ...writing, ...adapters, ...training };`)(); // as a page has them
const { tensors, metadata } = page.readSafetensors(page.fromBase64(window.aliveFiles.voices));
const made = wasm => {
  const gpt = new page.GPT({ tensors, metadata }, { wasm, room: page.ROOM });
  return Object.assign(new page.Trainer(gpt), { gpt });
};
const text = page.toUtf8(window.aliveFiles.book), bytes = text.slice(300, 301 + page.WINDOW);

// One window, with a B that hides nothing: with WebAssembly and without.
const [compiled, other, plain] = [true, true, false].map(made);
const start = page.addLora(tensors, page.RANK), filled = start.slice();
for (const { B } of page.adapterParts(tensors, page.RANK, filled)) B.forEach((_, i) => { B[i] = 0.02 * Math.sin(i * i); });
const windows = [compiled, plain].map(trainer => {
  trainer.parameters.set(filled);
  const { loss, gradients } = trainer.window(bytes);
  return { loss, gradients: [...gradients], compiled: trainer.gpt.product !== page.product };
});

// Two steps by one worker and by two, the slower of which answers late; what the first step moved.
const asked = (trainer, wait) => async (name, given) => {
  if (name === "wear") return trainer.parameters.set(given);
  const answer = trainer.window(given);
  await new Promise(resolve => setTimeout(resolve, wait)); // meanwhile the other one goes on: answers come out of order
  return answer;
};
const run = async team => {
  const flat = start.slice(), losses = [], moved = [];
  for await (const loss of page.train(team, flat, text.slice(0, 5000), 2)) {
    losses.push(loss);
    const most = array => array.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const [now, then] = [flat, start].map(each => page.adapterParts(tensors, page.RANK, each));
    if (losses.length === 1) for (const name of ["A", "B"]) moved.push(Math.max(...now.map((part, i) =>
      most(part[name].map((value, at) => value - then[i][name][at])))));
  }
  return { flat, losses, moved };
};
const [alone, shared] = [await run([asked(compiled, 0)]), await run([asked(compiled, 0), asked(other, 600)])];

// Adam on gradients that are given; the schedule; the windows of an evaluation.
const adam = new page.AdamW(4), parameters = Float32Array.of(1, -2, 0.5, 0), grads = [[0.1, 0.2, 0, -0.3], [9, 0, -7, 0.1], [0, 0.5, 0, 0]];
for (const gradients of grads) adam.step(parameters, gradients, 0.05);
const rates = [0, 4, 5, 50, 99].map(step => page.learningRateFactor(step, 100));
const even = page.evenWindows(text.slice(0, 1001), 12).map(window => [...window]);

// Directions in the order of their strength, and the files.
const trained = alone.flat.map((value, i) => value + filled[i]), sorted = trained.slice(); // a B of every rank
page.adapterParts(tensors, page.RANK, sorted).forEach(page.inSingularBasis);
const layer = "blocks.1.mlp.up_proj";
const factors = [trained, sorted].map(flat => page.adapterParts(tensors, page.RANK, flat).find(({ name }) => name === layer));
const mixed = page.shuffled(trained, tensors, page.RANK);
compiled.parameters.set(trained);
const logits = [...compiled.gpt.read(compiled.gpt.newSession(), [...bytes].slice(0, 40))];
writeFileSync(`${target}/adapter.zip`, page.zipped(page.adapterFiles(trained, tensors, page.RANK, page.ALPHA)));
console.log(JSON.stringify({
  bytes: [...bytes], windows, filled: [...filled], losses: alone.losses, moved: alone.moved, logits, rates, even, grads,
  same: shared.flat.every((value, i) => value === alone.flat[i]), parameters: [...parameters],
  factors: factors.map(({ A, B }) => [[...A], [...B]]), mixed: mixed.every((value, i) => value === trained[i]),
  sums: [trained, mixed].map(flat => [...flat].sort().reduce((a, b) => a + b, 0)),
}));
