// Three voices out of one frozen model: what it writes at a place of the dot, and whose each word is. It runs in a
// Worker of front.js, and in Node when places.js is made. A classic script after gpt.js.
"use strict";

const LENGTH = 120, TEMPERATURE = 0.6, TOP = 16; // bytes of a sentence; how it draws, and among how many
const CLEARLY = Math.log(10); // a voice leads a word clearly if it finds it ten times likelier than the next one does

// A gain for each direction of both adapters, the playwright's first. stops: which of them are pushed in.
function gains(playwright, prophet, stops) {
  return stops.map((on, k) => on * (k < stops.length / 2 ? playwright : prophet));
}
function randomFrom(seed) { // numbers from 0 to 1, the same for the same seed
  let state = seed | 0;
  return () => {
    let t = state = state + 0x6D2B79F5 | 0;
    t = Math.imul(t ^ t >>> 15, 1 | t);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}
// 256 numbers that depend on the dice and on the place of a byte alone. Adding them to logits and taking the largest
// draws from the softmax (Gumbel): the same dice at every place of the dot, so the sentence bends and is not replaced.
function thrown(dice, place) {
  const random = randomFrom(Math.imul(dice, 1000003) + Math.imul(place, 7919));
  return Float64Array.from({ length: 256 }, () => -Math.log(-Math.log(random() + 1e-12)));
}
function drawn(logits, noise) { // the byte with the largest sum, among the likeliest TOP
  const least = Float32Array.from(logits).sort()[256 - TOP];
  let best = 0, most = -Infinity;
  for (let byte = 0; byte < 256; byte++) {
    const sum = logits[byte] / TEMPERATURE + noise[byte];
    if (logits[byte] >= least && sum > most) { best = byte; most = sum; }
  }
  return best;
}
// Writes on from some words, and hands over what is there every few bytes: a Worker can look for news in between.
function* written(gpt, session, { words, dice, gain, every = 8 }) {
  const start = [10, ...new TextEncoder().encode(words)], bytes = [];
  session.position = 0;
  gpt.gain.set(gain);
  let logits = gpt.read(session, start).slice(-256);
  while (bytes.length < LENGTH && session.position < gpt.context) {
    bytes.push(drawn(logits, thrown(dice, bytes.length)));
    if (bytes.length % every === 0) yield new TextDecoder().decode(Uint8Array.from(bytes));
    logits = gpt.next(session, bytes.at(-1));
  }
}
// For each word, with the space before it: 0 the president, 1 the playwright, 2 the prophet, - nobody clearly.
function leads(gpt, session, words, text) {
  const before = [10, ...new TextEncoder().encode(words)], bytes = [...before, ...new TextEncoder().encode(text)];
  const half = gpt.gain.length / 2, voices = [[0, 0], [1, 0], [0, 1]].map(([a, b]) => {
    gpt.gain.fill(a, 0, half).fill(b, half);
    session.position = 0;
    const logits = gpt.read(session, bytes.slice(0, -1));
    return bytes.slice(1).map((byte, t) => {
      const row = logits.subarray(t * 256, (t + 1) * 256);
      return row[byte] - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    }).slice(before.length - 1);
  });
  let from = 0;
  return text.match(/\s*\S+|\s+$/g).map(word => {
    const end = from + new TextEncoder().encode(word).length;
    const sums = voices.map(voice => voice.slice(from, end).reduce((a, b) => a + b, 0)), top = Math.max(...sums);
    from = end;
    return sums.filter(sum => sum > top - CLEARLY).length > 1 ? "-" : sums.indexOf(top);
  }).join("");
}

// --- in a Worker ---------------------------------------------------------------------------------------------------

function checksum(arrays) { // of the frozen weights that are multiplied, 12 MB
  const sum = arrays.reduce((before, { buffer, byteOffset, byteLength }) =>
    Math.imul(before, 31) + adler32(new Uint8Array(buffer, byteOffset, byteLength)) >>> 0, 0);
  return sum.toString(16).padStart(8, "0");
}
function serve() { // the file of voices comes first, then questions: only the last of these is answered to its end
  let gpt, session, last = 0, frozen = {};
  const multiplied = () => gpt.layers.map(name => gpt.W[name]);
  const others = () => new Promise(resolve => setTimeout(resolve)); // let a newer question in
  async function answer({ id, words, dice, gain }) {
    const key = `${dice} ${words}`, alone = { words, dice, gain: gain.map(() => 0) };
    if (frozen.key !== key) frozen = { key, text: [...written(gpt, session, alone)].at(-1) };
    let said;
    for (said of written(gpt, session, { words, dice, gain })) {
      postMessage({ id, text: said, frozen: frozen.text });
      await others();
      if (id !== last) return;
    }
    postMessage({ id, text: said, frozen: frozen.text, leads: leads(gpt, session, words, said), checksum: checksum(multiplied()) });
  }
  onmessage = async ({ data }) => {
    try {
      if (data.voices) {
        gpt = new GPT(readSafetensors(fromBase64(data.voices)));
        session = gpt.newSession();
        postMessage({ ready: true, checksum: checksum(multiplied()) });
      } else {
        last = data.id;
        await answer(data);
      }
    } catch (error) { postMessage({ trouble: error.message }); }
  };
}

const writing = { LENGTH, TEMPERATURE, TOP, CLEARLY, gains, randomFrom, thrown, drawn, written, leads, checksum, serve };
if (typeof module !== "undefined") module.exports = writing;
