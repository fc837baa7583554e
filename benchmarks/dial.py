"""How fast the dot of the book's front page is, and the model that runs there, beside the same work in torch with one
thread.

It opens the front page of `build/book` (`make book`) from the disk in an installed Chromium. Times are by the clock.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from driver import FLAGS, chromium
from slider_latency import p95

from lora_edu import data_file, load_adapter, load_base, quantize_linears
from lora_edu.gpt import KVCache, encode
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE

BYTES, PRESSES = 200, 40

# Milliseconds: `count` bytes one after another, and both lines at once, each in a session of its own.
WORK = """([count, lines]) => {
    const gpt = new GPT(readSafetensors(fromBase64(window.aliveFiles.voices))), session = gpt.newSession();
    const timed = work => { const start = performance.now(); work(); return performance.now() - start; };
    gpt.gain.fill(0, 8); // one of the two adapters
    gpt.read(session, [10]);
    const bytes = timed(() => { for (let i = 0; i < count; i++) gpt.next(session, 97); });
    const toBytes = text => new TextEncoder().encode(text);
    const read = () => lines.forEach(line => { session.position = 0; gpt.read(session, toBytes(line)); });
    return [bytes / count, timed(read)];
}"""
# From a key on the dial to the end of the frame that shows what it causes; see slider_latency.py.
LISTEN = """() => {
    const dial = document.getElementById("playwright");
    window.times = [];
    dial.focus();
    dial.addEventListener("keydown", () => {
        const pressed = performance.now();
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => window.times.push((performance.now() - pressed) / 1000);
            channel.port2.postMessage(null);
        }));
    });
}"""


def dial(page: str, rounds: int) -> dict[str, list[float]]:
    """Seconds, by name, and bytes that are loaded. page: the address of the built front page."""
    program = chromium()
    from playwright.sync_api import sync_playwright

    from book.browse_front import on_the_wire

    folder = Path(url2pathname(urlparse(page).path)).parent
    times: dict[str, list[float]] = {name: [] for name in ("page, a byte", "page, two lines", "ready")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for _ in range(rounds):
            tab = browser.new_page()
            tab.goto(page)
            tab.wait_for_function("/Checksum/.test(document.body.textContent)", timeout=60_000)  # the model is there
            tab.add_script_tag(path=folder / "alive" / "voices.js")
            byte, lines = tab.evaluate(WORK, [BYTES, ["\n" + PLAY_LINE, "\n" + ADDRESS_LINE]])
            for name, milliseconds in zip(times, (byte, lines, tab.evaluate("window.frontReady")), strict=True):
                times[name].append(milliseconds / 1000)
            tab.evaluate(LISTEN)
            for press in range(PRESSES if len(times["ready"]) == rounds else 0):
                tab.keyboard.press("ArrowRight" if press < PRESSES // 2 else "ArrowLeft")
                tab.wait_for_function(f"window.times.length > {press}")
            keys = sorted(tab.evaluate("window.times"))
            tab.close()
        times["on the wire"] = [on_the_wire(browser, folder)]
        browser.close()
    times["key to frame, median"], times["key to frame, 95%"] = [statistics.median(keys)], [p95(keys)]
    return times | _in_torch(rounds)


@torch.no_grad()
def _in_torch(rounds: int) -> dict[str, list[float]]:
    model = load_adapter(quantize_linears(load_base("laptop", device="cpu")), data_file("shakespeare-adapter")).eval()
    lines = [encode("\n" + line)[None] for line in (PLAY_LINE, ADDRESS_LINE)]  # each (1, seq)

    def bytes_one_by_one() -> None:
        cache = KVCache(model)
        for _ in range(BYTES):
            cache.read(torch.full((1, 1), 97))

    def timed(work: Callable) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return {
        "torch, a byte": [timed(bytes_one_by_one) / BYTES for _ in range(rounds)],
        "torch, two lines": [timed(lambda: [model(line) for line in lines]) for _ in range(rounds)],
    }
