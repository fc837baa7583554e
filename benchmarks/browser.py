"""`make browser`: every notebook as a reader uses it, in JupyterLab in an installed Chromium.

    python benchmarks/browser.py 01 06          these notebooks; all without a name

For each notebook: open it, run all cells, move each control by keyboard and by mouse, read the page with axe-core in
the light and in the dark theme, give a wrong and a right answer to its first exercise, save, restart the kernel, open
it again; then run all cells once more and press the stop button in the first training run. What was done and what was
found wrong goes to `build/browser.md` and `build/browser.json`. A notebook takes two to three times as long as its
cells.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from driver import MINUTE, Notebook, chromium, lab

from lora_course.setup import working_copy
from lora_edu import files

ROOT = Path(__file__).parent.parent
AXE = "axe_playwright_python"  # the package that holds axe.min.js

# The views of a page: for each the names of its controls, the picture and the readout.
VIEWS = """() => [...document.querySelectorAll('.lora-edu-view')].map(view => ({
    handles: [...view.closest('.widget-vbox').querySelectorAll('.noUi-handle')].map(h => h.getAttribute('aria-label')),
    buttons: view.closest('.widget-vbox').querySelectorAll('.widget-toggle-button').length,
    boxes: view.closest('.widget-vbox').querySelectorAll('input[type=checkbox]').length}))"""
STATE = """number => { const view = document.querySelectorAll('.lora-edu-view')[number]; return view && [
    view.querySelector('img').src, view.querySelector('[role=status]').textContent, view.querySelector('img').alt] }"""
# Of the views, how many do not say that they sleep, or have a handle that could be dragged.
AWAKE = """() => [...document.querySelectorAll('.lora-edu-view')].filter(view => {
    const said = view.parentElement.querySelector('.lora-edu-asleep');
    const handle = view.closest('.widget-vbox').querySelector('.noUi-target');
    return !said || getComputedStyle(said).display === 'none'
        || handle && getComputedStyle(handle).pointerEvents !== 'none'}).length"""
TOLD = """([number, said]) => document.querySelectorAll('.lora-edu-view')[number].closest('.jp-OutputArea-child')
    .nextElementSibling.querySelector('details').textContent.endsWith(said)"""  # by "In words", below the picture
CHANGED = f"([number, before]) => {{ const now = ({STATE})(number); return now && now[0] !== before[0] && now }}"
BOX = "xpath=ancestor::*[contains(@class,'widget-vbox')][1]"  # of a view: with its controls

# Serious violations in what the course wrote: text, and outputs. The rest of the page is JupyterLab's.
VIOLATIONS = """async () => (await axe.run({include: [['.jp-MarkdownOutput'], ['.jp-OutputArea-output']]},
    {preload: false})).violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v =>
    `${v.id}, ${v.nodes.length} times: `
    + v.nodes[0].html.slice(0, 160) + ' | ' + v.nodes[0].failureSummary.replace(/\\s+/g, ' ').slice(0, 160))"""


class Trial:
    """What was done with a notebook, and what was found wrong."""

    def __init__(self, notebook: Notebook):
        self.notebook, self.page = notebook, notebook.page
        self.done: dict[str, object] = {}
        self.wrong: list[str] = []

    def expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.wrong.append(otherwise)

    def run(self) -> None:
        self.done["run all, s"] = round(self.notebook.run_all(), 1)
        self.wrong += [f"cell {i} ends in {error}" for i, error in self.notebook.errors()]

    def move_controls(self) -> None:
        """Each slider by the arrow keys and by dragging, each button and box by a click: picture and readout follow."""
        moved = {"by keyboard": 0, "by mouse": 0}
        for number, view in enumerate(self.page.evaluate(VIEWS)):
            root = self.page.locator(".lora-edu-view").nth(number).locator(BOX)
            for place, name in enumerate(view["handles"]):
                self.expect(bool(name), f"view {number}: a handle has no name")
                handle = root.locator(".noUi-handle").nth(place)
                moved["by keyboard"] += self._follows(number, f"{name} by keyboard", lambda h=handle: self._press(h))
                moved["by mouse"] += self._follows(number, f"{name} by mouse", lambda h=handle: self._drag(h))
            for kind in (".widget-toggle-button:not(.mod-active)", "input[type=checkbox]"):
                if root.locator(kind).count():
                    box = root.locator(kind).first
                    moved["by mouse"] += self._follows(number, kind, lambda b=box: b.click())
                    moved["by keyboard"] += self._follows(number, f"{kind} by keyboard", lambda r=root, k=kind: (
                        r.locator(k).first.focus(), self.page.keyboard.press("Space")))  # fmt: skip
        self.done |= {f"moved {how}": count for how, count in moved.items()}

    def _follows(self, number: int, what: str, move) -> bool:
        before = self.page.evaluate(STATE, number)
        move()
        try:
            now = self.page.wait_for_function(CHANGED, arg=[number, before], timeout=10_000).json_value()
            self.page.wait_for_function(TOLD, arg=[number, now[1]], timeout=10_000)
        except Exception:
            self.wrong.append(f"view {number}, {what}: the picture does not follow, or its words")
            return False
        self.expect(now[1] != before[1], f"view {number}, {what}: the readout stays {now[1]!r}")
        return True

    def _press(self, handle) -> None:
        handle.scroll_into_view_if_needed()
        handle.focus()
        at_the_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        self.page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")

    def _drag(self, handle) -> None:
        handle.scroll_into_view_if_needed()
        track = handle.locator("xpath=ancestor::*[contains(@class,'noUi-target')][1]").bounding_box()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        middle = track["x"] + track["width"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + (track["width"] / 3 if x < middle else -track["width"] / 3), y, steps=4)
        self.page.mouse.up()

    def read_with_axe(self, script: str) -> None:
        self.page.evaluate(script)
        for theme in ("JupyterLab Dark", "JupyterLab Light"):
            self.notebook.command("apputils:change-theme", theme=theme)
            self.page.wait_for_timeout(1500)
            found = self.page.evaluate(VIOLATIONS)
            self.done[f"axe, {theme.split()[1].lower()}"] = len(found)
            self.wrong += [f"axe ({theme}): {violation}" for violation in found]

    def answer(self) -> None:
        """The first exercise: a wrong answer gets a card without a traceback, the right one is correct."""
        cells = self.notebook.cells()
        solution = next(i for i, cell in enumerate(cells) if "<summary>Solution</summary>" in cell["source"])
        check = max(i for i in range(solution) if cells[i]["type"] == "code" and "check." in cells[i]["source"])
        stub, right = (
            check - 1,
            re.search(r"<summary>Solution.*?```python\n(.+?)```", cells[solution]["source"], re.S)[1],
        )
        self.notebook.type_and_run(stub, cells[stub]["source"].replace("...", "0"))
        said = self.notebook.type_and_run(check)
        spared = not any(words in said for words in ("not done yet", "Traceback", ": correct"))
        self.expect("Exercise" in said and spared, f"a wrong answer (0) is told: {said[:200]!r}")
        self.notebook.type_and_run(stub, right.rstrip())
        after = self.notebook.type_and_run(check)
        self.expect("correct" in after, f"the right answer is told: {after[:200]!r}")
        self.done["exercise"] = f"wrong: {' '.join(said.split())[:90]}; right: {' '.join(after.split())[:60]}"

    def save_and_reopen(self) -> None:
        """After a restart of the kernel and a new page, each view has its picture, readout and controls still."""
        before = [self.page.evaluate(STATE, number) for number in range(len(self.page.evaluate(VIEWS)))]
        self.notebook.save()
        self.notebook.restart()
        self.notebook.open()
        if before:
            self.page.wait_for_function(f"() => ({VIEWS})().length >= {len(before)}", timeout=MINUTE)
        now = [self.page.evaluate(STATE, number) for number in range(len(before))]
        handles = self.page.locator(".lora-edu-view").count() and len(self.page.evaluate(VIEWS))
        self.expect(now == before, "opened again, a picture or a readout is another one")
        self.expect(handles == len(before), "opened again, controls are missing")
        self.expect("model not found" not in self.page.content(), "opened again: model not found")
        awake = before and self.page.evaluate(AWAKE)
        self.expect(not awake, f"opened again without its kernel, {awake} of {len(before)} views look alive")
        self.done["opened again"] = f"{len(before)} views as they were, asleep"

    def stop(self) -> None:
        """Stop the first training run after a step: its output tells the truth, and no later cell ends in an error."""
        if not any(re.search(r"(?<!def )\btrain\(", cell["source"]) for cell in self.notebook.cells()):
            self.done["stopped"] = "nothing to stop"
            return
        self.notebook.command("notebook:clear-all-cell-outputs")  # among them the bars of the run before
        self.notebook.start_all()
        if not self.notebook.stop_training():
            self.done["stopped"] = "the training was over before"
            return
        outputs = json.dumps([cell["outputs"] for cell in self.notebook.cells()])
        told = re.search(r"stopped after \d+ of \d+ steps", outputs)
        self.expect(told is not None, "a stopped run does not say so")
        self.done["stopped"] = told[0] if told else "in silence"
        self.wrong += [f"after the stop, cell {i} ends in {error}" for i, error in self.notebook.errors()]


def trial(context, path: Path, axe: str, only: list[str]) -> Trial:
    start = time.perf_counter()
    result = Trial(Notebook(context.new_page(), path.name))
    result.done["opened, s"] = round(time.perf_counter() - start, 1)
    steps = {"run": result.run, "controls": result.move_controls, "axe": lambda: axe and result.read_with_axe(axe)}
    steps |= {"answer": result.answer, "reopen": result.save_and_reopen, "stop": result.stop}
    for name in only or steps:
        try:
            steps[name]()
        except Exception as error:  # the report shall have the rest all the same
            result.wrong.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    result.wrong += [complaint for complaint in result.notebook.complaints if "favicon" not in complaint]
    result.done["all, s"] = round(time.perf_counter() - start)
    result.page.close()
    return result


def own_cache(folder: Path) -> Path:
    """A cache with what the user's has, but for the exercises that the user has done."""
    cache = folder / "cache"
    cache.mkdir()
    for path in files.cache_dir().glob("*"):
        if path.name != "progress.json":
            (cache / path.name).symlink_to(path)
    return cache


def axe_script() -> str:
    """axe-core as its package brings it; empty where it is not installed."""
    found = find_spec(AXE)
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8") if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", help="numbers, such as 01 06; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "build")
    steps = ("run", "controls", "axe", "answer", "reopen", "stop")
    parser.add_argument("--only", nargs="+", choices=steps, default=[], help="these steps of the trial")
    options = parser.parse_args()
    chromium()  # or a sentence
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server and its kernels end too
    axe = axe_script()
    results: dict[str, Trial] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORA_EDU_CACHE"] = str(own_cache(Path(folder)))
        course = working_copy.copy_course(Path(folder))
        wanted = options.notebooks or [path.name for path in course.glob("*.ipynb")]
        with lab(course, plain=True) as context:
            for path in sorted(p for p in course.glob("*.ipynb") if any(p.name.startswith(name) for name in wanted)):
                results[path.stem] = trial(context, path, axe, options.only)
                print("\n".join(lines(path.stem, results[path.stem])), flush=True)
    options.folder.mkdir(exist_ok=True)
    report = {name: {"done": result.done, "wrong": result.wrong} for name, result in results.items()}
    (options.folder / "browser.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    head = ["# The notebooks in a browser", "" if axe else "axe-core was not there: pip install axe-playwright-python."]
    page = [*head, *(line for name, result in results.items() for line in lines(name, result))]
    (options.folder / "browser.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    sys.exit(any(result.wrong for result in results.values()))


def lines(name: str, result: Trial) -> list[str]:
    """The report on one notebook."""
    verdict = f"{len(result.wrong)} findings" if result.wrong else "nothing wrong"
    done = [f"- {what}: {value}" for what, value in result.done.items()]
    return [f"## {name}: {verdict}", "", *done, *(f"- **wrong**: {text}" for text in result.wrong), ""]


if __name__ == "__main__":
    main()
