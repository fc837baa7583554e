// try.html: a dot between three voices. It works at once on the sentences of places.js; the model comes afterwards,
// into a Worker, and writes what is stored nowhere. Everything works by keyboard; color never stands alone.
"use strict";

const $ = id => document.getElementById(id), PLACES = window.places, half = PLACES.rank / 2;
const VOICES = ["playwright", "prophet"], LARGEST = (PLACES.side - 1) * PLACES.step;
const at = { playwright: 0, prophet: 0, words: PLACES.words, dice: PLACES.dice, stops: Array(PLACES.rank).fill(1) };
const voicesFile = document.currentScript.dataset.voices; // its address
const stored = () => at.words === PLACES.words && at.dice === PLACES.dice && at.stops.every(Boolean);
const rounded = strength => Math.round(Math.min(LARGEST, Math.max(0, strength)) / PLACES.step) * PLACES.step;

// --- the sentence --------------------------------------------------------------------------------------------------

const clean = text => text.replace(/[*#_]/g, "").replace(/\n\s*/g, "\n"); // Markdown of the books: **NAME**, *exit*

// whose: a letter a word, as `leads` of writing.js gives them, or nothing while it is still written.
// frozen: what the frozen model writes with the same dice.
function say(text, whose, frozen) {
  let differs = [...text].findIndex((letter, i) => letter !== frozen[i]), from = 0, name = false;
  const parts = text.match(/\s*\S+|\s+$/g).flatMap((word, n) => {
    const end = from + word.length, here = differs >= from && differs < end, span = document.createElement("span");
    const shown = clean(word).trimStart(), cut = clean(word.slice(0, here ? differs - from : 0)).trimStart().length;
    span.className = `v${whose[n] ?? "-"}${name || word.includes("**") ? " name" : ""}`;
    if ((word.match(/\*\*/g) ?? []).length % 2) name = !name;
    if (here && cut < shown.length) {
      const mark = document.createElement("mark");
      mark.textContent = shown[cut];
      span.append(shown.slice(0, cut), mark, shown.slice(cut + 1));
    } else {
      span.textContent = shown;
      if (here) differs = end; // a sign that is not shown: the next word has the mark
    }
    from = end;
    return [clean(word.match(/^\s*/)[0]), span];
  });
  $("first").textContent = at.words;
  $("alone").textContent = at.words + clean(frozen);
  $("said").replaceChildren(...parts);
  $("said").ariaBusy = String(!whose);
  atRest();
}
let resting = 0, touched = false;
function atRest() { // for who hears the page, and for the link: once the dot stands still
  clearTimeout(resting);
  resting = setTimeout(() => {
    const where = VOICES.map(voice => `${voice} ${at[voice].toFixed(1)}`).join(", ");
    $("heard").textContent = `${where}: ${at.words}${$("said").textContent}`;
    if (touched) try { history.replaceState(null, "", link()); } catch { /* forbidden from some disks */ }
    if (stored()) ask(); // the model counts its frozen weights again
  }, 1200);
}

// --- what is frozen, what is added ---------------------------------------------------------------------------------

const { side } = PLACES.corner, codes = fromBase64(PLACES.corner.codes);
const [A, B] = ["A", "B"].map(name => new Int8Array(fromBase64(PLACES.corner[name]).buffer));
let INKS; // red, green, blue of a president, a playwright, a prophet: the colors that try.html gives their words
function readInks() {
  const style = getComputedStyle(document.documentElement), pairs = [1, 3, 5];
  INKS = ["--c0", "--c1", "--c2"].map(name => pairs.map(i => parseInt(style.getPropertyValue(name).trim().slice(i, i + 2), 16)));
}
readInks();

// The map under the dot: a square for each stored sentence, in the mixed colors of its words; paler if few are colored.
function drawMap() {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d"), across = PLACES.side;
  canvas.width = canvas.height = across;
  const image = context.createImageData(across, across);
  PLACES.leads.forEach((leads, place) => {
    const counts = INKS.map((_, voice) => [...leads].filter(lead => lead === String(voice)).length);
    const colored = counts.reduce((sum, count) => sum + count), opacity = Math.min(1, 1.8 * colored / leads.length);
    const level = i => INKS.reduce((sum, ink, voice) => sum + ink[i] * counts[voice] / (colored || 1), 0);
    const x = place % across, y = across - 1 - Math.floor(place / across);
    image.data.set([level(0), level(1), level(2), 255 * opacity], 4 * (y * across + x));
  });
  context.putImageData(image, 0, 0);
  $("map").setAttribute("href", canvas.toDataURL());
}
drawMap();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readInks(); drawMap(); drawAdded(); });
const entry = (i, k) => B[Math.floor(i / side) * PLACES.rank + k] * A[k * side + i % side]; // of direction k, in B A
const products = at.stops.map((_, k) => Float32Array.from({ length: side * side }, (_, i) => entry(i, k)));
const strongest = Math.max(...products[0]) * 0.9;

function draw(id, width, height, color) { // color: (x, y) -> red, green, blue, opacity
  const context = $(id).getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(color(i % width, Math.floor(i / width)), 4 * i);
  context.putImageData(image, 0, 0);
}
function drawFrozen(id) { // once: it does not change
  draw(id, side, side, (x, y) => {
    const level = codes[y * side + x] / 15;
    return [225 - 205 * level, 236 - 150 * level, 246 - 100 * level, 255];
  });
}
function drawAdded() {
  const gain = gains(at.playwright, at.prophet, at.stops);
  const strip = (value, k) => [...INKS[1 + Math.floor(k / half)], at.stops[k] * Math.min(255, 30 + Math.abs(value) * 6)];
  draw("B", PLACES.rank, side, (k, y) => strip(B[y * PLACES.rank + k], k));
  draw("A", side, PLACES.rank, (x, k) => strip(A[k * side + x], k));
  draw("plaid", side, side, (x, y) => {
    let first = 0, second = 0;
    for (let k = 0; k < half; k++) {
      first += gain[k] * products[k][y * side + x];
      second += gain[half + k] * products[half + k][y * side + x];
    }
    const all = Math.abs(first) + Math.abs(second), share = all ? Math.abs(first) / all : 0;
    const ink = INKS[1].map((level, i) => level * share + INKS[2][i] * (1 - share));
    return [...ink, Math.min(255, 255 * all / strongest)];
  });
}

// --- the dot -------------------------------------------------------------------------------------------------------

function turn(change) {
  Object.assign(at, change);
  for (const voice of VOICES) {
    $(voice).value = at[voice] = rounded(at[voice]);
    $(`${voice}-value`).textContent = at[voice].toFixed(1);
    $(voice).setAttribute("aria-valuetext", at[voice].toFixed(1));
  }
  const x = 30 + 120 * at.playwright, y = 270 - 120 * at.prophet; // as the SVG in try.html has it
  $("dot").setAttribute("transform", `translate(${x} ${y})`);
  $("right").setAttribute("d", `M30 270H${x}`);
  $("up").setAttribute("d", `M${x} 270V${y}`);
  drawAdded();
  [...$("stops").children].forEach((stop, k) => { stop.ariaPressed = String(at.stops[k] === 1); });
  const here = Math.round(at.playwright / PLACES.step) + PLACES.side * Math.round(at.prophet / PLACES.step);
  if (stored()) say(PLACES.texts[here], PLACES.leads[here], PLACES.texts[0]);
  else { $("said").ariaBusy = "true"; ask(); }
}
let moving = 0;
function touch(change) { // by the reader: the page stops moving by itself
  cancelAnimationFrame(moving);
  touched = true;
  turn(change);
}
function drag(event) {
  const box = $("pad").getBoundingClientRect(), scale = 300 / box.width;
  const playwright = ((event.clientX - box.left) * scale - 30) / 120;
  touch({ playwright, prophet: ((box.bottom - event.clientY) * scale - 30) / 120 });
}
$("pad").addEventListener("pointerdown", event => { $("pad").setPointerCapture(event.pointerId); drag(event); });
$("pad").addEventListener("pointermove", event => { if ($("pad").hasPointerCapture(event.pointerId)) drag(event); });
for (const voice of VOICES) $(voice).addEventListener("input", () => touch({ [voice]: Number($(voice).value) }));
$("words").addEventListener("input", () => touch({ words: $("words").value }));
$("dice").addEventListener("click", () => touch({ dice: at.dice + 1 }));
at.stops.forEach((_, k) => {
  const stop = document.createElement("button"), voice = Math.floor(k / half), textContent = k % half + 1;
  const ariaLabel = `${VOICES[voice]}, direction ${textContent}`;
  Object.assign(stop, { textContent, className: `v${voice + 1}`, ariaLabel });
  stop.addEventListener("click", () => touch({ stops: at.stops.map((on, other) => other === k ? 1 - on : on) }));
  $("stops").append(stop);
});

// --- the model, in a Worker ----------------------------------------------------------------------------------------

let worker = null, asked = 0, before = "";
function ask() { // before the model is here, nothing happens: it is asked when it comes
  const gain = gains(at.playwright, at.prophet, at.stops);
  worker?.postMessage({ id: ++asked, words: at.words, dice: at.dice, gain });
}
function answered({ data }) {
  if (data.trouble) return trouble(Error(data.trouble));
  if (data.ready) {
    before = data.checksum;
    $("coming").textContent = "The model runs in this tab now. Type other words, throw other dice, pull directions.";
    ask();
  } else if (data.id === asked && !stored()) say(data.text, data.leads ?? "", data.frozen);
  if (!data.ready && data.checksum)
    $("checksum").textContent = `Checksum of what is multiplied: ${before} when it came, ${data.checksum} now.`;
}
function trouble(error) {
  $("coming").textContent = `The model does not run here (${error.message}). The dot works without it.`;
}
function fetched(source) {
  return new Promise((resolve, reject) => {
    const onerror = () => reject(Error(`${source} is not there`));
    document.head.append(Object.assign(document.createElement("script"), { src: source, onload: resolve, onerror }));
  });
}
// A page from a disk may not read its own scripts as text, but functions know theirs.
function scriptOf(parts) {
  return Object.entries(parts).map(([name, part]) =>
    `const ${name} = ${part instanceof Function ? part : JSON.stringify(part)};\n`);
}
function workerOf(parts, start) {
  const blob = new Blob(['"use strict";\n', ...scriptOf(parts), start], { type: "text/javascript" });
  return new Worker(URL.createObjectURL(blob));
}
const folder = document.currentScript.src.replace(/[^/]*$/, "");
async function load() {
  try {
    await fetched(voicesFile);
    worker = Object.assign(workerOf({ ...alive, ...writing }, "serve();"), { onmessage: answered, onerror: trouble });
    worker.postMessage({ voices: window.aliveFiles.voices });
    for (const name of ["adapter.js", "train.js", "dial.js", "yours.js"]) await fetched(folder + name); // what trains comes last
  } catch (error) { trouble(error); }
}
addEventListener("load", () => setTimeout(load, 200));

// --- a link that gives the same sentence ---------------------------------------------------------------------------

function link() {
  const place = Object.fromEntries(VOICES.map(voice => [voice, at[voice].toFixed(1)]));
  return `#${new URLSearchParams({ ...place, words: at.words, dice: at.dice, stops: at.stops.join("") })}`;
}
function linked() { // true if the address names a place
  const given = new URLSearchParams(location.hash.slice(1)), stops = given.get("stops") ?? "";
  if (!given.has("playwright")) return false;
  const words = (given.get("words") ?? PLACES.words).slice(0, 60), dice = Math.trunc(given.get("dice") ?? PLACES.dice);
  const place = Object.fromEntries(VOICES.map(voice => [voice, Number(given.get(voice)) || 0]));
  $("words").value = words;
  turn({ ...place, words, dice: dice || 0, stops: at.stops.map((_, k) => +(stops[k] !== "0")) });
  return true;
}
addEventListener("hashchange", linked);
$("copy").addEventListener("click", async () => {
  const address = location.href.replace(/#.*/, "") + link();
  try {
    await navigator.clipboard.writeText(address);
    $("copied").textContent = "Copied. It holds the dice: whoever opens it reads this sentence.";
  } catch { $("copied").textContent = address; }
});

// --- in a folder, pages of the course are no pages yet: say how to open them -------------------------------------------

for (const a of document.querySelectorAll('a[href$=".md"], a[href$=".ipynb"]')) a.addEventListener("click", event => {
  event.preventDefault();
  const page = a.getAttribute("href").split("/").at(-1);
  $("page-there").textContent = page.endsWith(".ipynb") ? `; this page is ${page} there` : "";
  $("how").showModal();
});

// --- it opens with a tour of its own: president, playwright, both, prophet, president ----------------------------------

drawFrozen("W");
if (!linked()) {
  const stops = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], leg = 2600, rest = 1400; // milliseconds
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches, begun = performance.now() + 1500;
  const frame = now => {
    const time = Math.max(0, now - begun), last = Math.min(stops.length - 2, Math.floor(time / (leg + rest)));
    const part = Math.min(1, (time - last * (leg + rest)) / leg), eased = part * part * (3 - 2 * part);
    const [playwright, prophet] = [0, 1].map(i => rounded(stops[last][i] * (1 - eased) + stops[last + 1][i] * eased));
    if (playwright !== at.playwright || prophet !== at.prophet) turn({ playwright, prophet });
    if (time < (leg + rest) * (stops.length - 1)) moving = requestAnimationFrame(frame);
  };
  turn(still ? { playwright: 1, prophet: 1 } : {});
  if (!still) moving = requestAnimationFrame(frame);
}
window.frontReady = performance.now();
