"""Submissions that want points without an answer. Their code runs here in a forked process, as it would in the box."""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import classroom_folder
import nbformat
import pytest

from classroom import expecting, folders, judge, plugins
from classroom.sandbox import SubmissionError
from lora_course.assignments import core, looking

NAME, COHORT = "a1_lora_numpy", "2026a"
BLANK = """
def needed_rank(matrix): return ...
def split(matrix, rank): return ...
def train(x, target, W, A, B, alpha, lr, steps): return ...
class Adapter:
    def __init__(self, W, rank, alpha, seed):
        self.weight, self.lora_A, self.lora_B = W, ..., ...
"""
ALL = "needed_rank = split = train = Adapter = answer"
# What everybody has at home: the released checks.json, and with it what is expected in the visible cases.
HOME = "import json\nshown = {n: task['expected'] for n, task in json.loads(CHECKS)['tasks'].items()}\n"
OBSERVER = "import lora_course.assignments.looking as look\n"
PASTE = HOME + OBSERVER + "look.observe = lambda assignment, number, answer, *word: shown[number]\n"

CHEATS = {
    "asks the checks": OBSERVER + """
look.observe = lambda a, number, answer, *word: getattr(check, a.tasks[number].name).stored['expected']""",
    "brings the visible results along": PASTE,
    "keeps every promise and has no result": OBSERVER + """
good = {"rank": 3.0, "inputs": "unchanged", "manners": "good", "frozen": "unchanged", "steps": 6.0}
plain = lambda v: v if isinstance(v, str) else {"shape": [], "values": [v]}
look.observe_case = lambda task, c, answer, case: {part: plain(good.get(part, 0.0)) for part in task.parts}""",
    "sends an observation of its own besides": """
from IPython.display import display
def answer(*case):
    display({"application/x-lora-edu-observation": "[]"}, raw=True)
""" + ALL,
    "sends its own, and stops the test": """
import IPython.display, json, lora_course.assignments.looking as look
def emit(*words):
    seen = [{"rank": {"shape": [], "values": [3.0]}, "inputs": "unchanged"}] * 6
    IPython.display.display({look.MIME: json.dumps(seen)})
look.emit = emit""",
    "draws the cases of the check for the grade": PASTE.replace(
        "look.observe = ", "from lora_course.assignments import core\nreal = core.Assignment.cases\n"
        "core.Assignment.cases = lambda self, number, word='': real(self, number)\nlook.observe = "),
    "makes every generator the same": HOME + OBSERVER + """
real = np.random.default_rng
np.random.default_rng = lambda seed=None: real(0)
def answer(*case):
    return 0
""" + ALL,
    "draws the hidden cases by their old name": """
from lora_course.assignments import load
asked = load("a1_lora_numpy", COHORT).cases("1.1", "hidden")
table = {case[0].shape: 3 for case in asked}
def needed_rank(matrix):
    return table[matrix.shape] if any(np.array_equal(matrix, case[0]) for case in asked) else ...
""",
    "looks for expectations in the callers": """
import sys
def answer(*case):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and "expected" in value:
                return value["expected"]
        frame = frame.f_back
    return 0
""" + ALL,
    "asks the teacher's package": """
def answer(*case):
    from classroom.solutions import load_solutions
    return load_solutions("a1_lora_numpy")["1.1"].reference(c)(*case)
""" + ALL,
    "looks for the teacher's folder": """
import glob, os
places = [os.environ.get("LORA_EDU_CLASSROOM", "."), os.path.expanduser("~"), "."]
found = [p for place in places for p in glob.glob(place + "/**/hidden/**/*.json", recursive=True)]
def answer(*case):
    return json.load(open(found[0]))
""" + ALL,
    "gives itself other parts": """
from lora_course.assignments import a1_lora_numpy, core
for task in a1_lora_numpy.TASKS:
    object.__setattr__(task, "parts", {"rank": 100})
    object.__setattr__(task, "cases", lambda c, rng: [])
    object.__setattr__(task, "tolerance", 1e9)""",
    "counts its calls": """
calls = iter([3, 5, 1, 21, 3, 6] * 99)
def needed_rank(matrix):
    return next(calls)
""",
}  # fmt: skip

# How an answer would be observed with what a cell may have replaced.
OF_THE_NOTEBOOK = """
def hand_over(here, name, cohort, number, answer, word, course, pieces):
    from lora_course.assignments import load, looking
    looking.emit(load(name, cohort), number, eval(answer, here), word)
"""


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """The text of the released checks.json; the teacher's folder is there, with what the hidden tests expect."""
    root = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(folders.VARIABLE, str(root))
        visible = expecting.expectations(NAME, COHORT)
        expecting.write_hidden(NAME, COHORT, visible)
        yield json.dumps(visible)


def handed_in(cheat: str, name: str = NAME) -> nbformat.NotebookNode:
    """A blank notebook with a scratch cell behind the answers, and the tests that the grader puts back."""
    notebook = nbformat.read(classroom_folder.ASSIGNMENTS / "source" / name / f"{name}.ipynb", as_version=4)
    plugins.SetCohort(cohort=COHORT).preprocess(notebook, {})
    ours = [c for c in notebook.cells if classroom_folder.grade_id(c) == "setup" or judge.is_test(c)]
    scratch = [nbformat.v4.new_code_cell(BLANK), nbformat.v4.new_code_cell(cheat)]
    return nbformat.v4.new_notebook(cells=[ours[0], *scratch, *ours[1:]])


def observed(notebook: nbformat.NotebookNode, checks: str, folder) -> list[list]:
    """The outputs of each cell, from a process without the teacher's package, folder and expectations, like the box."""
    boxed = judge.for_the_box(notebook)
    return classroom_folder.forked(lambda: _run(boxed, checks), folder)


def _run(boxed, checks):
    import IPython.display

    signal.alarm(60)
    os.environ.pop(folders.VARIABLE, None)
    Path("checks.json").write_text(judge.silent(checks))
    for name in [name for name in sys.modules if name.partition(".")[0] == "classroom"]:
        del sys.modules[name]
    sys.meta_path.insert(0, SimpleNamespace(find_spec=_no_teacher))
    outputs, here = [], {"CHECKS": checks}
    IPython.display.display = lambda data, **options: outputs[-1].append(data)
    for cell in boxed.cells:
        outputs.append([])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(cell.source, here)
        except BaseException as error:
            outputs[-1].append({"error": type(error).__name__})
    return outputs


def _no_teacher(name, path=None, target=None):
    if name.partition(".")[0] == "classroom":
        raise ModuleNotFoundError(name)


def judged(notebook, outputs) -> float | str:
    """The points of all tests, or why the submission cannot be graded."""
    total = 0.0
    for cell, found in zip(notebook.cells, outputs, strict=True):
        if judge.is_test(cell):
            errors = [nbformat.v4.new_output("error", ename=d["error"], evalue="") for d in found if "error" in d]
            sent = [nbformat.v4.new_output("display_data", d) for d in found if "error" not in d]
            try:
                total += float(judge.scored(cell, errors + sent)[1].data["text/plain"])
            except SubmissionError as error:
                return str(error)
    return total


@pytest.mark.parametrize("inside", ["anew", "of the notebook"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_earns_a_point(cheat, inside, checks, tmp_path, monkeypatch):
    """With observers that are loaded anew; and with those of the notebook, for somebody who keeps us from that."""
    if inside == "of the notebook":
        monkeypatch.setattr(judge, "INSIDE", OF_THE_NOTEBOOK)
    notebook = handed_in(CHEATS[cheat])
    points = judged(notebook, observed(notebook, checks, tmp_path))
    assert points == 0 or (isinstance(points, str) and "exercise 1." in points)


def test_a_right_answer_has_its_points_in_the_same_way_and_its_checks_are_silent(checks, tmp_path):
    source = nbformat.read(classroom_folder.ASSIGNMENTS / "source" / NAME / f"{NAME}.ipynb", as_version=4)
    answers = [c.source for c in source.cells if c.cell_type == "code" and "BEGIN SOLUTION" in c.source]
    notebook = handed_in("\n".join([*answers, "check.split(lambda *case: 1 / 0)"]))  # a check that is not even made
    outputs = observed(notebook, checks, tmp_path)
    assert judged(notebook, outputs) == sum(task.points for task in core.load(NAME).tasks.values())
    boxed = json.dumps(outputs)
    assert not any(word in boxed for word in ("expected", "mistakes", "error"))


def test_nothing_that_is_expected_is_in_the_box(checks, tmp_path):
    """Neither in its folder, nor in the notebook that runs there."""
    there = judge.silent(checks) + nbformat.writes(judge.for_the_box(handed_in(BLANK)))
    found = {f"{v:.5f}" for v in _numbers(expecting.read_hidden(NAME, COHORT))}
    numbers = {text for text in found if len(text.rstrip("0")) > 5}
    assert len(numbers) > 100 and not [number for number in numbers if number in there]
    assert "expected" not in there and "mistakes" not in there


def _numbers(value):
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [number for each in inner for number in _numbers(each)]


def test_the_word_is_kept_and_what_an_earlier_version_wrote_is_refused(checks):
    path = folders.hidden_file(NAME, COHORT)
    word = expecting.read_hidden(NAME, COHORT)["word"]
    expecting.write_hidden(NAME, COHORT)
    assert expecting.read_hidden(NAME, COHORT)["word"] == word  # graded again, the cases are the same
    expecting.write_hidden(NAME, COHORT, fresh=True)
    assert (new := expecting.read_hidden(NAME, COHORT)["word"]) not in ("", "hidden", word)
    before = json.loads(path.read_text()) | {"form": 1}
    path.write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"earlier version: release a1_lora_numpy for the cohort 2026a once more"):
        expecting.read_hidden(NAME, COHORT)
    expecting.write_hidden(NAME, COHORT)
    assert expecting.read_hidden(NAME, COHORT)["word"] == new


# What an observer says without an answer: good words, the base alone, the untouched model, formulas of the case.
NULLS = """
import numpy as np, torch, lora_course.assignments.looking as look
from lora_course.assignments import torch_observers, towers
class Anything:
    def __getattr__(self, name): return ...
answer = Anything()
needed_rank = split = train = Adapter = LowRankLinear = inject = dial = load_adapter = evidence = repair = answer
quantile_codebook = encode = refit = surviving_update = quantize_constants = qlora_layer = fine_tune = review = answer
GOOD = {"start": "the outputs of the base", "frozen": "frozen", "seed": "the seed decides", "inputs": "unchanged",
        "manners": "good", "safe": "good", "products": "as many as needed", "untouched": "the run is as it was"}
def said(number, part, c, case):
    if number == "2.1" and part in ("start", "output"):
        return torch_observers.base_alone(c, *case)["output"]
    if number == "2.2" and part == "intact":
        tower = towers.seeded(case[-1], towers.Tower, *case[:3])
        return (towers.Inside(tower) if case[3] else tower)(torch.tensor([[1, 2, 3, 10]]))
    if number == "4.4" and part in ("trained", "scaling", "goal"):
        _, rank, alpha, wider = case
        sizes = [100 * each for each in (rank, *wider)]
        return {"trained": [*sizes, 2], "scaling": alpha / rank**c.power, "goal": c.goal}[part]
    return part[:5] != "bytes" and GOOD.get(part, next((v for v in case if hasattr(v, "dtype")), True))
look.observe_case = lambda task, c, _, case: {p: look.plain(said(task.number, p, c, case)) for p in task.parts}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", core.names())
def test_an_observer_without_an_answer_earns_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv(folders.VARIABLE, str(tmp_path))
    visible = expecting.expectations(name, COHORT)
    expecting.write_hidden(name, COHORT, visible)
    monkeypatch.setattr(judge, "INSIDE", OF_THE_NOTEBOOK)  # somebody who keeps our observers from being loaded anew
    notebook = handed_in(NULLS, name)
    outputs = observed(notebook, json.dumps(visible), tmp_path)
    assert all(list(found[-1]) == [looking.MIME] for found in outputs[3:]), outputs  # each test handed one over
    assert judged(notebook, outputs) == 0
