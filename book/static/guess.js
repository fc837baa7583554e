// What a reader writes on a page, kept in this browser: guesses before a measurement, and marks on notebook 13's sentences.
//
//   <input data-guess="00-3">     a guess; it opens the next fold, whose first line then says it again
//   <div data-after="00-3">       can be used once that guess is made, or by a button without one
//   <p data-guesses="67">         says how many of all guesses are made
//   .lora-edu-static              the article: each of its sentences gets three marks, and opens when it has one

(function () {
  "use strict";
  const KEY = "lora-edu guess ";

  const { element } = window.liveParts; // of live.js
  const kept = {   // a browser may refuse to keep anything: then a guess lives as long as its page
    get: key => { try { return localStorage.getItem(KEY + key) || ""; } catch { return ""; } },
    set: (key, value) => { try { value ? localStorage.setItem(KEY + key, value) : localStorage.removeItem(KEY + key); } catch { /* see above */ } },
    count: () => { try { return Object.keys(localStorage).filter(key => key.startsWith(KEY)).length; } catch { return 0; } },
  };

  function guess(input, folds) {
    const key = input.dataset.guess;
    const fold = folds.find(other => input.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING);
    const line = element("p", { class: "guessed" });
    fold?.querySelector("summary").after(line);
    const show = () => { line.textContent = input.value ? `Your guess: ${input.value}. What was measured:` : ""; };
    input.value = kept.get(key);
    show();
    input.addEventListener("change", () => {
      kept.set(key, input.value.trim());
      show();
      if (fold && input.value) fold.open = true;
      document.querySelectorAll(`[data-after="${key}"]`).forEach(free);
    });
  }

  function hold(place) {   // until there is a guess
    const button = element("button", { type: "button" }, "Turn it without a guess");
    button.addEventListener("click", () => free(place));
    place.before(element("p", { class: "guess-first" }, "Guess first, in the line above. ", button));
    place.inert = true;
  }
  function free(place) {
    if (place.inert) place.previousElementSibling.remove();
    place.inert = false;
  }

  function marks(article) {
    const said = element("p", { role: "status" }), answers = [...article.querySelectorAll("details")], hits = new Map();
    answers.forEach((answer, i) => {
      const verdict = answer.querySelector("p > b").textContent.replace(".", "").toLowerCase();
      const group = element("fieldset", { class: "live-buttons" }, element("legend", { class: "alive-hidden" }, `sentence ${i + 1}`));
      for (const word of ["true", "false", "depends"]) {
        const mark = element("input", { type: "radio", name: `mark-${i}` });
        mark.addEventListener("change", () => {
          hits.set(i, word === verdict);
          answer.open = true;
          const right = [...hits.values()].filter(Boolean).length;
          said.textContent = `${hits.size} of ${answers.length} marked, ${right} right.`;
        });
        group.append(element("label", {}, mark, element("span", {}, word)));
      }
      answer.before(group);
    });
    article.append(said);
  }

  window.addEventListener("DOMContentLoaded", () => {
    const folds = [...document.querySelectorAll("details.hide.below-input")];
    document.querySelectorAll("[data-guess]").forEach(input => guess(input, folds));
    document.querySelectorAll("[data-after]").forEach(place => kept.get(place.dataset.after) || hold(place));
    document.querySelectorAll("[data-guesses]").forEach(place => {
      place.textContent = kept.count() ? `You have made ${kept.count()} of ${place.dataset.guesses} guesses.` : "";
    });
    document.querySelectorAll(".lora-edu-static").forEach(marks);
  });
})();
