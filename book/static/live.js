// Sliders without a kernel. book/live.py has computed the picture of every setting; this script puts them together.
//
// A page holds <div class="live" data-live="NAME"> with the stored picture in it, and a script that pushes this onto
// window.liveSliders, as zlib in base64:
//
//   name         of the element
//   size         width and height of the picture, in pixels; the SVG counts in tenths of them
//   panels       left, right, upper and lower edge of each panel; on a narrow screen they stand below each other
//   alt          what the picture shows, in words that hold at every setting
//   controls     {label, slides, options, start}: a slider, or buttons of which one is chosen
//   definitions  clipping rectangles and hatches, as SVG
//   background   what never moves, as SVG
//   readouts     for each setting, a line of text; the last control runs fastest
//   pieces       fragments of SVG, each stored once
//   frames       for each setting, the numbers of its pieces
//   product      null, or two matrices whose product is shown: B (rows x rank) and A (rank x columns), see makeProduct
//   bars         in place of these three, for a slider of too many pictures: what is stacked at each setting, see stacks

(function () {
  "use strict";
  const NARROW = 600;     // pixels: below it, panels are stacked
  const SMALLEST = 0.68;  // of its size: a picture is pushed sideways rather than made smaller, so that text has 9 px

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // The number of the frame for the chosen option of each control.
  function frameOf(controls, chosen) {
    return controls.reduce((frame, control, i) => frame * control.options.length + chosen[i], 0);
  }

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  }

  function start(data) {
    const place = document.querySelector(`[data-live="${data.name}"]`);
    if (!place) return;
    const chosen = data.controls.map(control => control.start);
    const product = data.product && makeProduct(data.product);
    const picture = element("div", { class: "live-picture", role: "img", "aria-label": data.alt });
    const told = place.closest(".cell_output")?.querySelector("details:has(> summary)");
    const readout = element("p", { class: "live-readout", role: "status" });

    function draw() {
      const frame = frameOf(data.controls, chosen);
      const moving = data.bars ? stacks(data.bars, frame) : data.frames[frame].map(piece => data.pieces[piece]).join("");
      for (const layer of picture.querySelectorAll("g.moving")) layer.innerHTML = moving;
      for (const canvas of picture.querySelectorAll("canvas[data-part]")) product.paint(canvas);
      for (const here of picture.querySelectorAll("g.here")) keepInSight(here);
      readout.textContent = data.readouts[frame];
      told?.replaceChildren(told.firstElementChild, `${data.alt} ${data.readouts[frame]}`);   // "In words" says it too
    }

    // One SVG on a wide screen, one for each panel on a narrow one: the same drawing, seen through other windows.
    function layOut() {
      const narrow = place.clientWidth < NARROW;
      const windows = narrow ? data.panels : [[0, data.size[0], 0, data.size[1]]];
      picture.innerHTML = windows.map(([left, right, upper, lower]) => {
        const [width, height] = [right - left, lower - upper], least = Math.round(SMALLEST * width);
        return `<div class="live-window" style="flex: 1 1 ${least}px; max-width: ${width}px">` +
          `<svg viewBox="${10 * left} ${10 * upper} ${10 * width} ${10 * height}" aria-hidden="true" focusable="false"` +
          ` style="min-width: ${least}px"><defs>${data.definitions}</defs>` +
          `<g>${data.background}</g><g class="moving"></g></svg></div>`;
      }).join("");
      draw();
    }

    const controls = data.controls.map((control, i) => {
      const change = option => { chosen[i] = option; draw(); };
      return control.slides ? slider(control, change) : buttons(control, `${data.name}-${i}`, change);
    });
    place.replaceChildren(...controls, picture, readout);
    layOut();
    let narrow = place.clientWidth < NARROW;
    new ResizeObserver(() => {
      if (narrow !== (narrow = place.clientWidth < NARROW)) layOut();
    }).observe(place);
  }

  // The bars of notebook 14, as SVG. bytes: for each kind, the bytes at each setting. A column stacks the kinds, as shares of what it holds,
  // a card, or else of all bytes; above the share `top` it is cut.
  function stacks({ bytes, looks, sizes, columns, zero, one, top }, frame) {
    const now = bytes.map(kind => kind[frame]), total = now.reduce((sum, size) => sum + size);
    const number = (value, digits) => value.toLocaleString("en-US",   // rounded as Python does
      { minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven" });
    const gib = size => `${number(size / 2 ** 30, size < 99.5 * 2 ** 30 ? 2 : 0)} GiB`;
    const say = (text, words, up) => `<g transform="translate(0 ${-Math.round(one * up)})">${text.replace(/[^>]*<\/text>/, `${words}</text>`)}</g>`;
    const stack = ({ left, right, holds, text, cut }) => {
      const whole = holds || total, share = total / whole;
      let drawn = "", height = 0;
      now.forEach((size, kind) => {
        const [low, high] = [height, height += size / whole].map(end => Math.min(end, top));
        const [from, to] = [low, high].map(end => Math.round(zero - one * end));
        if (high - low > 0.002) drawn += looks[kind].replaceAll("BAR", `M${left} ${from}H${right}V${to}H${left}Z`);
      });
      const words = holds ? `${number(100 * share, 0)}%` : gib(total);
      return drawn + (share > top ? cut : "") + say(text, words, Math.min(share, top));
    };
    return columns.map(stack).join("") + sizes.map((text, kind) => say(text, gib(now[kind]), 0)).join("");
  }

  // A canvas shows B, A, or their product, cut to a rank. The columns of B and the rows of A come as letters: how many
  // steps a number is away from 0, whose letter is 256.
  function makeProduct({ rows, columns, B, A, steps }) {
    const numbers = (text, step) => Float32Array.from(text, letter => (letter.charCodeAt(0) - 256) * step);
    const [left, right] = [numbers(B, steps[0]), numbers(A, steps[1])];
    const whole = new Float32Array(rows * columns);
    let reached = 0;                                          // the rank of `whole`

    // Between two ranks only the components between them are added or taken away.
    function wholeAt(rank) {
      const [sign, first, last] = rank > reached ? [1, reached, rank] : [-1, rank, reached];
      for (let k = first; k < last; k++) {
        for (let i = 0; i < rows; i++) {
          const factor = sign * left[k * rows + i];
          for (let j = 0, at = i * columns; j < columns; j++) whole[at + j] += factor * right[k * columns + j];
        }
      }
      reached = rank;
      return whole;
    }

    function values(part, rank) {
      if (part === "whole") return [wholeAt(rank), rows, columns];
      const made = new Float32Array(rank * (part === "B" ? rows : columns));
      for (let k = 0; k < rank; k++) {
        if (part === "B") for (let i = 0; i < rows; i++) made[i * rank + k] = left[k * rows + i];
        else for (let j = 0; j < columns; j++) made[k * columns + j] = right[k * columns + j];
      }
      return part === "B" ? [made, rows, rank] : [made, rank, columns];
    }

    function paint(canvas) {
      const { part, rank, low, high } = canvas.dataset;
      const [made, height, width] = values(part, Number(rank));
      [canvas.width, canvas.height] = [width, height];
      const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
      const dots = new Uint32Array(pixels.data.buffer), slope = 255 / (high - low), start = Number(low);
      for (let i = 0; i < made.length; i++) {
        const gray = Math.min(255, Math.max(0, Math.round(slope * (made[i] - start))));
        dots[i] = 0xff000000 | gray * 0x010101;               // opaque; red, green and blue alike
      }
      context.putImageData(pixels, 0, 0);
    }
    return { paint, values };
  }

  function slider(control, change) {
    const range = element("input", { type: "range", min: 0, max: control.options.length - 1, step: 1 });
    const value = element("span", { class: "live-value", translate: "no", "aria-hidden": "true" });   // spoken once
    function show() {
      const label = control.options[range.value];
      range.setAttribute("aria-valuetext", label);   // and not the number of the option
      value.textContent = label;
    }
    range.value = control.start;
    range.addEventListener("input", () => { show(); change(Number(range.value)); });
    show();
    return element("label", { class: "live-slider" }, element("span", {}, control.label), range, value);
  }

  function buttons(control, name, change) {
    const group = element("fieldset", { class: "live-buttons" }, element("legend", {}, control.label));
    control.options.forEach((label, option) => {
      const button = element("input", { type: "radio", name, value: option });
      button.checked = option === control.start;
      button.addEventListener("change", () => change(option));
      group.append(element("label", {}, button, element("span", {}, label)));
    });
    return group;
  }

  // Where a window is narrower than its picture, it follows what is "here", such as a cursor.
  function keepInSight(here) {
    const box = here.closest(".live-window"), frame = box.getBoundingClientRect(), { left, right } = here.getBoundingClientRect();
    if (box.scrollWidth > box.clientWidth && (left < frame.left || right > frame.right)) box.scrollLeft += (left + right - frame.left - frame.right) / 2;
  }

  // What is pushed sideways by a finger can be reached, and then pushed, by the keyboard too.
  function makeReachable() {
    for (const box of document.querySelectorAll(".formula, .live-window")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  window.liveParts = { element, unpacked, stacks }; // for the other scripts, and for tests
  window.addEventListener("DOMContentLoaded", () => {
    Promise.all((window.liveSliders || []).map(packed => unpacked(packed).then(start))).finally(makeReachable);
    window.addEventListener("resize", makeReachable);
  });
})();
