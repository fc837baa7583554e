// For test_alive.py, in Node and in Chromium: the logits of gpt.js at the settings of each job, one Float32Array a job.
function logitsOf({ GPT, roundTo }, file, int8, jobs) {
  const models = [false, true].map(wasm => new GPT(file, { wasm })), sessions = models.map(gpt => gpt.newSession());
  let before = "";
  return jobs.map(({ bytes, strength, rank, bits, blockSize, wasm, oneByOne }) => {
    const gpt = models[+wasm], session = sessions[+wasm], now = `${bits} ${blockSize}`;
    if (now !== before) for (const each of models) bits ? roundTo(each, int8, bits, blockSize) : each.restore();
    before = now;
    Object.assign(gpt, { strength, rank });
    session.position = 0;
    const rows = oneByOne ? bytes.map(byte => gpt.next(session, byte).slice()) : [gpt.read(session, bytes).slice()];
    return Float32Array.from(rows.flatMap(row => [...row]));
  });
}
