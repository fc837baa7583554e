"""From key press to picture: how long a slider takes to answer, in JupyterLab in a real browser.

    python benchmarks/slider_latency.py notebooks/01_low_rank.ipynb notebooks/02_lora_numpy.ipynb

starts JupyterLab on a copy of the course as `lora-edu lab` does, runs each notebook in headless Chromium, presses the
arrow keys on its first slider, and counts until the new picture has been shown: it is loaded and decoded, and the frame
that has it is painted. Needs `pip install -e .[bench]` and a Chromium; CHROMIUM= names its program.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from driver import Notebook, lab

from lora_course.setup import working_copy

PRESSES = 40
ENDS = {"ArrowRight": "max", "ArrowLeft": "min"}

# In the page: from a key press to the end of the first frame that shows the picture it causes. A message that is sent
# when a frame is about to be painted arrives when it has been.
LISTEN = """() => {
  const painted = then => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = then;
    channel.port2.postMessage(null);
  });
  window.times = [];
  document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
  document.addEventListener('load', event => {
    const image = event.target;
    if (window.pressed && image.closest?.('.lora-edu-view')) {
      const pressed = window.pressed;
      image.decode().then(() => painted(() => window.times.push(performance.now() - pressed)));
    }
  }, true);
}"""


def measure(notebook: Notebook, presses: int) -> list[float]:
    """Run the notebook up to its first slider and press the arrow keys on it; returns milliseconds, sorted."""
    page, cells = notebook.page, notebook.cells()
    first = next(i for i, cell in enumerate(cells) if any("In words" in str(output) for output in cell["outputs"]))
    for index in range(first + 1):
        if cells[index]["type"] == "code":
            notebook.type_and_run(index)
    handle = page.locator(".lora-edu-view").first.locator("xpath=ancestor::*[contains(@class,'widget-vbox')][1]")
    handle = handle.locator(".noUi-handle").first
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
    return sorted(page.evaluate("() => window.times"))


def latencies(paths: list[Path], presses: int, screenshots: Path | None = None) -> Iterator[tuple[str, list[float]]]:
    """The name of each notebook with its milliseconds, sorted. screenshots: a folder for a picture of each slider."""
    with tempfile.TemporaryDirectory() as folder, lab(working_copy.copy_course(Path(folder))) as context:
        for path in paths:
            notebook = Notebook(context.new_page(), path.name)
            yield path.stem, measure(notebook, presses)
            if screenshots:
                notebook.page.screenshot(path=screenshots / f"{path.stem}.png")
            notebook.page.close()


def p95(times: list[float]) -> float:
    """times: sorted."""
    return times[int(0.95 * (len(times) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--presses", type=int, default=PRESSES)
    parser.add_argument("--screenshots", type=Path, help="a folder for a picture of each slider")
    arguments = parser.parse_args()
    print("| notebook | median ms | 95% ms | max ms |\n|-|-|-|-|")
    for name, times in latencies(arguments.notebooks, arguments.presses, arguments.screenshots):
        print(f"| {name} | {statistics.median(times):.0f} | {p95(times):.0f} | {times[-1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
