"""From key press to picture: how long a slider takes to answer, in JupyterLab in a real browser.

    python benchmarks/slider_latency.py notebooks/01_low_rank.ipynb notebooks/02_lora_numpy.ipynb

starts JupyterLab on a copy of the notebooks, runs each one in headless Chromium, presses the arrow keys on its first
slider and waits for the new picture. Needs `pip install -e .[bench]` and a Chromium; CHROMIUM= names its program.
"""

import argparse
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

GOAL_MEDIAN, GOAL_P95 = 100, 150  # milliseconds
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

ENDS = {"ArrowRight": "max", "ArrowLeft": "min"}

# In the page: the time from a key press to the load event of the picture that it causes.
LISTEN = """() => {
  const image = document.querySelector('.jp-OutputArea img.widget-image');
  window.times = [];
  document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
  image.addEventListener('load', () => { window.times.push(performance.now() - window.pressed); });
}"""


def start_jupyter(root: Path, port: int, token: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", f"--ServerApp.root_dir={root}"]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://localhost:{port}/api?token={token}")
            return server
        except OSError:
            time.sleep(0.5)
    server.kill()
    raise RuntimeError("JupyterLab did not start")


def measure(page: Page, url: str, presses: int) -> list[float]:
    """Run the notebook at a URL and press the arrow keys on its first slider; returns milliseconds."""
    page.goto(url)
    page.wait_for_function("() => window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')", timeout=90_000)
    page.wait_for_timeout(3000)  # the kernel comes up
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")  # to its end
    handle = page.locator(".jp-OutputArea .noUi-handle").first
    handle.wait_for(state="attached", timeout=60_000)
    handle.scroll_into_view_if_needed()
    handle.focus()
    page.evaluate(LISTEN)
    key, turned = "ArrowLeft", {"ArrowRight": "ArrowLeft", "ArrowLeft": "ArrowRight"}
    for press in range(presses):
        before = page.evaluate("() => window.times.length")
        if press % 4 == 0:
            key = turned[key]
        now, end = (float(handle.get_attribute(f"aria-value{name}")) for name in ("now", ENDS[key]))
        if now == end:  # never stuck at an end of the slider
            key = turned[key]
        page.keyboard.press(key)
        page.wait_for_function("count => window.times.length > count", arg=before, timeout=10_000)
        page.wait_for_timeout(150)
    return page.evaluate("() => window.times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--presses", type=int, default=40)
    parser.add_argument("--port", type=int, default=8931)
    parser.add_argument("--screenshots", type=Path, help="a folder for a picture of each slider")
    parser.add_argument("--write", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    token = secrets.token_hex(16)
    rows = [f"Key press to picture: {platform.machine()}, {os.cpu_count()} processors, {arguments.presses} presses"]
    rows += ["", f"| notebook | median ms | 95% ms | max ms | goal {GOAL_MEDIAN} / {GOAL_P95} |", "|-|-|-|-|-|"]
    print("\n".join(rows))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for path in arguments.notebooks:
            shutil.copy(path, folder)
        server = start_jupyter(Path(folder), arguments.port, token)
        try:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            for path in arguments.notebooks:
                page = browser.new_page(viewport={"width": 1300, "height": 1000})
                url = f"http://localhost:{arguments.port}/lab/tree/{path.name}?token={token}&reset"
                times = sorted(measure(page, url, arguments.presses))
                median, p95 = statistics.median(times), times[int(0.95 * (len(times) - 1))]
                met = "met" if median <= GOAL_MEDIAN and p95 <= GOAL_P95 else "missed"
                rows.append(f"| {path.stem} | {median:.0f} | {p95:.0f} | {times[-1]:.0f} | {met} |")
                print(rows[-1], flush=True)
                if arguments.screenshots:
                    page.screenshot(path=arguments.screenshots / f"{path.stem}.png")
                page.close()
            browser.close()
        finally:
            server.terminate()
    if arguments.write:
        arguments.write.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
