"""What looks at an answer is loaded anew for each test: a cell that replaced it in its own kernel changes no point."""

import json

import classroom_folder
import nbformat
import pytest

from classroom import expecting, folders, judge, plugins, sandbox
from classroom.solutions import load_solutions
from lora_course.assignments import core

COHORT = "2026a"
# Edits of the solution, such as students make, that lose points for manners: what is frozen, seeded, refused, kept.
SLOPPY = {
    "a2_lora_torch": {
        "self.base = base.requires_grad_(False)": "self.base = base",
        "generator = torch.Generator().manual_seed(seed)": "generator = None; torch.manual_seed(seed)",
        "model.requires_grad_(False)": "pass",
        "if not chosen:": "if False:",
        "layer.first_weight.float() + strength": "layer.base.weight.float() + strength",
    },
    "a4_qlora": {"return KeepsItsArguments.apply(x, stored, lora_A, lora_B)":
                 "return x @ decode(stored) + scaling * (x @ lora_A.T) @ lora_B.T"},
}  # fmt: skip
# From what everybody has, `check`, to the names that the observers of that kernel use.
REPLACED = {
    "a2_lora_torch": """
for number in ("2.1", "2.2", "2.3"):
    names = getattr(check.layer.assignment.tasks[number], "obs" + "erve").__globals__
    names["fine"] = names["all_refused"] = lambda *said: True
    names["Complaint"] = type("Quiet", (Exception,), {})
""",
    "a4_qlora": """
names = getattr(check.qlora_layer.assignment.tasks["4.3"], "obs" + "erve").__globals__
class Few(names["PeakMemory"]):
    now = property(lambda self: 0, lambda self, value: None)
class None_(names["FlopCounterMode"]):
    def get_total_flops(self):
        return 0
names["PeakMemory"], names["FlopCounterMode"] = Few, None_
""",
}
NUMBERS = {"a2_lora_torch": ("2.1", "2.2", "2.3"), "a4_qlora": ("4.3",)}


@pytest.fixture
def expected(name, folder):
    """What the hidden tests of the exercises at hand compare with, in the teacher's folder."""
    assignment, solutions, word = core.load(name, COHORT), load_solutions(name), "a secret word"
    tasks = {}
    for number in NUMBERS[name]:
        visible, hidden = (
            expecting.task_expectations(assignment, number, solutions[number], w) for w in ("visible", word)
        )
        tasks[number] = hidden | {"work": expecting.work(assignment, number, solutions[number], word, visible)}
    folders.keep(folders.hidden_file(name, COHORT), {"word": word, "form": expecting.FORM, "tasks": tasks})
    return folder


def handed_in(name: str, scratch: str) -> nbformat.NotebookNode:
    """A sloppy notebook with the exercises at hand, and a scratch cell before them."""
    notebook = nbformat.read(classroom_folder.ASSIGNMENTS / "source" / name / f"{name}.ipynb", as_version=4)
    plugins.SetCohort(cohort=COHORT).preprocess(notebook, {})
    setup, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tests = [
        cell for cell in others if judge.is_test(cell) and judge.TEST.search(cell.source)["number"] in NUMBERS[name]
    ]
    wanted = {classroom_folder.grade_id(cell).removeprefix("test_") for cell in tests}
    answers = [cell for cell in others if classroom_folder.grade_id(cell) in wanted]
    for right, wrong in SLOPPY[name].items():
        [cell] = [cell for cell in answers if right in cell.source]
        cell.source = cell.source.replace(right, wrong)
    return nbformat.v4.new_notebook(cells=[setup, nbformat.v4.new_code_cell(scratch), *answers, *tests])


def points(notebook: nbformat.NotebookNode, folder, name: str) -> list[float]:
    """Of each test, from a run in the box that holds here."""
    checks = folder / "checks.json"
    tasks = {number: {} for number in core.load(name, COHORT).tasks}
    checks.write_text(json.dumps({"assignment": name, "cohort": COHORT, "tasks": tasks}))
    back = sandbox.run(judge.for_the_box(notebook), checks)
    pairs = list(zip(notebook.cells, back.cells, strict=True))
    outputs = [output for cell, there in pairs if not judge.is_test(cell) for output in there.outputs]
    stopped = [output for output in outputs if output.output_type == "error"]
    assert not stopped, stopped  # the cheat itself did run
    scores = [judge.scored(cell, there.outputs)[1] for cell, there in pairs if judge.is_test(cell)]
    return [float(score.data["text/plain"]) for score in scores]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOPPY)
def test_observers_that_a_cell_replaced_are_not_those_that_look(name, expected, monkeypatch):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.box(unboxed=True))
    most = sum(core.load(name).tasks[number].points for number in NUMBERS[name])
    honest = points(handed_in(name, ""), expected, name)
    assert 0 < sum(honest) < most - 2
    assert points(handed_in(name, REPLACED[name]), expected, name) == honest
