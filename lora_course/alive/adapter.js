// An adapter in a page: one flat array, its singular directions, and PEFT's two files in a .zip. A classic script for
// yours.js and its Workers, after writing.js. Beside each name: its twin in Python.
"use strict";

// Where A (rank, in_features) and B (out_features, rank) of each layer lie in the flat array. tensors: of the model's file.
function adapterParts(tensors, rank, flat) {
  let end = 0;
  const next = size => flat.subarray(end, end += size);
  return Object.keys(tensors).filter(name => name.endsWith(".codes")).map(codes => {
    const name = codes.slice(0, -6), out = tensors[name + ".bias"].length, width = 2 * tensors[codes].length / out;
    return { name, rank, out, width, A: next(rank * width), B: next(rank * out), end };
  });
}
const adapterSize = (tensors, rank) => adapterParts(tensors, rank, new Float32Array(0)).at(-1).end;
function addLora(tensors, rank) { // lora.add_lora: A is drawn from +-1 / sqrt(in_features), B is zero
  const flat = new Float32Array(adapterSize(tensors, rank)), random = randomFrom(0);
  for (const { A, width } of adapterParts(tensors, rank, flat)) {
    for (let i = 0; i < A.length; i++) A[i] = (2 * random() - 1) / Math.sqrt(width);
  }
  return flat;
}
function wear(gpt, flat, rank, alpha) { // adapters.load_adapter, in place of what it came with. flat: from gpt.take
  for (const { name, A, B } of adapterParts(gpt.tensors, rank, flat)) {
    Object.assign(gpt.W, { [`adapter.${name}.lora_A`]: A, [`adapter.${name}.lora_B`]: B });
  }
  Object.assign(gpt, { rank, scaling: alpha / rank, gain: new Float32Array(rank).fill(1) });
}
// exporting.in_singular_basis: the same update B A from directions in the order of their strength, in place.
function inSingularBasis({ rank, out, width, A, B }) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const directions = Array.from({ length: rank }, (_, k) => ({ // a row of A and a column of B
    a: A.slice(k * width, (k + 1) * width), b: Float32Array.from({ length: out }, (_, i) => B[i * rank + k]),
  }));
  directions.forEach(({ a, b }, k) => { // Gram-Schmidt: rows of A become orthonormal, and what they lose goes into B
    for (const earlier of directions.slice(0, k)) {
      const along = dot(a, earlier.a);
      earlier.a.forEach((value, i) => { a[i] -= along * value; });
      b.forEach((value, i) => { earlier.b[i] += along * value; });
    }
    const length = Math.sqrt(dot(a, a)) || 1;
    scale(a, 1 / length);
    scale(b, length);
  });
  for (let sweep = 0; sweep < 8; sweep++) for (let j = 0; j < rank; j++) for (let k = j + 1; k < rank; k++) {
    const [one, two] = [directions[j], directions[k]]; // Jacobi: a turn of both makes their columns of B orthogonal
    const angle = Math.atan2(2 * dot(one.b, two.b), dot(one.b, one.b) - dot(two.b, two.b)) / 2;
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    for (const name of ["a", "b"]) one[name].forEach((value, i) => {
      one[name][i] = c * value + s * two[name][i];
      two[name][i] = c * two[name][i] - s * value;
    });
  }
  directions.forEach(({ a, b }, k) => { A.set(a, k * width); b.forEach((value, i) => { B[i * rank + k] = value; }); });
}
function shuffled(flat, tensors, rank) { // shuffling.shuffle_adapter: the same numbers in other places of their matrix
  const found = flat.slice(), random = randomFrom(1);
  for (const { A, B } of adapterParts(tensors, rank, found)) for (const array of [A, B]) {
    for (let i = array.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [array[i], array[j]] = [array[j], array[i]];
    }
  }
  return found;
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
  const bytesOf = ([size, value]) => Array.from({ length: size }, (_, i) => value / 256 ** i & 255);
  return Uint8Array.from(pairs.flatMap(bytesOf));
}
const BASE = "lora-edu/data/base-laptop.safetensors"; // of the course's own repository
const HOW = `# A LoRA adapter, trained in a browser tab

Its base is ${BASE}, in 4 bits (NF4, double quantization). In lora_edu, from the folder of the unpacked files:

    from lora_edu import load_adapter, load_base, quantize_linears
    model = load_adapter(quantize_linears(load_base("laptop"), double_quant=True), ".")

With PEFT, which wants plain layers; the base is not rounded to 4 bits then, so losses differ a little:

    from lora_edu import load_base
    from peft import PeftModel
    model = PeftModel.from_pretrained(load_base("laptop"), ".")
`;
function adapterFiles(flat, tensors, rank, alpha) { // lora.save_adapter: PEFT's two files, and how to load them
  const header = { __metadata__: { format: "pt" } }, data = [], parts = adapterParts(tensors, rank, flat);
  let end = 0;
  const hold = (name, shape, values) => {
    header[`base_model.model.${name}.weight`] = { dtype: "F32", shape, data_offsets: [end, end += values.byteLength] };
    data.push(new Uint8Array(values.slice().buffer));
  };
  for (const { name, out, width, A, B } of parts) {
    hold(`${name}.lora_A`, [rank, width], A);
    hold(`${name}.lora_B`, [out, rank], B);
  }
  const text = toUtf8(JSON.stringify(header)), names = parts.map(({ name }) => name.split(".").at(-1));
  const kind = { base_model_name_or_path: BASE, peft_type: "LORA", lora_dropout: 0, fan_in_fan_out: false, bias: "none" };
  const config = { ...kind, r: rank, lora_alpha: alpha, target_modules: [...new Set(names)].sort() };
  return {
    "README.md": toUtf8(HOW),
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
  adapterParts, adapterSize, addLora, wear, inSingularBasis, shuffled, toUtf8, joined, littleEndian, BASE, HOW, adapterFiles, zipped,
};
if (typeof module !== "undefined") module.exports = adapters;
