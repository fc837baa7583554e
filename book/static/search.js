// The search of the site: sections in which every word stands, or else some, each with the line around it. sections.js holds
// all (book/search.py), since a page from file:// may fetch nothing. A word is found at its beginning: "adapt" finds "adapters".

(function () {
  "use strict";
  const MOST = 50, AROUND = 90; // results that are shown; letters on both sides of what was found

  const { element, unpacked } = window.liveParts; // of live.js
  const EMPTY = new Set("a an and are do does for how i in is it my of on or the to what when where which why with".split(" "));
  const SAME = Object.fromEntries(`vram memory, ram memory, oom memory, offload page, gpu card, cuda card, catastrophic forget, overfit forget,
    finetune train, finetuning train, quantise quantiz, quantisation quantiz, quantised quantiz, 4bit bits, 8bit bits, normalfloat nf4,
    table values, bnb bitsandbytes, hf transformers, huggingface transformers, checkpoint save, optimiser optimizer, lr rate,
    perplexity loss, llama model, llm model, chatgpt model, svd singular, dq double, rlhf reward, speed seconds, colour color`
    .split(",").map(pair => pair.trim().split(" "))); // what people type, and how the course says it

  function patterns(query) { // of each word that says something, without the ending of a plural or a verb
    const words = query.toLowerCase().match(/[\p{L}\p{N}_.]*[\p{L}\p{N}_]/gu) || [], kept = words.filter(word => !EMPTY.has(word));
    const stem = word => word.replace(/(?<=.{4})(ings?|ed|e?s)$/, "").replace(/[.]/g, "\\$&");
    return (kept.length ? kept : words).map(word => [word, SAME[word] ?? word].map(stem).join("|"))
      .map(word => new RegExp(`(?<![\\p{L}\\p{N}])(?:${word})`, "giu"));
  }

  // Sections that hold every word: first those whose title does, then those where the words come most often.
  function found(sections, words) {
    const count = (text, word) => (text.match(word) || []).length;
    const points = ([, title, page, text]) => Math.min(...words.map(word => {
      const [above, below] = [count(title, word), count(text, word)];
      return above + below ? 100 * above + Math.min(below, 20) : count(page, word) && 0.1;
    }));
    return sections.map(section => [words.length ? points(section) : 0, section]).filter(([worth]) => worth >= 1)
      .sort(([one], [other]) => other - one).map(([, section]) => section);
  }

  function line(text, words) { // the text around the first word that stands in it
    const at = Math.max(0, text.search(words.find(word => text.search(word) >= 0) ?? /^/));
    const start = at < AROUND ? 0 : text.indexOf(" ", at - AROUND) + 1, cut = text.indexOf(" ", at + AROUND);
    return [start ? "… " : "", ...marked(text.slice(start, cut < 0 ? undefined : cut), words), cut < 0 ? "" : " …"];
  }
  function marked(text, words) {
    const any = new RegExp(`(${words.map(word => `${word.source}[\\p{L}\\p{N}_]*`).join("|")})`, "giu");
    return text.split(any).map((part, i) => i % 2 ? element("mark", {}, part) : part);
  }

  function show(place, query, sections) {
    const words = patterns(query), every = found(sections, words);
    const some = every.length ? [] : words.map(word => found(sections, [word])).filter(list => list.length); // the rarest first
    const all = every.length ? every : [...new Set(some.sort((one, other) => one.length - other.length).flat())];
    const said = every.length || !all.length ? "" : "No section has every word. ";
    const count = `${all.length || "No"} section${all.length === 1 ? "" : "s"} with “${query}”` + (all.length > MOST ? `; the first ${MOST}:` : ".");
    place.replaceChildren(element("p", { role: "status" }, said + count), element("ol", { class: "found" }, ...all.slice(0, MOST).map(([address, title, page, text]) => {
      const [name, anchor] = address.split("#"), link = `${name}?highlight=${encodeURIComponent(query)}#${anchor}`;
      return element("li", {}, element("a", { href: link }, title), page === title ? "" : element("span", {}, ` ${page}`), element("p", {}, ...line(text, words)));
    })));
  }

  window.addEventListener("DOMContentLoaded", async () => {
    const place = document.getElementById("search-results"), query = new URLSearchParams(location.search).get("q")?.trim();
    document.querySelectorAll("form.bd-search input").forEach(input => { input.value = query ?? ""; });
    if (query) show(place, query, await unpacked(window.sections));
  });
})();
