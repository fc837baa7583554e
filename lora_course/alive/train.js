// QLoRA in a browser tab, by hand: what gpt.js computes, and the way back. A classic script after
// gpt.js and writing.js; it runs in Workers of yours.js, and in Node. Beside each name: its twin.
//
//   y = W x + b + B low,  low = s A x    forward, in each of the 24 linear layers of the blocks
//   h = s B^T dy                         backward: what reaches low, times s
//   dA = h^T x,  dB = dy^T low           summed over the bytes of a window
//   dx = W^T dy + A^T h                  W passes on what comes: it is frozen, nobody asks for dW
//
// A is (rank, in_features), B (out_features, rank). All of them are one flat array, and their
// gradients another: sending them, adding them up and Adam are one loop each.
"use strict";

const WINDOW = 64, BATCH = 8, RANK = 8, ALPHA = 16, RATE = 0.01; // bytes; windows; as in 09

// --- memory, and the two products that do almost all the work ------------------------------------

// y += a M. y: (rows, columns), M: (inner, columns), a: (rows, inner), or turned: (inner, rows).
function combine(y, a, M, rows, inner, columns, turned = false) {
  const [step, next] = turned ? [1, rows] : [inner, 1];
  for (let r = 0; r < rows; r++) for (let k = 0; k < inner; k++) {
    const factor = a[r * step + k * next], to = r * columns, from = k * columns;
    if (factor) for (let i = 0; i < columns; i++) y[to + i] += factor * M[from + i];
  }
}
// combine.wat, compiled: the same, four numbers at a time. A test compiles the text and compares.
const COMBINE = "AGFzbQEAAAABDAFgCH9/f39/f39/AAIQAQRob3N0Bm1lbW9yeQIAAQMCAQAHCwEHY29tYmluZQAACq8CAawCAgp/BXsgB0ECdCEIIAJBAXQhECAQIAJqIREDQEEAIQkDQCAAIAhqIQ0gDSAIaiEOIA4gCGohDyAA/QAEACETIA39AAQAIRQgDv0ABAAhFSAP/QAEACEWIAEhCyAEIAlqIQwgBiEKA0AgDP0ABAAhEiATIBIgC/0JAgD95gH95AEhEyAUIBIgCyACav0JAgD95gH95AEhFCAVIBIgCyAQav0JAgD95gH95AEhFSAWIBIgCyARav0JAgD95gH95AEhFiALIANqIQsgDCAIaiEMIApBAWsiCg0ACyAAIBP9CwQAIA0gFP0LBAAgDiAV/QsEACAPIBb9CwQAIABBEGohACAJQRBqIgkgCEkNAAsgD0EQaiEAIAEgAkECdGohASAFQQRrIgVBAEoNAAsL";

function compiledCombine(memory) {
  const code = new WebAssembly.Module(fromBase64(COMBINE)), at = array => array.byteOffset;
  const compiled = new WebAssembly.Instance(code, { host: { memory } }).exports.combine;
  return (y, a, M, rows, inner, columns, turned = false) => {
    const [step, next] = turned ? [4, 4 * rows] : [4 * inner, 4]; // in bytes
    compiled(at(y), at(a), step, next, at(M), rows, inner, columns);
  };
}
const ROOM = 7e6; // floats beside the model: W turned, what forward keeps, adapter, gradients
function transposed(to, from, rows, columns) { // from: (rows, columns) -> to: (columns, rows)
  for (let j = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) to[i * rows + j] = from[j * columns + i];
  }
  return to;
}
function add(to, array) { for (let i = 0; i < to.length; i++) to[i] += array[i]; return to; }
function scale(array, by) { for (let i = 0; i < array.length; i++) array[i] *= by; }

// --- layers: forward keeps what backward needs. T bytes at once: x is (T, in_features) -----------

class LoRALinear { // lora.LoRALinear around qlora.NF4Linear
  constructor(gpt, T, part) {
    const { name, rank, out, width } = part;
    Object.assign(this, part, { gpt, T, W: gpt.W[name], bias: gpt.W[name + ".bias"] });
    this.turned = transposed(gpt.take(out * width), this.W, out, width);
    const sizes = { y: out, dx: width, low: rank, h: rank };
    for (const [array, size] of Object.entries(sizes)) this[array] = gpt.take(T * size);
    this.Bturned = gpt.take(out * rank);
  }
  forward(x) {
    const { gpt, T, W, bias, A, B, low, y, rank, scaling, out, width } = this;
    this.x = x;
    gpt.product(y, x, W, T, out, width);
    gpt.product(low, x, A, T, rank, width);
    scale(low, scaling);
    for (let t = 0; t < T; t++) for (let j = 0; j < out; j++) y[t * out + j] += bias[j];
    gpt.combine(y, low, transposed(this.Bturned, B, out, rank), T, rank, out);
    return y;
  }
  backward(dy) { // adds to dA and dB
    const { gpt, T, x, turned, A, B, dA, dB, low, h, dx, rank, scaling, out, width } = this;
    gpt.combine(h.fill(0), dy, B, T, out, rank);
    scale(h, scaling);
    gpt.combine(dA, h, x, rank, T, width, true);
    gpt.combine(dB, dy, low, out, T, rank, true);
    if (this.lowest) return dx; // before the first layers nothing learns
    gpt.product(dx, dy, turned, T, width, out);
    gpt.combine(dx, h, A, T, rank, width);
    return dx;
  }
}
class LayerNorm { // torch.nn.LayerNorm
  constructor(gpt, T, weight, bias) {
    Object.assign(this, { weight, bias, d: weight.length, by: new Float32Array(T) });
    for (const name of ["y", "z", "dx"]) this[name] = gpt.take(T * this.d);
  }
  forward(x) {
    const { weight, bias, d, y, z, by } = this;
    for (let t = 0; t < by.length; t++) {
      const from = t * d;
      let mean = 0, variance = 0;
      for (let i = 0; i < d; i++) mean += x[from + i] / d;
      for (let i = 0; i < d; i++) variance += (x[from + i] - mean) ** 2 / d;
      by[t] = 1 / Math.sqrt(variance + 1e-5);
      for (let i = 0; i < d; i++) {
        z[from + i] = (x[from + i] - mean) * by[t];
        y[from + i] = z[from + i] * weight[i] + bias[i];
      }
    }
    return y;
  }
  backward(dy) { // what is common to all of a row, and what is along z, does not come through
    const { weight, d, z, by, dx } = this;
    for (let t = 0; t < by.length; t++) {
      const from = t * d;
      let mean = 0, along = 0;
      for (let i = 0; i < d; i++) {
        const dz = dy[from + i] * weight[i];
        mean += dz / d; along += dz * z[from + i] / d;
      }
      for (let i = 0; i < d; i++) {
        dx[from + i] = by[t] * (dy[from + i] * weight[i] - mean - z[from + i] * along);
      }
    }
    return dx;
  }
}
class Attention { // gpt.Attention
  constructor(gpt, T, linear) {
    const { n_heads, d_model: d } = gpt;
    Object.assign(this, { gpt, T, n_heads, D: d / n_heads });
    for (const name of ["q", "k", "v", "o"]) this[name] = linear(`${name}_proj`);
    const names = ["q", "k", "v", "mixed", "dq", "dk", "dv", "dmixed"];
    this.all = Object.fromEntries(names.map(name => [name, gpt.take(T * d)])); // (heads, T, D)
    for (const name of ["share", "dshare"]) this.all[name] = gpt.take(n_heads * T * T);
    this.joined = gpt.take(T * d); this.dx = gpt.take(T * d);
  }
  splitHeads(to, from, back = false) { // (T, heads, D) -> (heads, T, D), as its twin, or back
    const { T, n_heads, D } = this;
    for (let h = 0; h < n_heads; h++) for (let t = 0; t < T; t++) {
      const apart = (h * T + t) * D, joined = (t * n_heads + h) * D;
      if (back) to.set(from.subarray(apart, apart + D), joined);
      else to.set(from.subarray(joined, joined + D), apart);
    }
    return to;
  }
  head(h) { // the arrays of one head
    const own = array => array.subarray(...[h, h + 1].map(n => n * array.length / this.n_heads));
    return Object.fromEntries(Object.entries(this.all).map(([name, array]) => [name, own(array)]));
  }
  forward(x) { // softmax(q k^T / sqrt(D)) v: each byte looks at itself and at those before it
    const { gpt, T, D, all } = this, root = Math.sqrt(D);
    for (const name of ["q", "k", "v"]) this.splitHeads(all[name], this[name].forward(x));
    all.mixed.fill(0);
    for (let h = 0; h < this.n_heads; h++) {
      const { q, k, v, mixed, share } = this.head(h);
      gpt.product(share, q, k, T, T, D);
      for (let t = 0; t < T; t++) {
        const seen = share.subarray(t * T, t * T + t + 1);
        let top = -Infinity, total = 0;
        for (let i = 0; i <= t; i++) top = Math.max(top, seen[i]);
        for (let i = 0; i <= t; i++) total += seen[i] = Math.exp((seen[i] - top) / root);
        for (let i = 0; i <= t; i++) seen[i] /= total;
        share.fill(0, t * T + t + 1, (t + 1) * T);
      }
      gpt.combine(mixed, share, v, T, T, D);
    }
    return this.o.forward(this.splitHeads(this.joined, all.mixed, true));
  }
  backward(dy) {
    const { gpt, T, D, all, dx, joined } = this, root = Math.sqrt(D);
    this.splitHeads(all.dmixed, this.o.backward(dy));
    for (const name of ["dq", "dk", "dv"]) all[name].fill(0);
    for (let h = 0; h < this.n_heads; h++) {
      const { q, k, v, dq, dk, dv, dmixed, share, dshare } = this.head(h);
      gpt.product(dshare, dmixed, v, T, T, D);
      gpt.combine(dv, share, dmixed, T, T, D, true);
      for (let start = 0; start < T * T; start += T) { // through the softmax
        let mean = 0;
        for (let i = start; i < start + T; i++) mean += share[i] * dshare[i];
        for (let i = start; i < start + T; i++) dshare[i] = share[i] * (dshare[i] - mean) / root;
      }
      gpt.combine(dq, dshare, k, T, T, D);
      gpt.combine(dk, dshare, q, T, T, D, true);
    }
    dx.fill(0);
    for (const name of ["q", "k", "v"]) {
      add(dx, this[name].backward(this.splitHeads(joined, all[`d${name}`], true)));
    }
    return dx;
  }
}
class MLP { // gpt.MLP
  constructor(gpt, T, linear) {
    this.up = linear("up_proj"); this.down = linear("down_proj");
    this.gelu = gpt.take(T * 4 * gpt.d_model); this.slope = gpt.take(T * 4 * gpt.d_model);
  }
  forward(x) { // gelu(u) = u p, with p = (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
    const { gelu, slope } = this, u = this.up.forward(x), c = 2 * Math.sqrt(2 / Math.PI);
    for (let i = 0; i < u.length; i++) {
      const square = u[i] * u[i], p = 1 / (1 + Math.exp(-c * u[i] * (1 + 0.044715 * square)));
      gelu[i] = u[i] * p;
      slope[i] = p + u[i] * p * (1 - p) * c * (1 + 3 * 0.044715 * square);
    }
    return this.down.forward(gelu);
  }
  backward(dy) {
    const { slope } = this, du = this.down.backward(dy);
    for (let i = 0; i < du.length; i++) du[i] *= slope[i];
    return this.up.backward(du);
  }
}

// --- the model -----------------------------------------------------------------------------------

class Trainer { // gpt.GPT with its way back. gpt: one of gpt.js with ROOM to spare; it then wears
  constructor(gpt, { T = WINDOW, rank = RANK, alpha = ALPHA } = {}) { // the adapter that is trained
    const { d_model: d, vocab_size: V, W, tensors } = gpt, count = adapterSize(tensors, rank);
    gpt.combine = gpt.product === product ? combine : compiledCombine(gpt.memory);
    Object.assign(this, { gpt, T, d, V, layers: {}, head: W["lm_head.weight"] });
    this.x = gpt.take(T * d); this.dx = gpt.take(T * d); this.logits = gpt.take(T * V);
    this.parameters = gpt.take(count); this.gradients = gpt.take(count);
    wear(gpt, this.parameters, rank, alpha);
    const gradients = adapterParts(tensors, rank, this.gradients);
    adapterParts(tensors, rank, this.parameters).forEach((part, i) => {
      const { A: dA, B: dB } = gradients[i], lowest = /^blocks\.0\..*\.[qkv]_/.test(part.name);
      this.layers[part.name] = new LoRALinear(gpt, T,
        { ...part, dA, dB, lowest, scaling: alpha / rank });
    });
    const norm = name => new LayerNorm(gpt, T, W[name + ".weight"], W[name + ".bias"]);
    this.blocks = Array.from({ length: gpt.n_layers }, (_, l) => {
      const linear = path => name => this.layers[`blocks.${l}.${path}.${name}`];
      return {
        attentionNorm: norm(`blocks.${l}.attention_norm`), mlpNorm: norm(`blocks.${l}.mlp_norm`),
        attention: new Attention(gpt, T, linear("attention")), mlp: new MLP(gpt, T, linear("mlp")),
      };
    });
    this.finalNorm = norm("final_norm");
    this.headTurned = transposed(gpt.take(V * d), this.head, V, d);
  }
  forward(bytes) { // T + 1 bytes -> the mean loss; logits then holds its gradient
    const { T, d, V, x, logits, gpt } = this;
    const token = gpt.W["token_embedding.weight"], place = gpt.W["position_embedding.weight"];
    for (let t = 0; t < T; t++) for (let i = 0; i < d; i++) {
      x[t * d + i] = token[bytes[t] * d + i] + place[t * d + i];
    }
    for (const { attentionNorm, attention, mlpNorm, mlp } of this.blocks) { // gpt.Block
      add(x, attention.forward(attentionNorm.forward(x)));
      add(x, mlp.forward(mlpNorm.forward(x)));
    }
    gpt.product(logits, this.finalNorm.forward(x), this.head, T, V, d);
    let loss = 0;
    for (let t = 0; t < T; t++) { // F.cross_entropy
      const row = logits.subarray(t * V, (t + 1) * V), top = row.reduce((a, b) => Math.max(a, b));
      let total = 0;
      for (let i = 0; i < V; i++) total += Math.exp(row[i] - top);
      loss += (top + Math.log(total) - row[bytes[t + 1]]) / T;
      for (let i = 0; i < V; i++) row[i] = Math.exp(row[i] - top) / total / T;
      row[bytes[t + 1]] -= 1 / T;
    }
    return loss;
  }
  backward() { // after forward: adds to the gradients
    const { T, d, V, gpt, dx } = this;
    gpt.product(dx, this.logits, this.headTurned, T, d, V);
    dx.set(this.finalNorm.backward(dx));
    for (const { attentionNorm, attention, mlpNorm, mlp } of this.blocks.slice().reverse()) {
      add(dx, mlpNorm.backward(mlp.backward(dx)));
      add(dx, attentionNorm.backward(attention.backward(dx)));
    }
  }
  window(bytes) { // -> its loss and its gradients
    this.gradients.fill(0);
    const loss = this.forward(bytes);
    this.backward();
    return { loss, gradients: this.gradients.slice() };
  }
}

// --- the loop ------------------------------------------------------------------------------------

class AdamW { // torch.optim.AdamW without decay, after torch.nn.utils.clip_grad_norm_(..., 1)
  constructor(size) {
    Object.assign(this, { done: 0, mean: new Float32Array(size), square: new Float32Array(size) });
  }
  step(parameters, gradients, rate) { // parameters: changed in place
    const { mean, square } = this, [b1, b2] = [0.9, 0.95], t = ++this.done;
    const length = Math.sqrt(gradients.reduce((sum, g) => sum + g * g, 0));
    const clip = Math.min(1, 1 / (length + 1e-6)), first = 1 - b1 ** t, second = 1 - b2 ** t;
    for (let i = 0; i < parameters.length; i++) {
      const g = gradients[i] * clip;
      mean[i] = b1 * mean[i] + (1 - b1) * g;
      square[i] = b2 * square[i] + (1 - b2) * g * g;
      parameters[i] -= rate * mean[i] / first / (Math.sqrt(square[i] / second) + 1e-8);
    }
  }
}
function learningRateFactor(step, steps, warmup = 5) { // its twin in training.py; here down to 0
  if (step < warmup) return (step + 1) / warmup;
  return (1 + Math.cos(Math.PI * (step - warmup) / Math.max(1, steps - warmup))) / 2;
}
function evenWindows(text, most) { // training.evaluate: spread evenly, so that losses compare
  const last = text.length - WINDOW - 1;
  const count = Math.min(most, Math.floor((text.length - 1) / WINDOW));
  const start = n => Math.floor(n * last / Math.max(1, count - 1));
  return Array.from({ length: count }, (_, n) => text.slice(start(n), start(n) + WINDOW + 1));
}
// A team is one Worker or two: `ask(name, ...)` of each. A window goes to the next that is free;
// gradients are summed in the order of the windows, so that one and two give the same bits.
async function meanGradients(team, flat, windows) {
  const found = [], mean = new Float32Array(flat.length);
  let next = 0;
  await Promise.all(team.map(async ask => {
    await ask("wear", flat);
    while (next < windows.length) {
      const n = next++;
      found[n] = await ask("window", windows[n]);
    }
  }));
  for (const { gradients } of found) add(mean, gradients);
  scale(mean, 1 / windows.length);
  return { loss: found.reduce((sum, { loss }) => sum + loss / windows.length, 0), gradients: mean };
}
async function* train(team, flat, text, steps) { // training.train: hands over each step's loss
  const adam = new AdamW(flat.length), random = randomFrom(1);
  for (let step = 0; step < steps; step++) {
    const windows = Array.from({ length: BATCH }, () => {
      const start = Math.floor(random() * (text.length - WINDOW));
      return text.slice(start, start + WINDOW + 1);
    });
    const { loss, gradients } = await meanGradients(team, flat, windows);
    adam.step(flat, gradients, RATE * learningRateFactor(step, steps));
    yield loss;
  }
}

const training = {
  WINDOW, BATCH, RANK, ALPHA, RATE, COMBINE, ROOM, combine, compiledCombine, transposed, add, scale,
  LoRALinear, LayerNorm, Attention, MLP, Trainer, AdamW, learningRateFactor, evenWindows,
  meanGradients, train,
};
if (typeof module !== "undefined") module.exports = training;
