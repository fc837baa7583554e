"""How many wrong answers are told something specific: python benchmarks/wrong_answers.py 05 07 --against b3ed67f

(a) The wrong answers that an older revision listed by hand are rebuilt from git. (b) The folded solutions of the
notebooks get one random change, and two, each with its source at hand and without. Specific is what names a step, a
place, a taught mistake, a broken promise or two exchanged arguments. A seeded sample of messages is printed, to be read
for truth: nothing else can judge that.
"""

import argparse
import ast
import contextlib
import importlib
import io
import json
import linecache
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from lora_course.checking import edits, repair
from lora_course.checking.answers import Answer
from lora_course.checking.exercise import Exercise

ROOT = Path(__file__).parent.parent
SPECIFIC = ("taught", "place", "promise", "observed", "step")
IMPORTED: dict[str, object] = {}  # what the cells of the notebooks import
Attempt = tuple[str, Callable]  # what is wrong with it in words or code, and the function


def exercises(notebook: str) -> dict[str, Exercise]:
    module = importlib.import_module(f"lora_course.nb{notebook}.check")
    return {value.number: value for value in vars(module).values() if isinstance(value, Exercise)}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def listed(revision: str, notebooks: list[str]) -> dict[str, list[Attempt]]:
    """The wrong answers of an older revision, by the number of their exercise."""
    folder = Path(tempfile.mkdtemp())
    names = subprocess.run(
        ["git", "ls-tree", "--name-only", revision, "lora_edu/exercises/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    (folder / "old_exercises").mkdir()
    for name in names:
        show = ["git", "show", f"{revision}:{name}"]
        text = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        text = text.replace("lora_edu.exercises", "old_exercises").replace(
            "lora_edu import exercises", "old_exercises import"
        )
        (folder / "old_exercises" / Path(name).name).write_text(text, encoding="utf-8")
    grading = folder / "old_exercises" / "grading.py"
    grading.write_text(
        grading.read_text().replace("from old_exercises import\n", "import old_exercises as exercises\n")
    )
    sys.path.insert(0, str(folder))
    found = {}
    for path in sorted((folder / "old_exercises").glob("nb*.py")):
        if path.stem[2:4] in notebooks:
            for value in vars(importlib.import_module(f"old_exercises.{path.stem}")).values():
                if hasattr(value, "misconceptions"):
                    wrong = value.misconceptions.items()  # some stand there as sentences alone
                    found[value.number] = [(said, answer) for said, answer in wrong if callable(answer)]
    return found


def solutions(notebook: str) -> dict[str, str]:
    """The folded solutions of a notebook, by the number of their exercise."""
    (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    for line in re.findall(r"^(?:from|import) [^(\n]+$", "\n".join(cells), re.M):
        with contextlib.suppress(Exception):
            exec(line, IMPORTED)
    _, *parts = re.split(r"^### Exercise (\d+\.\d+)", "\n".join(cells), flags=re.M)  # number, text, number, text ...
    solved = {number: text.split("<summary>Solution") for number, text in zip(parts[::2], parts[1::2], strict=True)}
    return {number: text[1].split("```python\n")[1].split("```")[0] for number, text in solved.items() if text[1:]}


def defined(source: str) -> str:
    """The name of the function that a solution defines last."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)][-1]


def changed(source: str, asked: Exercise, count: int, wanted: int, chance: random.Random) -> Iterator[str]:
    """A solution's source with so many random changes, where it still comes back."""
    name = defined(source)
    code = repair.Code(made(source, name, ""), source, ast.Module(repair._own(ast.parse(source), name), []))
    repair.TRIES, code.deadline, code.allowed = 10**9, float("inf"), 10**5
    pool = list(code.changes(edits.local_changes, code.other_names, edits.changed_statements))
    if count == 1:
        pool += code.changes(partial(edits.wraps, names=code.names), partial(edits.missing, names=code.names))
    for _ in range(50 * wanted):
        changes = tuple(chance.sample(pool, count))
        nodes = [change.slot.node for change in changes]
        apart = not any(b is not a and b in ast.walk(a) for a in nodes for b in nodes)
        if apart and code.runs(lambda function: bool(asked.made_by(function)), changes):
            for change in changes:
                change.slot.put(change.node)
            text = ast.unparse(ast.fix_missing_locations(code.tree)).replace(f" if {repair.TICK}()", "")
            for change in changes:
                change.slot.put(change.slot.node)
            yield re.sub(rf"\n *{repair.TICK}\(\)", "", text)


def made(source: str, name: str, file: str) -> Callable:
    """A function as a cell of a notebook defines it; without a file its source is not at hand."""
    space = IMPORTED | {"np": np, "torch": torch, "math": importlib.import_module("math"), "F": torch.nn.functional}
    if file:
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file or "<no source>", "exec"), space)
    return space[name]


def slipped(asked: Exercise, sources: list[str], at_hand: bool) -> list[Attempt]:
    """The functions of these sources; at_hand: as cells of a notebook, whose source a check can read."""
    files = [f"/tmp/ipykernel_1/{asked.number}-{k}.py" if at_hand else "" for k in range(len(sources))]
    return [(text, made(text, defined(text), file)) for text, file in zip(sources, files, strict=True)]


def unspecific(count: int, each: int = 12, seed: int = 0) -> float:
    """Of so many solutions of every exercise with `count` random changes: the share that is told nothing specific."""
    chance, kinds = random.Random(seed), Counter()
    for notebook in sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*_*.ipynb")):
        texts = solutions(notebook)
        for number, asked in exercises(notebook).items():
            wrong = list(islice(changed(texts[number], asked, count, each, chance), each)) if number in texts else []
            kinds.update(judged(asked, attempt)[0] for _, attempt in slipped(asked, wrong, True))
    told = {kind: n for kind, n in kinds.items() if kind not in ("", "stop")}
    return 1 - sum(told.get(kind, 0) for kind in SPECIFIC) / sum(told.values())


def judged(asked: Exercise, attempt: Callable) -> tuple[str, str]:
    """The kind of what is said, and the words; nothing for a right answer."""
    asked.wrong_tries = 1
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        answer = Answer(asked, attempt)
        if not answer.failed and answer.stopped is None:
            return "", ""
        text = answer.said()
        return ("stop" if answer.stopped is not None else answer.look[0]), text


def report(title: str, asked: Exercise, attempts: list[Attempt], said: list[tuple]) -> None:
    kinds, seconds = Counter(), []
    for label, attempt in attempts:
        begin = time.thread_time()
        kind, text = judged(asked, attempt)
        if kind and kind != "stop":
            kinds[kind] += 1
            seconds.append(time.thread_time() - begin)
            said.append((asked.number, title, kind, label, text))
    if n := sum(kinds.values()):
        share = sum(kinds[kind] for kind in SPECIFIC) / n
        times = f"{np.median(seconds):.2f} s, at most {max(seconds):.2f} s"
        print(f"{asked.number:5} {title:32} {share:4.0%} of {n:3}   {dict(kinds.most_common())}   {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+")
    parser.add_argument("--against", help="the revision whose listed wrong answers are tried")
    parser.add_argument("--only", help="the number of an exercise")
    parser.add_argument("--each", type=int, default=60, help="wrong answers of each kind")
    parser.add_argument("--show", type=int, default=60, help="messages in the sample")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chance, said = random.Random(asked.seed), []
    old = listed(asked.against, asked.notebooks) if asked.against else {}
    for notebook in asked.notebooks:
        texts = solutions(notebook)
        for number, exercise in exercises(notebook).items():
            if asked.only not in (None, number):
                continue
            attempts = old.get(number, [])
            report("listed", exercise, chance.sample(attempts, min(3 * asked.each, len(attempts))), said)
            for count, words in ((1, "one change"), (2, "two changes")):
                wrong = list(islice(changed(texts[number], exercise, count, asked.each, chance), asked.each))
                for how in ("with source", "without"):
                    report(f"{words}, {how}", exercise, slipped(exercise, wrong, how == "with source"), said)
    chance.shuffle(said)
    for number, title, kind, label, text in said[: asked.show]:
        print(f"\n[{number} {title}: {kind}] {label}\n    -> {text}")


if __name__ == "__main__":
    main()
