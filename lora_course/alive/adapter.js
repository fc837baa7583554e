// An adapter in a page: one flat array, its singular directions, and PEFT's two files in a .zip. A classic script for
// yours.js and its Workers, after writing.js. Beside each name: its twin in Python.
"use strict";

// Where A and B of each layer lie in the flat array. tensors: of the model's file.
function adapterParts(tensors, rank, flat = new Float32Array(0)) {
  let from = 0;
  const next = size => flat.subarray(from, from += size);
  return Object.keys(tensors).filter(name => name.endsWith(".codes")).map(codes => {
    const name = codes.slice(0, -6), out = tensors[name + ".bias"].length;
    const width = 2 * tensors[codes].length / out;
    return { name, rank, out, width, A: next(rank * width), B: next(rank * out), end: from };
  });
}
function addLora(tensors, rank, seed = 0) { // lora.add_lora: A in +-1 / sqrt(in_features), B zero
  const flat = new Float32Array(adapterParts(tensors, rank).at(-1).end), random = randomFrom(seed);
  for (const { A, width } of adapterParts(tensors, rank, flat)) {
    for (let i = 0; i < A.length; i++) A[i] = (2 * random() - 1) / Math.sqrt(width);
  }
  return flat;
}
// The same update B A from directions in the order of their strength: a rank slider drops the last ones.
function inSingularBasis(parts) { // exporting.in_singular_basis, in place. B stands turned: a row of A and one of B are a pair
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const mix = (x, y, c, s) => x.forEach((value, i) => { x[i] = c * value + s * y[i]; y[i] = c * y[i] - s * value; });
  for (const { rank, A, B } of parts) {
    const rows = array => Array.from({ length: rank }, (_, k) => array.subarray(k * array.length / rank, (k + 1) * array.length / rank));
    const [a, b] = [rows(A), rows(B)];
    for (let k = 0; k < rank; k++) { // Gram-Schmidt: the rows of A become orthonormal, what is taken from them goes into B
      for (let j = 0; j < k; j++) {
        const along = dot(a[k], a[j]);
        a[j].forEach((value, i) => { a[k][i] -= along * value; });
        b[k].forEach((value, i) => { b[j][i] += along * value; });
      }
      const length = Math.sqrt(dot(a[k], a[k])) || 1;
      scale(a[k], 1 / length);
      scale(b[k], length);
    }
    for (let sweep = 0; sweep < 8; sweep++) for (let j = 0; j < rank; j++) for (let k = j + 1; k < rank; k++) {
      const angle = Math.atan2(2 * dot(b[j], b[k]), dot(b[j], b[j]) - dot(b[k], b[k])) / 2; // Jacobi: then they are orthogonal
      for (const pair of [a, b]) mix(pair[j], pair[k], Math.cos(angle), Math.sin(angle));
    }
  }
}
function shuffled(flat, tensors, rank) { // shuffling.shuffle_adapter: the same numbers in other places of each A and each B
  const found = flat.slice(), random = randomFrom(1);
  for (const { A, B } of adapterParts(tensors, rank, found)) for (const array of [A, B]) {
    for (let i = array.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [array[i], array[j]] = [array[j], array[i]];
    }
  }
  return found;
}
// The tensors of a model's file with this adapter in place of those it came with: what a GPT of gpt.js is made of.
function wearing({ tensors, metadata }, flat, rank, alpha) { // adapters.load_adapter
  const kept = Object.entries(tensors).filter(([name]) => !name.startsWith("adapter."));
  const worn = adapterParts(tensors, rank, flat).flatMap(({ name, out, A, B }) => [
    [`adapter.${name}.lora_A`, A], [`adapter.${name}.lora_B`, transposed(new Float32Array(B.length), B, rank, out)]]);
  return { tensors: Object.fromEntries([...kept, ...worn]), metadata: { ...metadata, rank, scaling: alpha / rank } };
}

// --- as files --------------------------------------------------------------------------------------------------------

const toUtf8 = text => new TextEncoder().encode(text);
function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { bytes.set(part, at); at += part.length; }
  return bytes;
}
function littleEndian(...pairs) { // [size, value] -> so many bytes, the lowest first
  return Uint8Array.from(pairs.flatMap(([size, value]) => Array.from({ length: size }, (_, i) => value / 256 ** i & 255)));
}
function adapterFiles(flat, tensors, rank, alpha) { // lora.save_adapter: PEFT's two files
  const header = { __metadata__: { format: "pt" } }, data = [], parts = adapterParts(tensors, rank, flat);
  let end = 0;
  const hold = (name, shape, values) => {
    header[`base_model.model.${name}.weight`] = { dtype: "F32", shape, data_offsets: [end, end += values.byteLength] };
    data.push(new Uint8Array(values.slice().buffer));
  };
  for (const { name, out, width, A, B } of parts) {
    hold(`${name}.lora_A`, [rank, width], A);
    hold(`${name}.lora_B`, [out, rank], transposed(new Float32Array(B.length), B, rank, out));
  }
  const text = toUtf8(JSON.stringify(header)), target_modules = [...new Set(parts.map(({ name }) => name.split(".").at(-1)))].sort();
  const config = { peft_type: "LORA", r: rank, lora_alpha: alpha, lora_dropout: 0, target_modules, fan_in_fan_out: false, bias: "none" };
  return {
    "adapter_config.json": toUtf8(JSON.stringify(config, null, 2)),
    "adapter_model.safetensors": joined([littleEndian([8, text.length]), text, ...data]),
  };
}
function zipped(files) { // name -> bytes, as a .zip that compresses nothing (APPNOTE.TXT, version 2.0)
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xEDB88320 ^ n >>> 1 : n >>> 1;
    return n;
  });
  const crc = bytes => ~bytes.reduce((sum, byte) => table[(sum ^ byte) & 255] ^ sum >>> 8, -1) >>> 0;
  const local = [], central = [], date = 46 << 9 | 1 << 5 | 1; // the first of January 2026: the same file always
  let at = 0;
  for (const [name, bytes] of Object.entries(files)) {
    const sizes = [[4, bytes.length], [4, bytes.length], [2, name.length], [2, 0]];
    const both = littleEndian([2, 20], [2, 0], [2, 0], [2, 0], [2, date], [4, crc(bytes)], ...sizes);
    local.push(littleEndian([4, 0x04034B50]), both, toUtf8(name), bytes);
    central.push(littleEndian([4, 0x02014B50], [2, 20]), both, littleEndian([6, 0], [4, 0], [4, at]), toUtf8(name));
    at += 30 + name.length + bytes.length;
  }
  const list = joined(central), count = central.length / 4;
  const tail = littleEndian([4, 0x06054B50], [4, 0], [2, count], [2, count], [4, list.length], [4, at], [2, 0]);
  return joined([...local, list, tail]);
}

const adapters = {
  adapterParts, addLora, inSingularBasis, shuffled, wearing, toUtf8, joined, littleEndian, adapterFiles, zipped,
};
if (typeof module !== "undefined") module.exports = adapters;
