"""Read the book in a real browser, from file://, and list what is wrong: `python -m book.browse`, in `make browser`.

It opens every page with an installed Chromium and reports requests that leave the machine, links that lead nowhere,
messages on the console, pages that scroll sideways on a phone and, by axe-core, what a screen reader or a keyboard
would stumble over. Playwright and axe-core come with the extra `bench`.
"""

import argparse
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse
from urllib.request import url2pathname

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from book.browse_front import front
from book.browse_looks import looks

DEFAULT = Path(__file__).parent.parent / "build" / "book"
DIAL_PAGE, LATE_PAGE = "00_start_here.html", "09_qlora_gpt.html"  # with the model near the top, and far down
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
SLOWEST, SLOWEST_PIECE = 10, 16  # milliseconds that a move of a slider may take, and a piece of the dial's work
HEAVIEST = 700_000  # bytes of a page with its pictures, styles and scripts, without the model
LINKS = "() => [...document.querySelectorAll('a[href], img[src], script[src], link[href]')].map(e => e.href || e.src)"
ANCHORS = "() => [...document.querySelectorAll('[id]')].map(e => e.id)"
READY = "() => document.querySelectorAll('.live').length === document.querySelectorAll('.live-picture').length"
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
AXE = """async () => (await axe.run(document, {preload: false})).violations
    .filter(v => ["serious", "critical"].includes(v.impact)).map(
    v => `${v.impact}: ${v.id}, ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 160)} | `
        + v.nodes[0].failureSummary)"""


# Moves every slider of a page back and forth, checks that picture and words follow, and returns the median time.
MOVE = """() => [...document.querySelectorAll(".live")].map(place => {
    const input = place.querySelector("input[type=range]") ?? place.querySelector("input");
    const moving = place.querySelector("g.moving");
    const buttons = place.querySelectorAll(`input[name="${input.name}"]`);
    const words = place.querySelector("[role=status]"), start = Number(input.value), times = [];
    const told = place.closest(".cell_output").querySelector("details");
    let followed = told.textContent.includes(words.textContent);
    for (let move = 0; move < 7; move++) {
        const before = [moving.innerHTML, words.textContent], begin = performance.now();
        if (input.type === "radio") [...buttons].find(button => !button.checked).click();
        else {
            input.value = move % 2 ? start : start > 0 ? start - 1 : 1;
            input.dispatchEvent(new Event("input"));
        }
        times.push(performance.now() - begin);
        followed &&= moving.innerHTML !== before[0] && words.textContent !== before[1] && moving.childElementCount > 0
            && told.textContent.endsWith(words.textContent);
    }
    return [place.dataset.live, followed, times.sort((a, b) => a - b)[3]];
})"""

# Turns the dial of notebook 00: nothing is said while it turns; at rest lines, words and what is written have followed;
# no piece of the work held the page for long. Returns what is wrong.
DIAL = """async slowest => {
    const rest = milliseconds => new Promise(done => setTimeout(done, milliseconds));
    const wrong = [], changes = [], took = [];
    const all = selector => [...document.querySelectorAll(`#alive ${selector}`)];
    const input = all("input[type=range]")[0];
    const words = () => all(".alive-head b, .alive-hidden, .alive-said").map(e => e.textContent);
    await rest(4000);
    const before = words(), frame = window.requestAnimationFrame;
    new MutationObserver(found => changes.push(...found)).observe(all(".alive-hidden")[0], { childList: true });
    window.requestAnimationFrame = work => frame(now => {
        const begun = performance.now();
        work(now);
        took.push(performance.now() - begun);
    });
    for (let step = 1; step <= 10; step++) {
        input.value = step / 10;
        input.dispatchEvent(new Event("input"));
        await rest(50);
    }
    if (changes.length) wrong.push("the live region speaks while the dial turns");
    await rest(4000);
    words().forEach((now, i) => now === before[i] && wrong.push(`words ${i} of the dial do not follow`));
    const middle = took.sort((a, b) => a - b)[took.length >> 1];
    if (!changes.length || !(middle < slowest)) wrong.push(`the live region is silent, or a piece took ${middle} ms`);
    if (!input.getAttribute("aria-label") || !input.getAttribute("aria-valuetext")) wrong.push(input.outerHTML);
    return wrong;
}"""

# A guess is said again above what was measured, frees the dial that waits for it, and is counted elsewhere.
GUESS = """() => {
    const input = document.querySelector("[data-guess]"), dial = document.querySelector("[data-after]"), wrong = [];
    if (!dial.inert) wrong.push("the dial does not wait for a guess");
    input.value = "50";
    input.dispatchEvent(new Event("change"));
    const fold = document.querySelector("details.hide.below-input");
    if (dial.inert || !fold.open || !fold.textContent.includes("Your guess: 50")) wrong.push("a guess opens nothing");
    return wrong;
}"""

# Marking a sentence opens what is behind it, and is counted.
MARK = """() => {
    document.querySelector(".lora-edu-static input").click();
    const said = document.querySelector(".lora-edu-static > [role=status]").textContent;
    return document.querySelector(".lora-edu-static details").open && said.startsWith("1 of 10 marked") ? [] : [said];
}"""

# On a phone: what a slider moves stays in sight, and no text ends beyond the right edge, but where it can be pushed.
PHONE = """() => {
    const wrong = [], edge = document.documentElement.clientWidth;
    for (const range of document.querySelectorAll(".live-slider input")) for (const end of [range.max, range.min]) {
        range.value = end;
        range.dispatchEvent(new Event("input"));
        for (const here of range.closest(".live").querySelectorAll("g.here")) {
            const { left, right } = here.getBoundingClientRect(), middle = (left + right) / 2;
            const frame = here.closest(".live-window").getBoundingClientRect();
            const drawn = here.closest("svg").getBoundingClientRect();
            if (drawn.left < middle && middle < drawn.right && (middle < frame.left || frame.right < middle))
                wrong.push(`${range.closest(".live").dataset.live} at ${end}: what moves is out of sight`);
        }
    }
    for (const text of document.querySelectorAll(".bd-main *")) {
        const said = text.textContent.trim();
        if (!said || text.childElementCount || text.closest("[aria-hidden], .alive-hidden")) continue;
        let box = text;
        while (box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
        if (!box && text.getBoundingClientRect().right > edge + 1) wrong.push(`"${said}" is cut off`);
    }
    return wrong;
}"""


def browse(folder: Path, axe: str) -> tuple[list[str], int]:
    """Everything that is wrong with the book in `folder`, one line each, and the number of pages that were opened."""
    wrong, links, anchors = [], {}, {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                where = {"name": ""}
                _listen(page, wrong, where)
                for path in sorted(folder.glob("*.html")):
                    where["name"] = f"{path.name} ({size}, {scheme})"
                    page.goto(path.as_uri())
                    links[path.as_uri()], anchors[path.as_uri()] = page.evaluate(LINKS), set(page.evaluate(ANCHORS))
                    page.wait_for_function(READY, timeout=20_000)
                    for name, followed, took in page.evaluate(MOVE):
                        if not followed or took > SLOWEST:
                            wrong.append(f"{where['name']}: the slider {name} does not follow, or took {took:.0f} ms")
                    if over := page.evaluate(OVERFLOW):
                        wrong.append(f"{where['name']}: scrolls {over} px sideways")
                    if size == "phone":
                        wrong += [f"{where['name']}: {finding}" for finding in page.evaluate(PHONE)]
                    page.evaluate(axe)
                    wrong += [f"{where['name']}: {violation}" for violation in page.evaluate(AXE)]
                wrong += _comes_late(page, folder)
                page.goto((folder / DIAL_PAGE).as_uri())
                page.locator("#alive").scroll_into_view_if_needed()
                page.wait_for_function("window.aliveReady", timeout=30_000)
                wrong += [f"{DIAL_PAGE} ({size}, {scheme}): {found}" for found in page.evaluate(DIAL, SLOWEST_PIECE)]
                wrong += [f"search ({size}, {scheme}): {finding}" for finding in _searched(page, folder)]
                page.close()
        wrong += _written(browser, folder) + _dial_elsewhere(browser, folder) + looks(browser, folder)
        wrong += front(browser, folder)
        browser.close()
    return wrong + _broken(links, anchors) + _heavy(links), len(links)


def _written(browser: Browser, folder: Path) -> list[str]:
    """What a reader writes: a guess on 00, counted on the contents, and a mark on 13; what is wrong."""
    page, wrong = browser.new_page(), []
    for name, check in (("00_start_here", GUESS), ("13_claims", MARK)):
        page.goto((folder / f"{name}.html").as_uri())
        wrong += [f"{name}.html: {finding}" for finding in page.evaluate(check)]
    page.goto((folder / "contents.html").as_uri())
    if not page.inner_text("[data-guesses]").startswith("You have made 1 of "):
        wrong.append("contents.html: a guess is not counted")
    page.close()
    return wrong


def _dial_elsewhere(browser: Browser, folder: Path) -> list[str]:
    """The dial where the model is missing, damaged, or without scripts; what is wrong."""
    wrong = []
    with TemporaryDirectory() as name:
        copy = Path(name) / "book"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("notebooks"))
        address, model = (copy / DIAL_PAGE).as_uri(), copy / "alive" / "model.js"
        silent = browser.new_page(java_script_enabled=False)
        whole = model.read_text(encoding="utf-8")
        for damage, text in {"missing": None, "cut": whole[:200_000], "changed": _changed(whole)}.items():
            model.unlink(missing_ok=True)
            if text:
                model.write_text(text, encoding="utf-8")
            page = browser.new_page()
            page.goto(address)
            page.locator("#alive").scroll_into_view_if_needed()
            page.wait_for_selector(".alive-trouble", timeout=30_000)
            said = page.inner_text(".alive-trouble")
            if not page.is_visible("#alive img") or not said.startswith("The model does not run here: "):
                wrong.append(f"{DIAL_PAGE} (model {damage}): no still picture, or no sentence: {said}")
        silent.goto(address)
        if not silent.is_visible("#alive img") or len(silent.get_attribute("#alive img", "alt")) < 50:
            wrong.append(f"{DIAL_PAGE} (no scripts): no picture with its words")
    return wrong


def _comes_late(page: Page, folder: Path) -> list[str]:
    """The model is asked for when its place comes near the view, and no earlier."""
    page.goto((folder / LATE_PAGE).as_uri())
    page.wait_for_timeout(1000)
    early = page.evaluate("Boolean(window.aliveFiles)")
    page.locator("#alive").scroll_into_view_if_needed()
    page.wait_for_function("window.aliveReady", timeout=30_000)
    return [f"{LATE_PAGE}: the model comes before its place is near"] if early else []


def _changed(script: str) -> str:
    """One letter of the base64 becomes another, so that the checksum differs."""
    middle = len(script) // 2
    return script[:middle] + ("B" if script[middle] == "A" else "A") + script[middle + 1 :]


def _searched(page: Page, folder: Path) -> list[str]:
    """What is wrong with what the site's search finds: sections, each with the line in which the word stands."""
    page.goto(f"{(folder / 'search.html').as_uri()}?q=blocks+absmax")
    page.wait_for_selector("#search-results li", timeout=20_000)
    found = page.evaluate(
        "() => [...document.querySelectorAll('.found li')].map(e => [e.firstChild.href, e.innerText])"
    )
    wrong = [address for address, text in found if "#" not in address or "block" not in text.lower()]
    for asked, first in {"VRAM": "memory", "quantisation": "quantiz", "catastrophic forgetting": "forget"}.items():
        page.goto(f"{(folder / 'search.html').as_uri()}?q={asked}")
        page.wait_for_selector(".found li", timeout=20_000)
        if first not in page.inner_text(".found").lower():
            wrong.append(f"{asked} finds nothing of {first}")
    page.goto(f"{(folder / 'search.html').as_uri()}?q=absmax+kaleidoscope")  # no section has both
    page.wait_for_selector(".found li", timeout=20_000)
    page.goto(f"{(folder / 'search.html').as_uri()}?q=blocks+absmax")
    page.click(".found a")
    try:
        page.wait_for_selector(":target .highlighted", state="attached", timeout=20_000)
    except TimeoutError:
        wrong.append("the words are not marked where the first result leads")
    return wrong


def _listen(page: Page, wrong: list[str], where: dict[str, str]) -> None:
    """Add what the page complains about, and what it wants from elsewhere, to `wrong`."""

    def requested(request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            wrong.append(f"{where['name']}: asks for {request.url}")

    def failed(request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by leaving the page while its model comes
            wrong.append(f"{where['name']}: cannot load {request.url}")

    page.on("request", requested)
    page.on("requestfailed", failed)
    page.on("pageerror", lambda error: wrong.append(f"{where['name']}: {error}"))
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and wrong.append(f"{where['name']}: {message.text}"),
    )


def _heavy(links: dict[str, list[str]]) -> list[str]:
    """The pages that weigh more than they may."""
    wrong = []
    for page, targets in links.items():
        addresses = {re.sub("[?#].*", "", target) for target in targets if target.startswith("file:")}
        files = [Path(url2pathname(urlparse(address).path)) for address in (page, *addresses)]
        shown = (".css", ".js", ".webp", ".png")
        parts = [path for path in files[1:] if path.suffix in shown and path.name not in ("model.js", "voices.js")]
        size = sum(path.stat().st_size for path in (files[0], *parts) if path.exists())
        if size > HEAVIEST:
            wrong.append(f"{files[0].name}: {size:,} bytes")
    return wrong


def _broken(links: dict[str, list[str]], anchors: dict[str, set[str]]) -> list[str]:
    """The links of the pages that lead to no file, or to no heading of a page."""
    wrong = []
    for page, targets in links.items():
        for target in set(targets):
            file, _, anchor = target.partition("#")
            if not file.startswith("file:"):
                continue
            if not Path(url2pathname(urlparse(file).path)).exists():
                wrong.append(f"{page.rpartition('/')[2]}: {target} does not exist")
            elif anchor and file in anchors and anchor not in anchors[file]:
                wrong.append(f"{page.rpartition('/')[2]}: no heading {target}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m book.browse", description="Check the book in a browser.")
    parser.add_argument("--folder", type=Path, default=DEFAULT)
    axe = Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js").read_text(encoding="utf-8")
    wrong, pages = browse(parser.parse_args().folder.resolve(), axe)
    print(*wrong, sep="\n")
    print(f"{pages} pages, {len(wrong)} findings")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
