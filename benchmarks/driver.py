"""JupyterLab in an installed Chromium, driven as a reader drives it. It needs the extra `bench`; CHROMIUM= names a
program.

    with lab(folder) as browser:             a server on a copy of the course, set up as `lora-edu lab` does it
        notebook = Notebook(browser.new_page(), "01_low_rank.ipynb")
        notebook.run_all()

A cell is named by its number in the file.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_course.setup import environment

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
NO_BROWSER = "no Chromium was found: install chromium or google-chrome from your system's packages, or set CHROMIUM="
NO_PLAYWRIGHT = "Playwright is not installed: python -m pip install -e '.[bench]'"
MINUTE = 60_000  # milliseconds


def chromium() -> str:
    """The program. Raises SystemExit with a sentence where there is none, or nothing to drive it with."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found or not shutil.which(found):
        raise SystemExit(NO_BROWSER)
    try:
        import playwright  # noqa: F401
    except ImportError:
        raise SystemExit(NO_PLAYWRIGHT) from None
    return found


PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def lab(root: Path, plain: bool = False) -> Iterator:
    """Start JupyterLab on the folder `root` and a browser; gives a context whose pages know the server's address.

    plain: as `lora-edu lab --plain`, every cell is in the page.
    """
    program = chromium()
    from playwright.sync_api import sync_playwright

    settings, token = root / ".jupyter", secrets.token_hex(16)
    environment.configure_lab(settings, plain)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", f"--ServerApp.root_dir={root}"]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    variables = {"JUPYTER_CONFIG_PATH": str(settings), "JUPYTER_CONFIG_DIR": str(settings / "own")}
    server = subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root
    )
    try:
        _wait_for(f"http://localhost:{port}/api?token={token}")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
            context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=f"http://localhost:{port}")
            context.set_extra_http_headers({"Authorization": f"token {token}"})
            context.add_cookies([])
            context.new_page().goto(f"/lab?token={token}&reset")  # the token becomes a cookie
            yield context
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait_for(address: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("JupyterLab did not start within five minutes")


PANEL = "window.jupyterapp.shell.currentWidget"
IDLE = f"() => {PANEL}.sessionContext.session?.kernel?.status === 'idle'"
CELLS = f"""() => {PANEL}.content.widgets.map(w => w.model).map(m => ({{
    type: m.type, source: m.sharedModel.source, count: m.executionCount,
    outputs: m.type === "code" ? m.outputs.toJSON() : []}}))"""
BAR = """() => [...document.querySelectorAll('.jp-OutputArea-output')].some(
    e => /training:[^%]*%\\D*[1-9]\\d*\\//.test(e.textContent))"""


class Notebook:
    """A notebook in a page of the browser, and everything that the page complained about."""

    def __init__(self, page, name: str):
        self.page, self.name = page, name
        self.complaints: list[str] = []
        page.on("console", lambda m: m.type == "error" and self.complaints.append(f"console: {m.text[:200]}"))
        page.on("pageerror", lambda error: self.complaints.append(f"page: {str(error)[:200]}"))
        page.on("request", self._look_at)
        self.open()

    def _look_at(self, request) -> None:
        if not request.url.startswith(("http://localhost:", "ws://localhost:", "data:", "blob:")):
            self.complaints.append(f"asks for {request.url[:120]}")

    def open(self) -> None:
        self.page.goto(f"/lab/tree/{self.name}?reset")
        there = f"() => window.jupyterapp && {PANEL}?.content?.widgets?.length > 1 && {PANEL}.sessionContext"
        self.page.wait_for_function(there, timeout=2 * MINUTE)
        self.page.wait_for_function(IDLE, timeout=2 * MINUTE)

    def cells(self) -> list[dict]:
        """Of each cell its type, source, count and outputs."""
        return self.page.evaluate(CELLS)

    def command(self, name: str, **options) -> None:
        """Run a command of JupyterLab to its end."""
        self.page.evaluate(
            "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => true)", [name, options]
        )

    def start_all(self) -> None:
        """Begin to run all cells, and do not wait."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); return true }")

    def run_all(self) -> float:
        """Run all cells, and return the seconds that it took."""
        start = time.perf_counter()
        self.command("notebook:run-all-cells")
        return time.perf_counter() - start

    def errors(self) -> list[tuple[int, str]]:
        """The cells that ended in an error, with its message."""
        found = [(i, output) for i, cell in enumerate(self.cells()) for output in cell["outputs"]]
        return [(i, f"{o['ename']}: {o['evalue'][:120]}") for i, o in found if o["output_type"] == "error"]

    def type_and_run(self, index: int, source: str | None = None) -> str:
        """Write a cell anew by hand (or leave it), run it by hand, and return the text of its outputs."""
        before = self.cells()[index]["count"]
        self.page.evaluate(
            f"index => {{ const n = {PANEL}.content; n.activeCellIndex = index; n.mode = 'edit'; "
            "n.scrollToItem(index); n.widgets[index].editor.focus(); }",
            index,
        )
        if source is not None:
            self.page.keyboard.press("Control+A")
            self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")
        ran = f"([index, before]) => {{ const c = {PANEL}.content.widgets[index].model.executionCount; "
        self.page.wait_for_function(ran + "return c !== null && c !== before }", arg=[index, before], timeout=MINUTE)
        self.page.wait_for_function(IDLE, timeout=MINUTE)
        cell = self.cells()[index]
        if source is not None and cell["source"] != source:
            raise AssertionError(f"cell {index} holds {cell['source']!r} after typing")
        return as_text(cell["outputs"])

    def stop_training(self) -> bool:
        """While all cells run, press the stop button after a step of training. False if there was no training."""
        done = f"() => {PANEL}.content.widgets.every(w => w.prompt === undefined || w.prompt !== '*')"
        either = f"() => (({BAR})() && 'bar') || (({done})() && 'end')"
        self.page.wait_for_timeout(2000)  # the cells are marked as waiting
        seen = self.page.wait_for_function(either, timeout=15 * MINUTE, polling=50).json_value()
        if seen == "bar":
            self.page.get_by_title("Interrupt the kernel").first.click()
        self.page.wait_for_function(done, timeout=15 * MINUTE)
        return seen == "bar"

    def restart(self) -> None:
        """Restart the kernel, as from its menu."""
        self.page.evaluate(f"() => {PANEL}.sessionContext.restartKernel().then(() => true)")
        self.page.wait_for_timeout(500)
        self.page.wait_for_function(IDLE, timeout=2 * MINUTE)

    def save(self) -> None:
        self.command("docmanager:save")


def as_text(outputs: list[dict]) -> str:
    """What outputs say."""
    said = []
    for output in outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback") or ""
        said.append(text if isinstance(text, str) else "\n".join(text))
    return "\n".join(said)
