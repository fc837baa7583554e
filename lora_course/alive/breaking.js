// "Now break it", below the book's dial on 00: other bits, block sizes and ranks, and what they cost on held-out text.
// A classic script that uses gpt.js and dial.js; a `voice.html` goes without it.
"use strict";

const BLOCK_SIZES = [16, 64, 256, 1024, 1e9];

// --- the weights anew, from codes in int8 --------------------------------------------------------------------------------

function roundTo(gpt, { tensors }, bits, blockSize) { // NF4 for 4 bits, else symmetric integers
  const codebook = bits === 4 ? gpt.tensors["codebook.nf4"] : intCodebook(bits);
  for (const name of gpt.layers) {
    const W = decode(tensors[name + ".codes"], tensors[name + ".absmax"], tensors["codebook.int8"], 64, gpt.W[name]);
    if (bits < 8 || blockSize > 64) round(W, codebook, blockSize);
  }
}
function round(weights, codebook, blockSize) { // to the nearest values of a codebook, in place: `encode`, then `decode`
  const last = codebook.length - 1, midpoints = codebook.map((value, i) => i < last ? Math.fround(value + codebook[i + 1]) / 2 : Infinity);
  const cells = new Uint8Array(4097); // for speed: the code with which the search begins
  for (let cell = 0, code = 0; cell <= 4096; cell++) {
    while (cell / 2048 - 1 > midpoints[code]) code++;
    cells[cell] = code;
  }
  for (let start = 0; start < weights.length; start += blockSize) {
    const block = weights.subarray(start, start + blockSize);
    let absmax = 0;
    for (let i = 0; i < block.length; i++) absmax = Math.max(absmax, Math.abs(block[i]));
    const reciprocal = Math.fround(1 / Math.max(absmax, 1e-38));
    for (let i = 0; i < block.length; i++) {
      const scaled = Math.min(1, Math.max(-1, Math.fround(block[i] * reciprocal)));
      let code = cells[((scaled + 1) * 2048) | 0];
      while (scaled > midpoints[code]) code++;
      block[i] = codebook[code] * absmax;
    }
  }
  return weights;
}
function intCodebook(bits) { // the symmetric integers over their largest
  const largest = 2 ** (bits - 1) - 1;
  return Float32Array.from({ length: 2 * largest + 1 }, (_, i) => (i - largest) / largest);
}

// --- the sliders, and the sentence of what happened ----------------------------------------------------------------------

function breaking(gpt, file, settings, next, turn) { // turn: the dial, to a strength
  const now = { bits: 4, blockSize: 64 }, session = gpt.newSession(), before = {}; // before: strength -> losses as it came
  const sentence = make("p", { class: "alive-sentence", role: "status" }, "Move one: what happens is measured here, on held-out text.");
  const bar = make("progress", { hidden: true, "aria-label": "Measuring" });
  let source = null, asItCame = null, run = 0;
  async function round() { // the weights anew; the int8 source comes when it is first needed
    if (now.bits === 4 && now.blockSize === 64) gpt.restore();
    else {
      if (!source) {
        sentence.textContent = "The weights in 8 bits are coming (4 MB).";
        await loadScript(settings.source);
        source = readSafetensors(fromBase64(window.aliveFiles.source));
      }
      roundTo(gpt, source, now.bits, now.blockSize);
    }
  }
  async function losses(model, itsSession, mine) { // on held-out bytes, a piece a time so that the page stays awake
    const found = {}, texts = Object.entries(settings.held).map(([name, text]) => [name, toBytes(text)]);
    Object.assign(bar, { value: 0, hidden: false, max: texts.reduce((sum, [, bytes]) => sum + bytes.length - 1, 0) });
    for (const [name, bytes] of texts) {
      let sum = 0;
      for (let start = 0; start + 1 < bytes.length; start += 250) for (const piece of surprises(model, itsSession, bytes.slice(start, start + 251))) {
        bar.value += piece.length;
        sum += piece.reduce((a, b) => a + b, 0);
        await new Promise(resolve => setTimeout(resolve));
        if (mine !== run) return null; // the reader has moved on
      }
      found[name] = sum / (bytes.length - 1);
    }
    return found;
  }
  let resting = 0;
  const tell = () => { clearTimeout(resting); resting = setTimeout(measure, 400); };
  async function measure() {
    const mine = ++run, strength = gpt.strength;
    asItCame ??= new GPT(file);
    asItCame.strength = strength;
    before[strength] ??= await losses(asItCame, asItCame.session ??= asItCame.newSession(), mine) ?? undefined;
    const after = mine === run && await losses(gpt, session, mine);
    if (!after) return;
    bar.hidden = true;
    const blocks = now.blockSize > 1e6 ? "one constant a layer" : `blocks of ${now.blockSize}`;
    const each = Object.keys(after).map(name => `${name} ${after[name].toFixed(2)} (as it came: ${before[strength][name].toFixed(2)})`);
    sentence.textContent = `${now.bits} bits, ${blocks}, ${gpt.rank} of ${gpt.largestRank} directions, at strength ${strength.toFixed(2)}: `
      + `${each.join(" and ")} nats a byte, measured just now on held-out text.`
      + (now.bits === 4 && now.blockSize > 64 ? " A large block hardly hurts at 4 bits: try it at 2." : "");
  }
  const act = change => async value => {
    run++;
    change(value);
    sentence.textContent = "Measuring.";
    try { if (change !== setRank) await round(); next(); tell(); } catch (error) { sentence.textContent = `This does not work here: ${error.message}.`; }
  };
  const setRank = value => {
    gpt.rank = value;
    if (!gpt.strength) turn(1); // at 0 no rank is heard
  };
  const parts = [
    ["bits a weight", { min: 2, max: 8, value: 4 }, value => value === 4 ? "4 (NF4)" : `${value}`, value => { now.bits = value; }, "bits"],
    ["block size", { min: 0, max: 4, value: 1 }, value => BLOCK_SIZES[value] > 1e6 ? "a layer" : `${BLOCK_SIZES[value]}`, value => { now.blockSize = BLOCK_SIZES[value]; }, "blocks"],
    ["rank of the adapter", { min: 0, max: gpt.largestRank, value: gpt.largestRank }, String, setRank, "rank"],
  ];
  const sliders = parts.map(([name, range, shown, change, link]) =>
    make("div", {}, slider(name, range, shown, act(change)), make("a", { href: settings.links[link][1] }, `why? ${settings.links[link][0]}`)));
  return make("section", { class: "alive-break" }, make("h2", {}, "Now break it"), make("div", { class: "alive-three" }, ...sliders), bar, sentence);
}
