// The course's GPT in a browser tab: the arithmetic of gpt.py and qlora.py, in JavaScript that needs nothing else.
// A classic script: it works from file://, in a page and in Node. What it reads is written by exporting.py.
"use strict";

// --- the file: safetensors, checked as a whole -----------------------------------------------------------------------

function readSafetensors(bytes) { // Uint8Array -> { tensors: name -> typed array with a shape, metadata }
  const damaged = why => Error(`the model's file is damaged (${why}): build or download it again`);
  if (bytes.length < 8) throw damaged("it is empty");
  const size = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true)), tensors = {};
  if (!(size <= bytes.length - 8)) throw damaged("it is cut off");
  let header;
  try { header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size))); } catch { throw damaged("its list of tensors"); }
  const metadata = header.__metadata__ || {}, data = bytes.subarray(8 + size);
  if (String(adler32(data)) !== metadata.adler32) throw damaged("its checksum differs");
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const copy = data.slice(start, end).buffer; // a copy begins at an even address, as a Float32Array has to
    tensors[name] = dtype === "U8" ? new Uint8Array(copy) : dtype === "F32" ? new Float32Array(copy) : widened(new Uint16Array(copy));
    tensors[name].shape = shape;
  }
  return { tensors, metadata };
}
function widened(bfloat16) { // the upper halves of float32 numbers -> Float32Array
  const bits = new Uint32Array(bfloat16.length);
  for (let i = 0; i < bits.length; i++) bits[i] = bfloat16[i] << 16;
  return new Float32Array(bits.buffer);
}
function adler32(bytes) { // as zlib.adler32 in Python
  let a = 1, b = 0;
  for (let i = 0; i < bytes.length;) {
    for (const end = Math.min(i + 3800, bytes.length); i < end; i++) { a += bytes[i]; b += a; }
    a %= 65521; b %= 65521;
  }
  return b * 65536 + a;
}
function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

// --- quantization: codes and constants -> weights -----------------------------------------------------------------------

function decode(codes, absmax, codebook, blockSize, out) { // look every code up, times the absmax of its block
  const packed = codebook.length <= 16; // then a byte holds two codes, the first in its high half
  for (let i = 0; i < out.length; i++) {
    const code = packed ? (i & 1 ? codes[i >> 1] & 15 : codes[i >> 1] >> 4) : codes[i];
    out[i] = codebook[code] * absmax[(i / blockSize) | 0];
  }
  return out;
}

// --- the product -------------------------------------------------------------------------------------------------------

// product.wat, compiled: the same as `product` below, four numbers at a time. A test compiles the text and compares.
const WASM = "AGFzbQEAAAABEAJgAnt7AXtgBn9/f39/fwACEAEEaG9zdAZtZW1vcnkCAAEDAwIAAQcLAQdwcm9kdWN0AAEK6AQCMQAgACAB/Q0AAQIDCAkKCxAREhMYGRobIAAgAf0NBAUGBwwNDg8UFRYXHB0eH/3kAQuzBAIOfwt7IAVBAnQhBiAEQQJ0IQcgACAHaiEIAkAgA0UNAANAIAMhCSAAIQogASELA0AgCUEBRiETQQAgBiATGyEMQQAgByATGyENIAIhDiAOIAZqIQ8gDyAGaiEQIBAgBmohESAPIRL9DAAAAAAAAAAAAAAAAAAAAAAhF/0MAAAAAAAAAAAAAAAAAAAAACEY/QwAAAAAAAAAAAAAAAAAAAAAIRn9DAAAAAAAAAAAAAAAAAAAAAAhGv0MAAAAAAAAAAAAAAAAAAAAACEb/QwAAAAAAAAAAAAAAAAAAAAAIRz9DAAAAAAAAAAAAAAAAAAAAAAhHf0MAAAAAAAAAAAAAAAAAAAAACEeA0AgC/0ABAAhFSALIAxq/QAEACEWIA79AAQAIRQgFyAVIBT95gH95AEhFyAbIBYgFP3mAf3kASEbIA/9AAQAIRQgGCAVIBT95gH95AEhGCAcIBYgFP3mAf3kASEcIBD9AAQAIRQgGSAVIBT95gH95AEhGSAdIBYgFP3mAf3kASEdIBH9AAQAIRQgGiAVIBT95gH95AEhGiAeIBYgFP3mAf3kASEeIAtBEGohCyAOQRBqIQ4gD0EQaiEPIBBBEGohECARQRBqIREgDiASSQ0ACyAKIBcgGBAAIBkgGhAAEAD9CwQAIAogDWogGyAcEAAgHSAeEAAQAP0LBAAgCiAHQQF0aiEKIAsgDGohCyAJQQJrIglBAEoNAAsgESECIABBEGoiACAISQ0ACwsL";

function product(y, x, W, count, rows, columns) { // y[t, j] = sum over i of W[j, i] x[t, i]; four rows at a time meet every x
  for (let j = 0; j < rows; j += 4) for (let t = 0; t < count; t++) {
    let p = j * columns, q = p + columns, r = q + columns, s = r + columns, a = 0, b = 0, c = 0, d = 0;
    for (let i = t * columns, end = i + columns; i < end; i++) { const v = x[i]; a += v * W[p++]; b += v * W[q++]; c += v * W[r++]; d += v * W[s++]; }
    const to = t * rows + j;
    y[to] = a; y[to + 1] = b; y[to + 2] = c; y[to + 3] = d;
  }
}
function compiledProduct(memory) { // null where the page may not use WebAssembly
  try {
    const code = new WebAssembly.Module(fromBase64(WASM)), at = array => array.byteOffset;
    const compiled = new WebAssembly.Instance(code, { host: { memory } }).exports.product;
    return (y, x, W, count, rows, columns) => compiled(at(y), at(x), at(W), count, rows, columns);
  } catch { return null; }
}

// GELU as `F.gelu(u, approximate="tanh")`: (1 + tanh z) / 2 is 1 / (1 + exp(-2 z)), which a browser computes faster.
const gelu = u => u / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (u + 0.044715 * u * u * u)));

// --- the model ---------------------------------------------------------------------------------------------------------

class GPT {
  // tensors: as exporting.py writes them. A `strength` of 0 is the base, 1 the adapter as trained.
  constructor({ tensors, metadata }, { wasm = true, room = 0 } = {}) { // room: for floats of a caller's own
    Object.assign(this, JSON.parse(metadata.config), { tensors, strength: 1, scaling: Number(metadata.scaling), W: {}, use: 0 });
    const { context, d_model: d, vocab_size } = this, rest = Object.keys(tensors).filter(name => /^adapter|embedding|norm|bias|lm_head/.test(name));
    this.layers = Object.keys(tensors).filter(name => name.endsWith(".codes")).map(name => name.slice(0, -6));
    this.rank = Number(metadata.rank);
    this.gain = new Float32Array(this.rank).fill(1); // of each direction: two adapters may stand in one A and one B
    const sizes = this.layers.map(name => tensors[name + ".codes"].length * 2), sum = numbers => numbers.reduce((a, b) => a + b, 0);
    const floats = sum(sizes) + sum(rest.map(name => tensors[name].length)) + context * (12 * d + vocab_size + 64) + 4 * context * d * this.n_layers + room;
    try { this.memory = wasm && new WebAssembly.Memory({ initial: Math.ceil(floats / 16384) + 2 }); } catch { this.memory = null; }
    this.buffer = this.memory ? this.memory.buffer : new ArrayBuffer(4 * floats + 65536);
    this.product = this.memory && compiledProduct(this.memory) || product;
    this.layers.forEach((name, i) => { this.W[name] = this.decoded(name, this.take(sizes[i])); });
    for (const name of rest) { const kept = this.take(tensors[name].length); kept.set(tensors[name]); this.W[name] = kept; }
    this.x = this.take(context * d); this.normed = this.take(context * d); this.q = this.take(context * d); this.y = this.take(context * d);
    this.up = this.take(context * 4 * d); this.Ax = this.take(context * 64); this.BAx = this.take(context * 4 * d); this.logits = this.take(context * vocab_size);
  }
  take(floats) { // memory that the compiled product can reach
    const array = new Float32Array(this.buffer, this.use, floats);
    this.use += Math.ceil(floats / 4) * 16;
    return array;
  }
  decoded(name, out) { // W', from codes and the absmax of their blocks, which are codes themselves
    const { [name + ".codes"]: codes, [name + ".absmax"]: absmax, [name + ".absmax_absmax"]: second, [name + ".absmax_offset"]: offset } = this.tensors;
    const constants = decode(absmax, second, this.tensors["codebook.dynamic"], 256, new Float32Array(absmax.length));
    return decode(codes, constants.map(value => value + offset[0]), this.tensors["codebook.nf4"], 64, out);
  }
  newSession() { // what is kept of the bytes read so far: the keys and values of each block; there is room for two
    const kept = () => Array.from({ length: this.n_layers }, () => this.take(this.context * this.d_model));
    return { position: 0, keys: kept(), values: kept() };
  }
  linear(y, x, name, count) { // W' x + b + B (s A x), each of the r directions with its gain
    const b = this.W[name + ".bias"], rows = b.length, columns = this.W[name].length / rows;
    this.product(y, x, this.W[name], count, rows, columns);
    for (let t = 0; t < count; t++) for (let j = 0; j < rows; j++) y[t * rows + j] += b[j];
    const A = this.W[`adapter.${name}.lora_A`], B = this.W[`adapter.${name}.lora_B`], s = this.strength * this.scaling;
    if (!A || !s) return;
    const r = A.length / columns, BAx = this.BAx; // r: filled up with zeros
    this.product(this.Ax, x, A, count, r, columns);
    for (let t = 0; t < count; t++) for (let k = 0; k < r; k++) this.Ax[t * r + k] *= k < this.rank ? s * this.gain[k] : 0;
    this.product(BAx, this.Ax, B, count, rows, r);
    for (let i = 0; i < count * rows; i++) y[i] += BAx[i];
  }
  norm(y, x, name, count) {
    const weight = this.W[name + ".weight"], bias = this.W[name + ".bias"], d = this.d_model;
    for (let start = 0; start < count * d; start += d) {
      let mean = 0, variance = 0;
      for (let i = 0; i < d; i++) mean += x[start + i] / d;
      for (let i = 0; i < d; i++) variance += (x[start + i] - mean) ** 2 / d;
      const scale = 1 / Math.sqrt(variance + 1e-5);
      for (let i = 0; i < d; i++) y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
    }
  }
  attend(mixed, q, keys, values, start, count) { // softmax(q k^T / sqrt(D)) v over each byte and those before it
    const d = this.d_model, D = d / this.n_heads, share = new Float64Array(start + count);
    for (let t = 0; t < count; t++) for (let o = 0; o < d; o += D) { // o: where a head begins
      const seen = start + t + 1, at = t * d + o;
      let top = -Infinity, total = 0;
      for (let s = 0; s < seen; s++) {
        let dot = 0;
        for (let i = 0, key = s * d + o; i < D; i++) dot += q[at + i] * keys[key + i];
        top = Math.max(top, share[s] = dot / Math.sqrt(D));
      }
      for (let s = 0; s < seen; s++) total += share[s] = Math.exp(share[s] - top);
      for (let i = 0; i < D; i++) {
        let sum = 0;
        for (let s = 0, value = o + i; s < seen; s++, value += d) sum += share[s] * values[value];
        mixed[at + i] = sum / total;
      }
    }
  }
  read(session, bytes) { // the logits after each of these bytes, (bytes, 256); valid until the next call
    const { d_model: d, context, x, normed, q, y, up } = this, start = session.position, count = bytes.length;
    if (start + count > context) throw Error(`the model reads at most ${context} bytes, got ${start + count}`);
    const token = this.W["token_embedding.weight"], place = this.W["position_embedding.weight"];
    for (let t = 0; t < count; t++) for (let i = 0; i < d; i++) x[t * d + i] = token[bytes[t] * d + i] + place[(start + t) * d + i];
    const add = () => { for (let i = 0; i < count * d; i++) x[i] += y[i]; };
    for (let l = 0; l < this.n_layers; l++) {
      const block = `blocks.${l}.`, keys = session.keys[l], values = session.values[l];
      this.norm(normed, x, block + "attention_norm", count);
      this.linear(q, normed, block + "attention.q_proj", count);
      this.linear(keys.subarray(start * d), normed, block + "attention.k_proj", count);
      this.linear(values.subarray(start * d), normed, block + "attention.v_proj", count);
      this.attend(normed, q, keys, values, start, count);
      this.linear(y, normed, block + "attention.o_proj", count);
      add();
      this.norm(normed, x, block + "mlp_norm", count);
      this.linear(up, normed, block + "mlp.up_proj", count);
      for (let i = 0; i < count * 4 * d; i++) up[i] = gelu(up[i]);
      this.linear(y, up, block + "mlp.down_proj", count);
      add();
    }
    session.position += count;
    this.norm(normed, x, "final_norm", count);
    this.product(this.logits, normed, this.W["lm_head.weight"], count, this.vocab_size, d);
    return this.logits.subarray(0, count * this.vocab_size);
  }
  next(session, byte) { return this.read(session, [byte]); } // its logits, (256,)
}

const alive = { readSafetensors, widened, adler32, fromBase64, decode, WASM, product, compiledProduct, gelu, GPT };
if (typeof module !== "undefined") module.exports = alive;
