// "Yours", below the dot of try.html: a text of the reader's, QLoRA on it in two Workers, what is seen meanwhile, and two
// ways to keep the adapter. It comes after the model; names that are not made here are those of front.js and train.js.
"use strict";

// --- in a Worker: a message names one of these functions ---------------------------------------------------------------

function serveTraining() {
  let gpt, session, trainer;
  const parts = flat => adapterParts(gpt.tensors, RANK, flat);
  const calls = {
    load(voices, wasm) {
      gpt = new GPT(readSafetensors(fromBase64(voices)), { wasm, room: ROOM });
      session = gpt.newSession();
      trainer = new Trainer(gpt);
      const flat = addLora(gpt.tensors, RANK), { rank, out, width, end } = parts(flat).find(({ name }) => name === LAYER);
      return { flat, corner: { rank, out, width, end }, compiled: gpt.product !== product };
    },
    wear: flat => trainer.parameters.set(flat),
    window: bytes => trainer.window(bytes),
    loss: windows => windows.reduce((sum, bytes) => sum + trainer.forward(bytes) / windows.length, 0),
    speak: (words, dice) => [...written(gpt, session, { words, dice, gain: Array(RANK).fill(1) })].at(-1),
    frozen() { // how many of the weights that are multiplied are no longer what their codes say; and a checksum
      const used = Object.entries(trainer.layers).map(([name, { W }]) => [W, gpt.decoded(name, new Float32Array(W.length))]);
      const differ = ([W, decoded]) => W.reduce((count, weight, i) => count + (weight !== decoded[i]), 0);
      return { changed: used.reduce((sum, pair) => sum + differ(pair), 0), checksum: checksum(used.map(([W]) => W)) };
    },
    singular(flat) { parts(flat).forEach(inSingularBasis); return flat; },
    first(flat, count) { // of its directions
      for (const { A, width } of parts(flat)) A.fill(0, count * width);
      return flat;
    },
    shuffled: flat => shuffled(flat, gpt.tensors, RANK),
    files: flat => zipped(adapterFiles(flat, gpt.tensors, RANK, ALPHA)),
  };
  onmessage = ({ data: [name, ...given] }) => {
    try { postMessage({ answer: calls[name](...given) }); } catch (error) { postMessage({ trouble: error.message }); }
  };
}
const LAYER = "blocks.2.attention.v_proj"; // whose corner is drawn
const SCRIPTS = { ...alive, ...writing, ...adapters, ...training };
function hired() { // a Worker, as a function that asks it and waits; its answers come in order
  const waiting = [], hand = workerOf({ ...SCRIPTS, LAYER, serveTraining }, "serveTraining();");
  hand.onmessage = ({ data: { answer, trouble } }) => {
    const { resolve, reject } = waiting.shift();
    if (trouble) reject(Error(trouble)); else resolve(answer);
  };
  hand.onerror = ({ message }) => waiting.splice(0).forEach(({ reject }) => reject(Error(message)));
  const ask = (...call) => new Promise((resolve, reject) => { waiting.push({ resolve, reject }); hand.postMessage(call); });
  return Object.assign(ask, { end: () => hand.terminate() });
}

// --- the text ----------------------------------------------------------------------------------------------------------

const LEAST = 2000, MOST = 5e6, HELD = 12; // bytes; windows that are measured
const number = value => value.toLocaleString("en");
const TEXTS = { // that need not be found first
  source: () => [document.documentElement.outerHTML, ...Object.values({ ...SCRIPTS, serveTraining, say, draw, turn, start })]
    .filter(part => typeof part !== "object").join("\n\n"),
  book: () => window.aliveFiles.book,
};

function readable(bytes, name) { // own_text.read_own_text: nine tenths to train on; held out: the rest, from a line's start on
  const has = `${name} has ${number(bytes.length)} bytes`;
  if (!bytes.length) throw Error("There is no text yet: paste one, drop a file, or take one of these two.");
  if (bytes.length > MOST) throw Error(`${has}: at most ${number(MOST)}, so give it a part.`);
  try {
    if (new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0")) throw Error();
  } catch { throw Error(`${name} is no plain text in UTF-8: export it as plain text first.`); }
  if (bytes.length < LEAST) throw Error(`${has}: at least ${number(LEAST)} are needed, and 100,000 become a voice.`);
  const most = Math.floor(bytes.length * 0.9), line = bytes.lastIndexOf(10, most) + 1, cut = line > most / 2 ? line : most;
  return { train: bytes.slice(0, cut), held: evenWindows(bytes.slice(cut), HELD), about: has };
}
async function chosen(file) {
  if (file && file.size > MOST) return readable({ length: file.size }, file.name); // it is not even read
  return file ? readable(new Uint8Array(await file.arrayBuffer()), file.name) : readable(toUtf8($("text").value), "Your text");
}

// --- what is seen ------------------------------------------------------------------------------------------------------

const GUESSES = [
  ["How many of the 3,145,728 frozen weights change?", ["none", "a few", "all"]],
  ["Which strip moves first?", ["A", "B", "both at once"]],
  ["What does the president lose?", ["nothing", "less than you gain", "as much as you gain"]],
];
const tell = text => { $("told").textContent = text; };

function drawYours(flat, { rank, out, width, end }) { // a corner of A, B and their product; B is blank at first
  const B = flat.subarray(end - rank * out, end), A = flat.subarray(end - rank * (out + width), end - rank * out);
  const shade = (value, full) => [...INKS[0], Math.min(255, 255 * Math.abs(value) / full)];
  draw("yours-A", side, rank, (x, k) => shade(A[k * width + x], 0.1));
  draw("yours-B", rank, side, (k, y) => shade(B[y * rank + k], 0.06));
  draw("yours-plaid", side, side, (x, y) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += B[y * rank + k] * A[k * width + x];
    return shade(sum, 0.03);
  });
}
function plot(curves, steps) { // nats a byte, 0 to 4, over the steps
  for (const name of ["own", "president", "seen"]) {
    const points = curves.filter(point => name in point).map(point => `${30 + 260 * point.step / steps},${110 - 25 * Math.min(4, point[name])}`);
    $(`curve-${name}`).setAttribute("points", points.join(" "));
  }
}
function film(step, text, losses) {
  const line = document.createElement("li"), head = document.createElement("b");
  head.textContent = `${step}: `;
  line.append(head, at.words + clean(text), ` (${losses.own.toFixed(2)})`);
  $("film").append(line);
}
function askGuesses() { // they fill the wait
  $("guesses").replaceChildren(...GUESSES.map(([question, choices], n) => {
    const group = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = question;
    group.append(legend, ...choices.map(value => {
      const label = document.createElement("label");
      label.append(Object.assign(document.createElement("input"), { type: "radio", name: `guess-${n}`, value }), ` ${value} `);
      return label;
    }));
    return group;
  }));
}
function answerGuesses(measured) {
  [...$("guesses").children].forEach((group, n) => {
    const guess = group.querySelector(":checked")?.value, line = document.createElement("p");
    line.textContent = `${guess ? `You guessed: ${guess}. ` : ""}Measured: ${measured[n]}.`;
    group.append(line);
  });
}
function largestMove(from, to, start, end) {
  let most = 0;
  for (let i = start; i < end; i++) most = Math.max(most, Math.abs(to[i] - from[i]));
  return most;
}

// --- the run -----------------------------------------------------------------------------------------------------------

let team = [], state = "idle", learned = null; // learned: the adapter, the strongest directions first, and how it is measured
async function start() {
  if (state !== "idle") { state = "stops"; return; }
  try {
    const text = await chosen($("file").files[0]);
    state = "runs";
    $("train").textContent = "Stop, and keep what it has learned";
    await run(text);
  } catch (error) { tell(error.message); }
  state = "idle";
  $("train").textContent = "Train on it";
}
async function run({ train: seen, held, about }) {
  tell(`${about}. They stay in this tab. The model is unpacked once more.`);
  team.forEach(ask => ask.end());
  team = Array.from({ length: Math.min(2, navigator.hardwareConcurrency || 1) }, hired);
  const wasm = typeof WebAssembly === "object", given = ["load", window.aliveFiles.voices, wasm];
  const [{ flat, corner, compiled }] = await Promise.all(team.map(ask => ask(...given)));
  const steps = compiled ? 100 : 20, begun = flat.slice(), [lead] = team, curves = [], losses = [];
  const slow = compiled ? "" : " Without WebAssembly it takes several times longer: 20 steps in place of 100.";
  const president = evenWindows(toUtf8(window.aliveFiles.president), HELD);
  const measure = async now => { // on what was held out
    await Promise.all(team.map(ask => ask("wear", now)));
    const [own, theirs] = await Promise.all([lead("loss", held), team.at(-1)("loss", president)]);
    return { own, president: theirs };
  };
  const say = () => lead("speak", at.words, at.dice);
  const look = async (step, speaks) => {
    const now = await measure(flat), recent = losses.slice(-10);
    curves.push({ step, ...now, ...(step ? { seen: recent.reduce((a, b) => a + b) / recent.length } : {}) });
    plot(curves, steps);
    tell(`Step ${step} of ${steps}: ${compared(now, curves[0])}.${slow}`);
    if (speaks) film(step, await say(), now);
  };
  $("kept").hidden = !($("training").hidden = false);
  $("film").replaceChildren();
  $("moved").textContent = "B is blank.";
  askGuesses();
  drawFrozen("yours-W");
  drawYours(flat, corner);
  const { checksum: before } = await lead("frozen");
  await look(0, true);
  for await (const loss of train(team, flat, seen, steps)) {
    const step = losses.push(loss), { rank, out, width, end } = corner, middle = end - rank * out;
    drawYours(flat, corner);
    if (step === 1) {
      const [A, B] = [[middle - rank * width, middle], [middle, end]].map(place => largestMove(begun, flat, ...place));
      corner.moved = [A, B];
      $("moved").textContent = `In the first step A moved by ${A.toFixed(4)}, B by ${B.toFixed(4)} at most: the way to A leads through B.`;
    }
    if (state === "stops") break;
    if (step % 10 === 0 && step < steps) await look(step, step === 10 || step % 20 === 0);
  }
  await look(losses.length, true);
  const { changed, checksum: after } = await lead("frozen"), [first, last] = [curves[0], curves.at(-1)], [A, B] = corner.moved;
  const control = await measure(await lead("shuffled", flat));
  answerGuesses([`${number(changed)} changed; checksum ${before} before, ${after} after`,
    A ? "both at once" : "B, in the first step alone", `${(last.president - first.president).toFixed(2)}, and you gain ${(first.own - last.own).toFixed(2)} nats a byte`]);
  tell(`After ${losses.length} steps: ${compared(last, first)}. The control, the same numbers shuffled: ${control.own.toFixed(2)}. ${byHeart(curves)}${slow}`);
  learned = { flat: await lead("singular", flat.slice()), measure, say, first };
  $("kept").hidden = false;
  cut();
}
const compared = (now, first) => [["own", "your held-out text"], ["president", "the president's"]]
  .map(([name, words]) => `${words} ${now[name].toFixed(2)} nats a byte (${first[name].toFixed(2)} before)`).join(", ");
function byHeart(curves) {
  const last = curves.at(-1), best = curves.reduce((a, b) => b.own < a.own ? b : a);
  if (last.own < best.own + 0.03 || last.seen > last.own - 0.3) return "";
  return `Your text is learned by heart: what was trained on falls to ${last.seen.toFixed(2)}, and the held-out part was best at step ${best.step}, ${best.own.toFixed(2)}. `;
}

// --- afterwards: fewer directions, and two ways to keep it -------------------------------------------------------------

let cutting = 0;
async function cut() { // the trained rank, without training again
  const rank = Number($("cut").value), mine = ++cutting, { measure, say, first, flat } = learned;
  $("cut-value").textContent = rank;
  const now = await measure(await team[0]("first", flat, rank)), text = await say();
  if (mine === cutting) $("cut-said").textContent = `Rank ${rank}: ${compared(now, first)}. ${at.words}${clean(text)} …`;
}
function download(name, parts, type) {
  Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob(parts, { type })), download: name }).click();
}
function speakAlone() { // the script of a saved page
  const $ = id => document.getElementById(id), numbers = new Float32Array(fromBase64(aliveFiles.adapter).buffer);
  const gpt = new GPT(readSafetensors(fromBase64(aliveFiles.voices)), { room: numbers.length });
  const session = gpt.newSession(), flat = gpt.take(numbers.length);
  flat.set(numbers);
  wear(gpt, flat, RANK, ALPHA);
  let dice = 8, last = 0;
  async function show() {
    const mine = ++last, strength = Number($("strength").value), words = $("words").value;
    $("value").textContent = strength.toFixed(1);
    for (const text of written(gpt, session, { words, dice, gain: Array(RANK).fill(strength) })) {
      $("said").textContent = words + text.replace(/[*#_]/g, "");
      await new Promise(resolve => setTimeout(resolve));
      if (mine !== last) return;
    }
  }
  for (const id of ["strength", "words"]) $(id).addEventListener("input", show);
  $("dice").addEventListener("click", () => { dice++; show(); });
  show();
}
function voicePage(name) { // dial_page.voice_page: one file that asks for nothing; it opens at 1
  const title = `The voice of ${name.replace(/[&<>"]/g, letter => `&#${letter.charCodeAt(0)};`)}`, home = location.href.replace(/#.*/, "");
  const letters = new Uint8Array(learned.flat.buffer), chunks = Array.from({ length: Math.ceil(letters.length / 9000) }, (_, i) =>
    btoa(String.fromCharCode(...letters.subarray(9000 * i, 9000 * (i + 1))))); // 9000: a multiple of 3, so they join
  const files = { voices: window.aliveFiles.voices, adapter: chunks.join("") };
  return [`<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'">
<title>${title}</title><style>body { max-width: 50rem; margin: 0 auto; padding: 1rem; color-scheme: light dark; font: 1.1rem/1.5 system-ui; }
#said { font: 1.6rem/1.4 Georgia, serif; min-height: 9em; white-space: pre-wrap; } input { font: inherit; min-height: 44px; width: 100%; }
button { font: inherit; min-height: 44px; }</style></head><body><h1>${title}</h1>
<p>A small language model read presidents alone, and is frozen in 4 bits. Beside it stands an addition of 4%, trained in a browser tab on
${title.slice(13)}. At 0 you hear a president, at 1 the addition as it was trained, at 2 it babbles.</p>
<label>strength <span id="value"></span><input id="strength" type="range" min="0" max="2" step="0.1" value="1"></label>
<p id="said" aria-live="off"></p><label>first words <input id="words" maxlength="60" value="I have "></label>
<p><button id="dice">Other dice</button></p><p>Made with lora-edu, a course on LoRA. <a href="${home}">Make your own</a>.</p>
<script>"use strict";\n`, ...scriptOf({ ...SCRIPTS, aliveFiles: files, speakAlone }), "speakAlone();</script></body></html>\n"];
}
$("save-page").addEventListener("click", () => {
  const name = $("name").value.trim() || "a text of mine";
  download(`${name.replace(/[^\p{L}\p{N}]+/gu, "-")}.html`, voicePage(name), "text/html");
});
$("save-adapter").addEventListener("click", async () => download("adapter.zip", [await team[0]("files", learned.flat)], "application/zip"));
$("cut").addEventListener("input", cut);
$("train").addEventListener("click", start);
for (const [id, text] of Object.entries(TEXTS)) {
  $(id).addEventListener("click", () => { $("file").value = ""; $("text").value = text(); tell(`${number(toUtf8($("text").value).length)} bytes. Train on it.`); });
}
$("text").addEventListener("input", () => { $("file").value = ""; });
$("yours").addEventListener("dragover", event => event.preventDefault());
$("yours").addEventListener("drop", event => {
  event.preventDefault();
  if (event.dataTransfer.files.length) { $("file").files = event.dataTransfer.files; $("text").value = ""; }
  else $("text").value = event.dataTransfer.getData("text");
});
$("yours").hidden = false;
