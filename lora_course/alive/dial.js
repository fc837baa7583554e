// The dial over a model that runs in the page: what two pages of the book and a `voice.html` show.
//   aliveDial(place, settings)       place: an element that holds a still picture, replaced when the model is ready
// settings: see page.py. Everything works by keyboard; color never stands alone; what moves can be paused.
"use strict";

const MILLISECONDS_A_BYTE = 40, KEPT = 700, REREAD = 96;

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
const toBytes = text => [...new TextEncoder().encode(text)];
const atRest = (action, milliseconds) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(action, milliseconds); }; };

function surprises(gpt, session, bytes) { // nats at each byte but the first: minus the logarithm of its probability
  session.position = 0;
  const logits = gpt.read(session, bytes.slice(0, -1)), n = gpt.vocab_size;
  return bytes.slice(1).map((byte, t) => {
    const row = logits.subarray(t * n, (t + 1) * n), top = row.reduce((a, b) => Math.max(a, b));
    return top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - row[byte];
  });
}
function sampled(logits, temperature, topK) { // a byte, drawn among the topK likeliest
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]).slice(0, topK);
  const weights = order.map(byte => Math.exp((logits[byte] - logits[order[0]]) / temperature));
  let left = Math.random() * weights.reduce((a, b) => a + b);
  return order.find((_, i) => (left -= weights[i]) <= 0) ?? order[0];
}

const nearView = place => new Promise(resolve => {
  new IntersectionObserver((entries, watch) => {
    if (entries.some(entry => entry.isIntersecting)) { watch.disconnect(); resolve(); }
  }, { rootMargin: "100%" }).observe(place);
});
async function aliveDial(place, settings) {
  let file, gpt;
  try {
    await nearView(place); // 3 MB come only then
    if (settings.model) await loadScript(settings.model);
    file = readSafetensors(fromBase64(window.aliveFiles.model));
    gpt = new GPT(file);
    gpt.strength = settings.start; // where the dial stands at first
  } catch (error) { // the still picture stays
    place.append(make("p", { role: "status", class: "alive-trouble" }, `The model does not run here: ${error.message}.`));
    return;
  }
  const reader = gpt.newSession(), writer = gpt.newSession(), still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const { said, write, turned } = writing(gpt, writer, settings, still);
  const lines = settings.lines.map(line => paintedLine(gpt, reader, line));
  const status = make("p", { role: "status", class: "alive-hidden" });
  const speak = atRest(() => {
    status.textContent = `Strength ${gpt.strength.toFixed(2)}. ${lines.map(line => line.words()).join(" ")} It writes: ${said.textContent.slice(-120)}`;
  }, 1500);
  let stale = [], frame = 0;
  const draw = () => { // a line a frame, in turns: reading one holds the page for 25 ms
    stale.shift().draw();
    frame = stale.length && requestAnimationFrame(draw);
    turned();
    speak();
  };
  const next = () => {
    stale.push(...lines.filter(line => !stale.includes(line)));
    frame ||= requestAnimationFrame(draw);
  };
  lines.forEach(line => line.changed(() => { line.draw(); speak(); }));
  const dial = slider(settings.dial, { min: 0, max: 2, step: 0.05, value: settings.start }, value => value.toFixed(2), value => { gpt.strength = value; next(); });
  const turn = value => { // by another handle
    const handle = dial.querySelector("input");
    handle.value = value;
    handle.dispatchEvent(new Event("input"));
  };
  place.replaceChildren(
    make("div", { class: "alive-dial" }, make("b", { class: "alive-base" }, settings.left), dial, make("b", { class: "alive-adapted" }, settings.right),
      make("div", { class: "alive-marks", "aria-hidden": true }, ...settings.marks.map(mark => make("span", {}, mark)))),
    said, write, ...lines.map(line => line.element),
    make("p", { class: "alive-note" }, "A longer bar means: this letter surprised the model more. Mean surprise in nats a byte; lower is better."),
    ...(settings.held ? [breaking(gpt, file, settings, next, turn)] : []), status);
  lines.forEach(line => line.draw());
  window.aliveReady = performance.now();
}

function slider(name, range, shown, act) { // a named handle with its value beside it
  const value = make("span", { class: "alive-value", "aria-hidden": true }); // the handle says it: aria-valuetext
  const input = make("input", { type: "range", ...range, "aria-label": name, oninput: () => { show(); act(Number(input.value)); } });
  const show = () => { value.textContent = shown(Number(input.value)); input.setAttribute("aria-valuetext", value.textContent); };
  show();
  return make("label", { class: "alive-slider" }, make("span", {}, name), value, input);
}

// --- the model writes: the dial bends the sentence, and each byte keeps the color of its dial --------------------------

function writing(gpt, session, settings, still) {
  const said = make("div", { class: "alive-said", "aria-hidden": true }, make("i", {}, settings.prompt));
  const decoder = new TextDecoder();
  let bytes = [10, ...toBytes(settings.prompt)], logits = null, running = !still, visible = true, timer = 0;
  function step() {
    if (!logits || session.position >= gpt.context - 1) { // the dial was turned, or the context is full: read the end again
      session.position = 0;
      bytes = bytes.slice(-REREAD);
      logits = gpt.read(session, bytes).slice(-gpt.vocab_size);
    }
    const byte = sampled(logits, 0.7, 20), letter = decoder.decode(Uint8Array.of(byte), { stream: true });
    bytes.push(byte);
    let last = said.lastChild;
    if (last.dataset?.strength !== String(gpt.strength)) {
      last = make("span", { "data-strength": gpt.strength, class: gpt.strength > 1 ? "alive-over" : gpt.strength > 0 ? "alive-some" : "", style: `--s: ${Math.min(1, gpt.strength)}` });
      said.append(last);
    }
    last.textContent += letter.replace("*", ""); // Markdown of the plays: **NAME**
    while (said.textContent.length > KEPT) said.firstChild.remove();
    logits = gpt.next(session, byte).slice();
  }
  function loop() {
    if (running && visible && !document.hidden) { step(); said.scrollTop = said.scrollHeight; }
    timer = setTimeout(loop, MILLISECONDS_A_BYTE);
  }
  if (still) {
    const write = make("button", { type: "button", onclick: () => { for (let i = 0; i < 160; i++) step(); said.scrollTop = said.scrollHeight; } }, "Write on");
    return { said, write, turned: () => { logits = null; } };
  }
  const write = make("button", { type: "button", onclick: () => { running = !running; write.textContent = running ? "Pause" : "Write on"; } }, "Pause");
  new IntersectionObserver(entries => { visible = entries.at(-1).isIntersecting; }).observe(said);
  loop();
  return { said, write, turned: () => { // the end is read again once the lines are painted
    logits = null;
    clearTimeout(timer);
    timer = setTimeout(loop, MILLISECONDS_A_BYTE);
  } };
}

// --- a line and its surprise, byte by byte ------------------------------------------------------------------------------

function paintedLine(gpt, session, { words, text, editable, kind }) {
  const input = make("input", { type: "text", value: text, maxlength: 60, "aria-label": words, spellcheck: "false" });
  const row = make("div", { class: "alive-row", "aria-hidden": true }), mean = make("b", {});
  let drawn = null, value = 0;
  function draw() {
    const now = editable ? input.value : text, bytes = toBytes(now), bars = bytes.length ? surprises(gpt, session, [10, ...bytes]) : [];
    if (now !== drawn) {
      row.replaceChildren(...[...now].flatMap(letter => toBytes(letter).map((_, i) => make("span", {}, i ? "" : letter === " " ? "·" : letter, make("u")))));
      drawn = now;
    }
    bars.forEach((nats, i) => {
      const bar = row.children[i].lastChild;
      bar.style.setProperty("--h", Math.min(1, nats / 8).toFixed(3));
      bar.classList.toggle("alive-deep", nats > 8); // it ends in a point: cut off
    });
    value = bars.reduce((a, b) => a + b, 0) / Math.max(1, bars.length);
    mean.textContent = bars.length ? `${value.toFixed(2)} nats a byte` : "type a line";
  }
  const head = make("div", { class: "alive-head" }, make("span", {}, words), mean);
  return {
    draw, words: () => `${words}: ${mean.textContent}.`, changed: action => input.addEventListener("input", action),
    element: make("div", { class: `alive-line alive-${kind}` }, head, ...(editable ? [input] : []), row),
  };
}
