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
  source: () => document.documentElement.outerHTML + scriptOf({ ...SCRIPTS, serveTraining, say, turn, start, learn, voicePage }).join("\n"),
  book: () => window.aliveFiles.book,
};
const repeated = (train, held) => { // is more than half of what is held out, in pieces, in what is trained on?
  const [known, asked] = [train, held].map(bytes => new TextDecoder("latin1").decode(bytes));
  const pieces = Array.from({ length: 40 }, (_, i) => asked.substr(Math.floor(i / 40 * (asked.length - 32)), 32));
  return pieces.filter(piece => known.includes(piece)).length > 20;
};
const foreign = bytes => bytes.reduce((sum, byte) => sum + (byte > 127), 0) / bytes.length;
function warnings(train, held) { // what a text should make a reader doubt
  const repeats = " This text repeats itself: most of what is held out also stands in what is trained on, so a low loss proves nothing.";
  const signs = ` ${Math.round(100 * foreign(train))}% of its bytes are not ASCII. The base has read plain English letters only: its loss starts very high, and it will write broken signs.`;
  return (repeated(train, held) ? repeats : "") + (foreign(train) > 0.1 ? signs : "");
}
let picked = null; // one of these, of which the page shows the beginning: a whole book takes a browser long to lay out

function takes(text) { // another text: training begins anew
  picked = text;
  if (state === "idle") $("train").textContent = "Train on it";
}
function readable(bytes, name) { // own_text.read_own_text: nine tenths to train on; held out: the rest, from a line's start on
  const has = `${name} has ${number(bytes.length)} bytes`;
  if (!bytes.length) throw Error("There is no text yet: paste one, drop a file, or take one of these two.");
  if (bytes.length > MOST) throw Error(`${has}: at most ${number(MOST)}, so give it a part.`);
  try {
    if (new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0")) throw Error();
  } catch { throw Error(`${name} is no plain text in UTF-8: export it as plain text first.`); }
  if (bytes.length < LEAST) throw Error(`${has}: at least ${number(LEAST)} are needed, and 100,000 become a voice.`);
  const most = Math.floor(bytes.length * 0.9), start = bytes.lastIndexOf(10, most) + 1, cut = start > most / 2 ? start : most;
  const lines = new TextDecoder().decode(bytes.slice(cut, cut + 9000)).split("\n");
  const line = (lines.find(each => each.length > 27) ?? lines[0]).trim().slice(0, 52); // for a saved page
  return { train: bytes.slice(0, cut), held: evenWindows(bytes.slice(cut), HELD), about: has, line, doubts: warnings(bytes.slice(0, cut), bytes.slice(cut)) };
}
async function chosen(file) {
  if (file && file.size > MOST) return readable({ length: file.size }, file.name); // it is not even read
  if (file) return readable(new Uint8Array(await file.arrayBuffer()), file.name);
  return readable(toUtf8(picked ?? $("text").value), picked ? "This text" : "Your text");
}

// --- what is seen ------------------------------------------------------------------------------------------------------

const tell = text => { $("told").textContent = text; };

function drawYours(flat, { rank, out, width, end }) { // a corner of A, B and their product; B is blank at first
  const B = flat.subarray(end - rank * out, end), A = flat.subarray(end - rank * (out + width), end - rank * out);
  const shade = (value, full) => [...INKS[1], Math.min(255, 255 * Math.abs(value) / full)];
  draw("yours-A", side, rank, (x, k) => shade(A[k * width + x], 0.1));
  draw("yours-B", rank, side, (k, y) => shade(B[y * rank + k], 0.06));
  draw("yours-plaid", side, side, (x, y) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += B[y * rank + k] * A[k * width + x];
    return shade(sum, 0.03);
  });
}
function plot({ curves, steps }) { // nats a byte, 0 to 5, over the steps
  for (const name of ["own", "president", "seen"]) {
    const points = curves.filter(point => name in point);
    const place = point => `${30 + 260 * point.step / steps},${110 - 20 * Math.min(5, point[name])}`;
    $(`curve-${name}`).setAttribute("points", points.map(place).join(" "));
  }
}
const compared = (now, first) => [["own", "your held-out text"], ["president", "the president's"]]
  .map(([name, words]) => `${words} ${now[name].toFixed(2)} nats a byte (${first[name].toFixed(2)} before)`).join(", ");
function byHeart(curves) {
  const last = curves.at(-1), best = curves.reduce((a, b) => b.own < a.own ? b : a);
  if (last.own < best.own + 0.03 || last.seen > last.own - 0.3) return "";
  return ` It learns by heart: what it trains on fell to ${last.seen.toFixed(2)}, but what you held out was best, `
    + `${best.own.toFixed(2)}, after ${best.step} steps.`;
}

// --- the run -----------------------------------------------------------------------------------------------------------

let state = "idle", refused = false, lesson = null; // lesson: the run that is seen, with its team of Workers, and afterwards what it learned
async function start() {
  if (state !== "idle") { state = "stops"; return; }
  state = "runs";
  refused = false;
  try {
    const text = await chosen($("file").files[0]), { length } = text.train, before = lesson?.text;
    $("train").textContent = "Stop, and keep what it has learned";
    const goesOn = lesson?.stopped && before.length === length && before.every((byte, i) => byte === text.train[i]);
    if (!goesOn) await prepare(text);
    await learn();
    await finish();
  } catch (error) {
    refused = true;
    tell(error.message);
  }
  state = "idle";
  $("train").textContent = lesson?.stopped && !refused ? "Go on with it" : "Train on it";
}
async function prepare({ train: text, held, about, line, doubts }) {
  tell(`${about}. They stay in this tab. The model is unpacked once more.${doubts}`);
  lesson?.team.forEach(ask => ask.end());
  const team = Array.from({ length: Math.min(2, navigator.hardwareConcurrency || 1) }, hired);
  const given = ["load", window.aliveFiles.voices, typeof WebAssembly === "object"];
  const [{ flat, corner, compiled }] = await Promise.all(team.map(ask => ask(...given)));
  const [steps, wait] = compiled ? [100, ""] : [20, " Without WebAssembly a step takes several times longer: 20 in place of 100."];
  const slow = wait + doubts;
  const president = evenWindows(toUtf8(window.aliveFiles.president), HELD), { words, dice } = at;
  const run = train(team, flat, text, steps), begun = flat.slice(), lead = team[0], curves = [], losses = [];
  lesson = { text, held, line, president, words, dice, team, lead, flat, corner, run, begun, steps, slow, curves, losses };
  $("kept").hidden = !($("training").hidden = false);
  for (const answer of ["film", "answer-0", "answer-1", "answer-2"]) $(answer).replaceChildren();
  $("moved").textContent = "B is blank.";
  drawFrozen("yours-W");
  drawYours(flat, corner);
  lesson.before = await lesson.lead("frozen");
  await look(true);
}
async function measured(flat) { // on what was held out
  const { team, lead, held, president } = lesson;
  await Promise.all(team.map(ask => ask("wear", flat)));
  const [own, theirs] = await Promise.all([lead("loss", held), team.at(-1)("loss", president)]);
  return { own, president: theirs };
}
async function look(speaks) {
  const { flat, steps, slow, curves, losses, lead, words, dice } = lesson, step = losses.length, recent = losses.slice(-10);
  const now = await measured(flat), seen = recent.reduce((a, b) => a + b, 0) / recent.length;
  curves.push({ step, ...now, ...(step ? { seen } : {}) });
  plot(lesson);
  tell(`Step ${step} of ${steps}: ${compared(now, curves[0])}.${slow}`);
  if (!speaks) return;
  const line = document.createElement("li"), head = document.createElement("b");
  head.textContent = `step ${step}, ${now.own.toFixed(2)}: `;
  line.append(head, words + clean(await lead("speak", words, dice)));
  $("film").append(line);
}
async function learn() {
  const { run, begun, flat, steps, corner, losses } = lesson, { rank, out, width, end } = corner;
  lesson.stopped = false;
  for (let next; !(next = await run.next()).done;) { // after a stop it goes on from there
    const step = losses.push(next.value), middle = end - rank * out;
    drawYours(flat, corner);
    if (step === 1) {
      const most = (from, to) => flat.subarray(from, to).reduce((top, value, i) => Math.max(top, Math.abs(value - begun[from + i])), 0);
      lesson.moved = [most(middle - rank * width, middle), most(middle, end)];
      reveal();
    }
    if (lesson.stopped = state === "stops" && step < steps) break;
    if (step % 10 === 0 && step < steps) await look(step === 10 || step % 20 === 0);
  }
  await look(true);
}
function reveal() { // what was measured, beside a guess and not before one
  const guessed = n => document.querySelector(`[name=guess-${n}]:checked`)?.value;
  if (lesson?.moved && guessed(1)) {
    const [A, B] = lesson.moved.map(value => value.toFixed(4));
    $("moved").textContent = `In the first step A moved by ${A}, B by at most ${B}: A's gradient comes through B, which was blank.`;
  }
  lesson?.answers?.forEach((answer, n) => {
    const said = guessed(n) ? `You guessed: ${guessed(n)}. Measured: ${answer}.` : "Choose one, and you will see what was measured.";
    $(`answer-${n}`).textContent = said;
  });
}
async function finish() {
  const { lead, flat, curves, losses, moved: [A], before, slow } = lesson, [first, last] = [curves[0], curves.at(-1)];
  const { changed, checksum } = await lead("frozen"), control = await measured(await lead("shuffled", flat));
  const gain = (first.own - last.own).toFixed(2), price = (last.president - first.president).toFixed(2);
  lesson.answers = [`${number(changed)} changed; checksum ${before.checksum} before, ${checksum} now`,
    A ? "both" : "B alone, in the first step", `${price} nats a byte, while you gain ${gain}`];
  reveal();
  tell(`After ${losses.length} steps: ${compared(last, first)}. A control, the same numbers in other places: `
    + `${control.own.toFixed(2)} on your text.${byHeart(curves)}${slow}`);
  lesson.learned = await lead("singular", flat);
  $("kept").hidden = false;
  cut();
}

// --- afterwards: fewer directions, and two ways to keep it -------------------------------------------------------------

let cuts = 0;
async function cut() { // the trained rank, without training again
  const rank = Number($("cut").value), mine = ++cuts, { lead, learned, curves, words, dice } = lesson;
  $("cut-value").textContent = rank;
  const flat = await lead("first", learned, rank);
  if (mine !== cuts) return; // the handle has moved on
  const now = await measured(flat), text = await lead("speak", words, dice);
  if (mine === cuts) $("cut-said").textContent = `Rank ${rank}: ${compared(now, curves[0])}. ${words}${clean(text)} …`;
}
function download(name, parts, type) {
  Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob(parts, { type })), download: name }).click();
}
function voicePage(name) { // dial_page.voice_page: one file that asks for nothing, and opens at 1
  const safe = name.replace(/[&<>"]/g, letter => `&#${letter.charCodeAt(0)};`), bytes = new Uint8Array(lesson.learned.buffer);
  const chunk = i => btoa(String.fromCharCode(...bytes.subarray(9000 * i, 9000 * (i + 1)))); // a multiple of 3: they join
  const numbers = Array.from({ length: Math.ceil(bytes.length / 9000) }, (_, i) => chunk(i)).join("");
  const home = location.protocol === "file:" ? "" : location.href.replace(/#.*/, "");
  const adapter = { numbers, rank: RANK, alpha: ALPHA };
  const settings = { right: name, rights: "in a browser tab", home, start: 1, line: lesson.line, adapter };
  const policy = "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'";
  const script = [...scriptOf({ ...alive, ...writing, ...adapters, ...training, ...dialing }),
    `window.aliveFiles = ${JSON.stringify({ model: window.aliveFiles.voices })};\nshowVoice(${JSON.stringify(settings)});\n`];
  return [`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}"><title>The voice of ${safe}</title></head><body>
<noscript>Where scripts are off, this voice stays silent.</noscript><script>"use strict";
`, ...script.map(part => part.replaceAll("</", "<\\/").replaceAll("<!--", "<\\!--")), "</script></body></html>\n"];
}
$("save-page").addEventListener("click", () => {
  const name = $("name").value.trim() || "a text of mine";
  lesson.saved = true;
  download(`${name.match(/[\p{L}\p{N}]+/gu)?.join("-") ?? "voice"}.html`, voicePage(name), "text/html");
});
$("save-adapter").addEventListener("click", async () => {
  lesson.saved = true;
  download("adapter.zip", [await lesson.lead("files", lesson.learned)], "application/zip");
});
addEventListener("beforeunload", event => { // what was trained is only here
  if (state !== "idle" || lesson?.learned && !lesson.saved) event.preventDefault();
});
for (const choice of document.querySelectorAll(".guesses input")) choice.addEventListener("change", reveal);
$("cut").addEventListener("input", cut);
$("train").addEventListener("click", start);
for (const [id, text] of Object.entries(TEXTS)) $(id).addEventListener("click", () => {
  $("file").value = "";
  takes(text());
  $("text").value = `${picked.slice(0, 600)} …`;
  tell(`${number(toUtf8(picked).length)} bytes are here.`);
});
$("text").addEventListener("input", () => { $("file").value = ""; takes(null); });
$("file").addEventListener("change", () => takes(null));
$("yours").addEventListener("dragover", event => event.preventDefault());
$("yours").addEventListener("drop", event => {
  event.preventDefault();
  const { files } = event.dataTransfer;
  takes(null);
  $("text").value = files.length ? "" : event.dataTransfer.getData("text");
  if (files.length) $("file").files = files;
});
for (const id of ["yours", "picture"]) $(id)?.removeAttribute("hidden"); // what the dot needs comes first
