// The dial over a model that runs in the page: on three pages of the book, in a `voice.html`, and in what try.html saves.
//   aliveDial(place, settings)       place: an element that holds a still picture, replaced when the model is ready
//   showVoice(settings)              a page with such a dial, for a voice of somebody's
// settings: `line`, a text; perhaps `right`, whose voice it is, and `start`; `model`, the address of a script;
// `adapter`, in place of the model's. A classic script after gpt.js and writing.js.
"use strict";

const PIECE = 24; // bytes that are read at once: the page is busy for about 10 ms
const ADDRESS = "Gentlemen of the Senate and Gentlemen of the House";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
function loadScript(source) {
  return new Promise((resolve, reject) => document.head.append(make("script", { src: source, onload: resolve, onerror: () => reject(Error(`${source} is not there`)) })));
}
function toBytes(text) { return [...new TextEncoder().encode(text)]; }
function nearView(place) {
  return new Promise(resolve => {
    new IntersectionObserver((entries, watch) => {
      if (entries.some(entry => entry.isIntersecting)) { watch.disconnect(); resolve(); }
    }, { rootMargin: "100%" }).observe(place);
  });
}
function* surprises(gpt, session, bytes) { // nats at each byte but the first, minus the logarithm of its probability; in pieces
  session.position = 0;
  for (let start = 1; start < bytes.length; start += PIECE) {
    const came = bytes.slice(start, start + PIECE), logits = gpt.read(session, bytes.slice(start - 1, start - 1 + came.length));
    yield came.map((byte, t) => {
      const row = logits.subarray(t * 256, (t + 1) * 256), top = row.reduce((a, b) => Math.max(a, b));
      return top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - row[byte];
    });
  }
}

async function aliveDial(place, { left = "president", right = "playwright", start = 0, words = "I have ", line, model, adapter }) {
  let gpt;
  document.head.append(make("style", {}, STYLE));
  try {
    await nearView(place); // 3 MB come only then
    if (model) await loadScript(model);
    const file = readSafetensors(fromBase64(window.aliveFiles.model));
    const numbers = adapter && new Float32Array(fromBase64(adapter.numbers).buffer);
    gpt = new GPT(file, { room: numbers?.length });
    if (adapter) {
      const flat = gpt.take(numbers.length);
      flat.set(numbers);
      wear(gpt, flat, adapter.rank, adapter.alpha);
    }
    gpt.strength = start; // where the dial stands at first
  } catch (error) { // the still picture stays
    place.append(make("p", { role: "status", class: "alive-trouble" }, `The model does not run here: ${error.message}.`));
    return;
  }
  const reader = gpt.newSession(), writer = gpt.newSession(), gain = Array(gpt.rank).fill(1);
  const lines = [paintedLine(gpt, reader, "A line of yours", line, "play"), paintedLine(gpt, reader, "A held-out address", ADDRESS, "address")];
  const said = make("p", { class: "alive-said", "aria-hidden": true }), status = make("p", { role: "status", class: "alive-hidden" });
  let dice = 8, asked = 0, frame = 0, answers = null;
  function* answer() { // to where the dial stands now: a piece a frame, so that the page stays free
    let mine;
    while (mine !== asked) {
      mine = asked;
      for (const each of lines) yield* each.read();
      said.style.setProperty("--s", Math.min(1, gpt.strength));
      for (const text of written(gpt, writer, { words, dice, gain, every: 4 })) {
        if (mine !== asked) break; // the dial was turned on
        said.replaceChildren(make("i", {}, words), text.replace(/[*#_]/g, ""), " …");
        yield;
      }
    }
    status.textContent = `Strength ${gpt.strength.toFixed(2)}. ${lines.map(each => each.told()).join(" ")} It writes: ${said.textContent}`;
  }
  const step = () => { frame = answers.next().done ? 0 : requestAnimationFrame(step); };
  const next = () => {
    asked++;
    if (frame) return;
    answers = answer();
    frame = requestAnimationFrame(step);
  };
  lines[0].input.addEventListener("input", next);
  const turned = value => { gpt.strength = value; next(); };
  const dial = slider("strength of the adapter", { min: 0, max: 2, step: 0.05, value: start }, value => value.toFixed(2), turned);
  place.replaceChildren(
    make("div", { class: "alive-dial" }, make("b", { class: "alive-base" }, left), dial, make("b", { class: "alive-adapted" }, right),
      make("div", { class: "alive-marks", "aria-hidden": true }, ...[`0 ${left}`, "1 as trained", "2 it babbles"].map(mark => make("span", {}, mark)))),
    said, make("button", { type: "button", onclick: () => { dice++; next(); } }, "Other dice"), ...lines.map(each => each.element),
    make("p", { class: "alive-note" }, "A longer bar means: this letter surprised the model more. Mean surprise in nats a byte; lower is better."),
    status);
  next();
  window.aliveReady = performance.now();
}

function slider(name, range, shown, act) { // a named handle with its value beside it
  const value = make("span", { class: "alive-value", "aria-hidden": true }); // the handle says it: aria-valuetext
  const input = make("input", { type: "range", ...range, "aria-label": name, oninput: () => { show(); act(Number(input.value)); } });
  const show = () => { value.textContent = shown(Number(input.value)); input.setAttribute("aria-valuetext", value.textContent); };
  show();
  return make("label", { class: "alive-slider" }, make("span", {}, name), value, input);
}

function paintedLine(gpt, session, name, text, kind) { // a line and its surprise, byte by byte; that of a play can be edited
  const input = make("input", { type: "text", value: text, maxlength: 60, "aria-label": name, spellcheck: "false" });
  const row = make("div", { class: "alive-row", "aria-hidden": true }), mean = make("b", {});
  let drawn = null;
  function* read() {
    const bytes = toBytes(input.value);
    if (input.value !== drawn) {
      drawn = input.value;
      row.replaceChildren(...[...drawn].flatMap(letter => toBytes(letter).map((_, i) => make("span", {}, i ? "" : letter === " " ? "·" : letter, make("u")))));
    }
    let sum = 0, at = 0;
    for (const piece of surprises(gpt, session, [10, ...bytes])) {
      for (const nats of piece) {
        const bar = row.children[at++].lastChild;
        bar.style.setProperty("--h", Math.min(1, nats / 8).toFixed(3));
        bar.classList.toggle("alive-deep", nats > 8); // it ends in a point: cut off
        sum += nats;
      }
      yield;
    }
    mean.textContent = at ? `${(sum / at).toFixed(2)} nats a byte` : "type a line";
  }
  const head = make("div", { class: "alive-head" }, make("span", {}, name), mean);
  const element = make("div", { class: `alive-line alive-${kind}` }, head, ...(kind === "play" ? [input] : []), row);
  return { read, input, element, told: () => `${name}: ${mean.textContent}.` };
}

function showVoice({ home, rights, ...settings }) { // home: the address of the page on which one makes such a page
  const place = make("div", { class: "alive" }, "The model is being unpacked.");
  const page = home ? make("a", { href: home }, "the course's first page") : "the course's first page";
  document.body.append(make("main", { class: "alive-page" }, make("h1", {}, document.title),
    make("p", {}, "A small language model that had read presidents' addresses only was frozen, in 4 bits. Beside it an addition of "
      + `4% (LoRA) was trained on ${settings.right} (${rights}). Turn the dial: everything runs in this page.`), place,
    make("p", {}, "Made with lora-edu, a course that builds LoRA and QLoRA by hand. Make your own: lora-edu voice my_text.txt, "
      + "or in a browser tab, on ", page, ".")));
  return aliveDial(place, settings);
}

// The colors are those of lora_course/drawing/looks.py: addresses c0, plays c1.
const STYLE = `
.alive, .alive-page { --ink: #1c2430; --mute: #566170; --back: #fbfaf7; --line: #d9d5cb; --c0: #0072b2; --c1: #a85a00; --c2: #a6407a; --base: var(--c0); --adapted: var(--c1); color: var(--ink); }
@media (prefers-color-scheme: dark) {
  html:not([data-theme="light"]) :is(.alive, .alive-page) { --ink: #ece8df; --mute: #a8aeb8; --back: #121418; --line: #3a414b; --c0: #6bbcec; --c1: #f0a23c; --c2: #e58fbe; }
}
html[data-theme="dark"] .alive { --ink: #ece8df; --mute: #a8aeb8; --back: #121418; --line: #3a414b; --c0: #6bbcec; --c1: #f0a23c; --c2: #e58fbe; }
body:has(> .alive-page) { margin: 0; background: light-dark(#fbfaf7, #121418); color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif; }
.alive-page { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
.alive-page h1 { font: 600 clamp(1.6rem, 4vw, 2.6rem)/1.15 Charter, "Bitstream Charter", Georgia, "Noto Serif", "DejaVu Serif", serif; }
.alive, .alive * { box-sizing: border-box; }
.alive-dial { display: grid; grid-template-columns: auto 1fr auto; gap: 0 1rem; align-items: center; }
.alive-base { color: var(--base); }
.alive-adapted { color: var(--adapted); }
.alive-slider { display: grid; grid-template-columns: 1fr auto; margin: 0; }
.alive-slider span:first-child { color: var(--mute); font-size: 0.9rem; }
.alive-slider input { grid-column: 1 / -1; width: 100%; height: 44px; margin: 0; cursor: pointer; accent-color: var(--adapted); }
@media (forced-colors: none) {
  .alive-slider input { appearance: none; background: none; }
  .alive-slider input::-webkit-slider-runnable-track { height: 4px; border-radius: 2px; background: color-mix(in oklab, var(--adapted) 55%, var(--back)); }
  .alive-slider input::-webkit-slider-thumb { appearance: none; width: 24px; height: 24px; margin-top: -10px; border-radius: 50%; background: var(--adapted); }
  .alive-slider input::-moz-range-track { height: 4px; border-radius: 2px; background: color-mix(in oklab, var(--adapted) 55%, var(--back)); }
  .alive-slider input::-moz-range-thumb { width: 24px; height: 24px; border: 0; border-radius: 50%; background: var(--adapted); }
}
.alive-value { font-variant-numeric: tabular-nums; font-weight: 600; }
.alive-marks { grid-column: 2; display: flex; justify-content: space-between; font-size: 0.85rem; color: var(--mute); }
.alive-said {
  height: 7em; overflow: hidden; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.4rem 0;
  padding-left: 1rem; border-left: 4px solid var(--line); font: clamp(1.05rem, 2.3vw, 1.5rem)/1.4 Charter, "Bitstream Charter", Georgia, "Noto Serif", "DejaVu Serif", serif;
  color: color-mix(in oklab, var(--adapted) calc(var(--s) * 100%), var(--base));
}
.alive-said i { color: var(--mute); }
.alive button { font: inherit; font-size: 0.9rem; min-height: 44px; padding: 0.2rem 1rem; border: 1px solid var(--mute); border-radius: 0.4rem; background: none; color: inherit; cursor: pointer; }
.alive-line { margin-top: 0.7rem; --bar: var(--base); }
.alive-play { --bar: var(--adapted); }
.alive-head { display: flex; justify-content: space-between; gap: 1rem; font-size: 0.9rem; color: var(--mute); }
.alive-head b { color: var(--ink); font-variant-numeric: tabular-nums; white-space: nowrap; }
.alive-line input { font: inherit; width: 100%; min-height: 44px; padding: 0.2rem 0.6rem; border: 1px solid var(--mute); border-radius: 0.4rem; background: none; color: inherit; }
.alive-row { display: flex; height: 5.4rem; overflow: hidden; }
.alive-row span { flex: 1 1 0; min-width: 0; text-align: center; font: clamp(0.62rem, 1.5vw, 0.95rem)/1.5 "DejaVu Sans Mono", Consolas, monospace; }
.alive-row u { display: block; margin: 0 8%; height: calc(var(--h, 0) * 3.9rem); background: var(--bar); }
.alive-row u.alive-deep { clip-path: polygon(0 0, 100% 0, 100% 88%, 50% 100%, 0 88%); }
.alive-note { font-size: 0.9rem; color: var(--mute); margin: 0.4rem 0; }
.alive-trouble { border-left: 4px solid var(--adapted); padding-left: 0.8rem; }
.alive-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 599px) {
  .alive-dial { grid-template-columns: 1fr 1fr; }
  .alive-dial .alive-slider { grid-column: 1 / -1; grid-row: 2; }
  .alive-adapted { text-align: right; }
  .alive-marks { grid-column: 1 / -1; }
  .alive-said { height: 11.2em; }
}
@media (prefers-reduced-motion: no-preference) { .alive-row u { transition: height 0.1s; } }
@media (forced-colors: active) {
  .alive .alive-row u { forced-color-adjust: none; background: CanvasText; }
  .alive .alive-slider input { accent-color: auto; }
}
`;

const dialing = { PIECE, ADDRESS, make, toBytes, nearView, surprises, aliveDial, slider, paintedLine, showVoice, STYLE };
