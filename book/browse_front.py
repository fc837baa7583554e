"""The book's first page in a browser, with and without its model: a part of `python -m book.browse`."""

import gzip
import re
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser

from book.browse_looks import OUT_OF_PICTURE

HEAVIEST, SLOWEST = 50_000, 16  # bytes over the network until the dot works; milliseconds of the main thread for a turn
WIDTHS, NARROWEST, LARGEST_GAP = (900, 1100, 1279, 1280), 300, 60  # of windows, the text beside W, the gap above W
FIRST_SCREEN = ("LoRA and QLoRA, built by hand", "low-rank adaptation", "Start the course")
SAID, READY = "document.getElementById('said').textContent", "/Checksum/.test(document.body.textContent)"

# Turns the dot to a place, and says what is written there and how long that took.
TURN = """([playwright, prophet]) => {
    const begun = performance.now();
    for (const [id, value] of Object.entries({ playwright, prophet })) {
        const input = document.getElementById(id);
        input.value = value;
        input.dispatchEvent(new Event("input"));
    }
    document.body.getBoundingClientRect();
    return [document.getElementById("said").textContent, (performance.now() - begun) / 2];
}"""
DOUBTS = "text => readable(toUtf8(text), 'this').doubts"
OUTSIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def front(browser: Browser, folder: Path) -> list[str]:
    """Everything that is wrong with index.html in `folder`, one line each."""
    address = (folder / "index.html").as_uri()
    wrong = _dot(browser, address) + _first_screen(browser, address) + _without_model(browser, address)
    wrong += _widths(browser, address) + _yours(browser, address) + _refused(browser, address)
    if (size := on_the_wire(browser, folder)) > HEAVIEST:
        wrong.append(f"{size:,} bytes until the dot works")
    return [f"index.html: {finding}" for finding in wrong]


def _dot(browser: Browser, address: str) -> list[str]:
    """By mouse, by keyboard, by link, with the model: the sentence follows, and the frozen weights stand still."""
    page, wrong = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.goto(address)
    page.wait_for_function("window.frontReady")
    before = page.evaluate(SAID)
    page.wait_for_function(f"before => {SAID} !== before", arg=before, timeout=10_000)  # by itself
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
    page.mouse.up()
    if page.input_value("#playwright") != "2" or page.input_value("#prophet") not in ("0.8", "0.9", "1", "1.1", "1.2"):
        wrong.append("the dot is not where it was dragged")
    turns = [page.evaluate(TURN, [step / 10, 2 - step / 10]) for step in range(21)]
    took = median(took for _, took in turns)
    if not page.get_attribute("#map", "href"):
        wrong.append("the map under the dot is blank")
    if len({said for said, _ in turns}) < 15 or took > SLOWEST:
        wrong.append(f"the sentence does not follow, or takes {took:.0f} ms")
    for picture in ("#W", "#plaid"):
        place = page.locator(picture).bounding_box()
        if place["y"] + place["height"] > 800:
            wrong.append(f"{picture} lies below the first screen")
    page.wait_for_function(READY, timeout=60_000)
    page.fill("#words", "The people ")
    page.evaluate(TURN, [0.7, 0.6])
    page.wait_for_selector("#said[aria-busy=false]", timeout=60_000)
    page.wait_for_function("location.hash.includes('people')", timeout=10_000)
    checksums = re.findall(r"[0-9a-f]{8}", page.inner_text("#checksum"))
    if len(checksums) != 2 or len(set(checksums)) > 1:
        wrong.append(f"frozen weights changed: {checksums}")
    said, link, other = page.evaluate(SAID), page.url, browser.new_page()
    other.goto(link)
    other.wait_for_function(f"said => {SAID} === said", arg=said, timeout=60_000)
    if "#" not in link or other.input_value("#words") != "The people ":
        wrong.append(f"the link does not hold the sentence: {link}")
    other.click("summary")
    other.click("#stops button")
    other.wait_for_function(f"said => {SAID} !== said", arg=said, timeout=60_000)
    for each in (page, other):
        each.close()
    return wrong


def _first_screen(browser: Browser, address: str) -> list[str]:
    """On a phone, with forced colors, with a request to keep still."""
    wrong = []
    for looks in ({}, {"forced_colors": "active"}, {"color_scheme": "dark", "reduced_motion": "reduce"}):
        page = browser.new_page(viewport={"width": 360, "height": 740}, **looks)
        page.goto(address)
        page.wait_for_function("window.frontReady")
        for word in FIRST_SCREEN:
            box = page.get_by_text(word).first.bounding_box()
            if not box or box["y"] + box["height"] > 740:
                wrong.append(f"a phone's first screen lacks {word}, {looks}")
        if over := page.evaluate(OUTSIDE):
            wrong.append(f"scrolls {over} px sideways, {looks}")
        before = page.evaluate(SAID)
        page.wait_for_timeout(3500)
        if (page.evaluate(SAID) == before) != ("reduced_motion" in looks):
            wrong.append(f"it moves where it should not, or does not where it should, {looks}")
        page.close()
    return wrong


def _widths(browser: Browser, address: str) -> list[str]:
    """Between a phone and a wide screen, the text beside the frozen corner is no thread, and leaves no hole."""
    page, wrong = browser.new_page(), []
    page.goto(address)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        text, corner, around = (page.locator(f".stage {name}").bounding_box() for name in (".facts", "#W", ".machine"))
        if text["width"] < NARROWEST or corner["y"] - around["y"] > LARGEST_GAP:
            wrong.append(f"{width} pixels wide: the text beside W has {text['width']:.0f} of them, or a hole above it")
    page.close()
    return wrong


def _without_model(browser: Browser, address: str) -> list[str]:
    """The dot works without the model, and the page says so."""
    page = browser.new_page()
    page.route("**/voices.js", lambda route: route.abort())
    page.goto(address)
    page.wait_for_function("/does not run here/.test(document.getElementById('coming').textContent)", timeout=30_000)
    first, second = (page.evaluate(TURN, place)[0] for place in ([0, 0], [1, 1]))
    page.close()
    return ["the dot needs the model"] if first == second else []


def _yours(browser: Browser, address: str) -> list[str]:
    """Ten steps on the book: the voice bends, codes stand still, a smaller rank is measured, both files are saved."""
    page, wrong = browser.new_page(viewport={"width": 360, "height": 740}), []
    page.goto(address)
    page.click("#book", timeout=60_000)
    page.click("#train")
    page.wait_for_function("/^Step 10 /.test(document.getElementById('told').textContent)", timeout=120_000)
    for choice in ("[name=guess-0][value=none]", "[name=guess-1][value=A]"):
        page.check(choice)
    page.click("#train")
    page.wait_for_function("/^Rank 8/.test(document.getElementById('cut-said').textContent)", timeout=60_000)
    told, *answers = (page.inner_text(place) for place in ("#told", "#answer-0", "#answer-1", "#moved"))
    now, before = (float(number) for number in re.search(r"text ([\d.]+) nats a byte \(([\d.]+) before", told).groups())
    sums = re.findall(r"\b[0-9a-f]{8}\b", answers[0])
    if now > before - 0.3 or abs(float(re.search(r"places: ([\d.]+)", told)[1]) - before) > 0.1:
        wrong.append(f"nothing is learned, or the control learns: {told}")
    if "Measured: 0 changed" not in answers[0] or len(set(sums)) != 1 or "guessed: A. Measured: B" not in answers[1]:
        wrong.append(f"the frozen weights, or a guess: {answers}")
    if page.inner_text("#train") != "Go on with it":
        wrong.append("a stopped training cannot go on")
    if "A moved by 0.0000" not in answers[2] or len(set(page.locator("#film li").all_inner_texts())) < 2:
        wrong.append(f"A moves first, or the sentence does not bend: {answers[2]}")
    page.locator("#cut").fill("1")
    page.wait_for_function("/^Rank 1:/.test(document.getElementById('cut-said').textContent)", timeout=60_000)
    if page.evaluate(OUTSIDE) or page.evaluate(OUT_OF_PICTURE):
        wrong.append("training scrolls sideways, or text leaves its picture")
    with TemporaryDirectory() as name:
        files = Path(name) / "adapter.zip", Path(name) / "voice.html"
        for button, file in zip(("#save-adapter", "#save-page"), files, strict=True):
            with page.expect_download() as saved:
                page.click(button)
            saved.value.save_as(file)
        with zipfile.ZipFile(files[0]) as archive:
            wrong += [f"damaged: {archive.testzip()}"] if archive.testzip() else []
        voice = browser.new_page()
        voice.on("request", lambda request: request.url.startswith("file:") or wrong.append(f"asks for {request.url}"))
        voice.goto(files[1].as_uri())
        voice.locator(".alive-said", has_text=re.compile(".{60}", re.S)).wait_for(timeout=60_000)
        if voice.input_value("input[aria-label^=strength]") != "1":
            wrong.append("the saved page does not open at 1")
        voice.close()
    page.close()
    return wrong


def _refused(browser: Browser, address: str) -> list[str]:
    """What is no text gets a sentence, and where WebAssembly is forbidden the page says what that means."""
    page, wrong = browser.new_page(), []
    page.add_init_script("delete window.WebAssembly")
    page.goto(address)
    page.wait_for_selector("#yours:not([hidden])", timeout=60_000)
    files = {"empty": b"", "binary": bytes(range(256)) * 20, "short": b"short", "huge": b"a" * 5_000_001}
    words = {"empty": "no text yet", "binary": "no plain text", "short": "at least 2,000", "huge": "at most 5,000,000"}
    for name, content in files.items():
        page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": content})
        page.click("#train")
        page.wait_for_timeout(300)
        if words[name] not in page.inner_text("#told"):
            wrong.append(f"{name}: {page.inner_text('#told')}")
    doubtful = {"repeats itself": "It is the same sentence again. " * 100, "not ASCII": "Всё смешалось в доме. " * 100}
    for word, text in doubtful.items():
        if word not in page.evaluate(DOUBTS, text):
            wrong.append(f"no warning: {word}")
    page.click("#source")
    page.click("#train")
    page.wait_for_function("/20 in place of 100/.test(document.getElementById('told').textContent)", timeout=60_000)
    page.close()
    return wrong


def on_the_wire(browser: Browser, folder: Path) -> int:
    """Bytes over the network until the dot works: what Chromium counts, with the heads of answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Packed, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, sizes = browser.new_page(), []
        page.route("**/voices.js", lambda route: route.abort())
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait_for_function("window.frontReady")
        page.wait_for_load_state("networkidle")
        page.close()
        server.shutdown()
    return int(sum(sizes))


class Packed(SimpleHTTPRequestHandler):
    """Files with gzip, as GitHub Pages and most servers send text."""

    def do_GET(self) -> None:
        content = gzip.compress(Path(self.translate_path(self.path)).read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Say nothing."""
