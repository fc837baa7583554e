// For test_alive.py, in Node and in Chromium: the logits of gpt.js at the settings of each job, one Float32Array a job.
function logitsOf(GPT, file, jobs) {
  const models = [false, true].map(wasm => new GPT(file, { wasm })), sessions = models.map(gpt => gpt.newSession());
  return jobs.map(({ bytes, strength, wasm, oneByOne }) => {
    const gpt = models[+wasm], session = sessions[+wasm];
    gpt.strength = strength;
    session.position = 0;
    const rows = oneByOne ? bytes.map(byte => gpt.next(session, byte).slice()) : [gpt.read(session, bytes).slice()];
    return Float32Array.from(rows.flatMap(row => [...row]));
  });
}
