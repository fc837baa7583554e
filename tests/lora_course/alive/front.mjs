// For test_front.py: node front.mjs VOICES.JS JOBS.JSON: the logits of each job with its gains, and what the dice do.
import { readFileSync } from "node:fs";

const [, , file, jobs] = process.argv, window = {};
const folder = new URL("../../../lora_course/alive/", import.meta.url);
const script = name => readFileSync(new URL(name, folder), "utf-8").replace('"use strict";', "");
new Function("window", readFileSync(file, "utf-8"))(window);
const page = new Function(`${script("gpt.js")}${script("writing.js")}; return { ...alive, ...writing };`)();
const gpt = new page.GPT(page.readSafetensors(page.fromBase64(window.aliveFiles.voices)));
const session = gpt.newSession();
const logits = JSON.parse(readFileSync(jobs)).map(({ bytes, strengths, stops }) => {
  gpt.gain.set(page.gains(...strengths, stops));
  session.position = 0;
  return [...gpt.read(session, bytes)];
});
const counts = Array(256).fill(0), flat = new Float32Array(256).fill(-20);
flat[65] = 0.6 * Math.log(3); flat[66] = 0; // at this temperature three As to a B
for (let place = 0; place < 4000; place++) counts[page.drawn(flat, page.thrown(5, place))]++;
const dice = [page.thrown(1, 7), page.thrown(1, 7), page.thrown(2, 7)].map(noise => [...noise.slice(0, 3)]);
console.log(JSON.stringify({ logits, counts, dice }));
