"""The assignments: graders proven, sources in order, releases that give nothing away, solutions with full marks."""

import json
import re

import classroom_folder
import nbformat
import pytest

from classroom import autograding, collecting, expecting, folders, grades, judge, proof, releasing
from classroom import obstacles as inspecting
from classroom.solutions import load_solutions
from lora_course.assignments import core
from lora_course.checking import comparing

REPOSITORY = classroom_folder.ASSIGNMENTS.parent.parent
NAMES = core.names()
SOURCES = sorted(path.stem for path in classroom_folder.ASSIGNMENTS.glob("source/*/*.ipynb"))


@pytest.fixture(scope="module")
def folder_of_releases(tmp_path_factory):
    folder = classroom_folder.make(tmp_path_factory.mktemp("classroom"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(folders.VARIABLE, str(folder))
        patch.setattr(expecting.secrets, "token_hex", lambda size: "hidden")  # the cases that the proof has seen
        yield folder


@pytest.fixture
def released(folder_of_releases, name):
    """A teacher's folder in which this assignment is released for practice."""
    if not (folder_of_releases / "release" / name).exists():
        releasing.release(name, releasing.PUBLIC)
    return folder_of_releases


# Releasing the second and the fourth assignment takes 20 seconds each: `make test-all` does.
QUICK = [name if name[:2] in ("a1", "a3") else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES]
FIRST, *MORE = (*proof.COHORTS, *(f"class-{number}" for number in range(6)))


NUMBERS = [(name, number) for name in NAMES for number in core.load(name).tasks]


@pytest.mark.parametrize(
    ("name", "number", "cohort"),
    [
        pytest.param(*one, cohort, marks=pytest.mark.slow if one[1] in ("2.5", "4.4", "4.5") or cohort in MORE else ())
        for one in NUMBERS  # these train a model for each of their dozen wrong answers
        for cohort in (FIRST, *MORE)
    ],
)
def test_the_graders_are_right(name, number, cohort):
    assert proof.prove_task(core.load(name, cohort), number, load_solutions(name)[number]) == []
    assert set(load_solutions(name)) == set(core.load(name).tasks)


def test_a_student_needs_nothing_of_the_teachers():
    for path in REPOSITORY.glob("lora_*/**/*.py"):
        assert not re.search(r"^\s*(from|import) classroom\b", path.read_text("utf-8"), re.M), path


@pytest.mark.parametrize("name", NAMES)
def test_every_cohort_has_its_own_constants(name):
    drawn = {repr(core.constants(name, f"class-{i}")) for i in range(8)}
    assert len(drawn) > 1
    assert core.constants(name, "2026a") == core.constants(name, "2026a")


@pytest.mark.parametrize("name", NAMES)
def test_a_named_mistake_sends_the_student_to_a_place_that_exists(name):
    there = set()
    for path in classroom_folder.ASSIGNMENTS.parent.glob("[0-9]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for kind, number in re.findall(r"^##+ (Exercise )?(\d+(?:\.\d+)?)", cell.source, re.M):
                there.add(f"notebook {path.name[:2]}, {'exercise' if kind else 'section'} {number}")
    there |= {f"exercise {number}" for number in load_solutions(name)}
    for number, task in load_solutions(name).items():
        for wrong in task.wrong:
            if wrong.see:
                start = re.match(r"(notebook \d\d, (section|exercise) |exercise )\d+(\.\d+)?", wrong.see)
                assert start and start[0] in there, (number, wrong.name, wrong.see)


@pytest.mark.parametrize("name", SOURCES)
def test_the_right_answers_have_no_suspicious_word(name):
    assert inspecting.suspicious(classroom_folder.ASSIGNMENTS / "source" / name / f"{name}.ipynb") == []


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_says_what_the_tasks_say(name):
    notebook = nbformat.read(classroom_folder.ASSIGNMENTS / "source" / name / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    tasks = core.load(name).tasks
    assert 3 <= len(tasks) <= 6
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    marks = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    points = {mark["grade_id"]: mark["points"] for mark in marks if mark["grade"]}
    for number, task in tasks.items():
        assert points[f"test_{task.name}"] == task.points
        title = re.search(rf"^### Exercise {re.escape(number)} · .*", text, re.M)[0]
        assert f"· {task.minutes} minutes" in title and f"· {task.points:g} points" in title, title
        assert re.search("· (easy|medium|hard)", title), title
    written = [mark for mark in marks if mark["grade"] and mark["solution"]]
    assert len(written) == 1 and "If you have time" in text
    assert re.search(rf"\*\*Points\.?\*\*\.? {sum(points.values()):g}\b", text)
    assert len({mark["grade_id"] for mark in marks}) == len(marks) and all(m["schema_version"] == 3 for m in marks)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    tests = [re.sub(r"COHORT\)$", '"2026a")', c.source, flags=re.M) for c in notebook.cells if judge.is_test(c)]
    assert [judge.TEST.search(test)["number"] for test in tests] == list(tasks)  # what a box is asked to observe
    assert "ipywidgets" not in str(notebook) and "sliders" not in str(notebook)
    codes = [c.source.partition("### BEGIN HIDDEN")[0] for c in notebook.cells if c.cell_type == "code"]
    late = [line for code in codes[1:] for line in code.splitlines() if line.startswith("from lora_course.assignments")]
    assert not late, f"an answer is tried with what the set-up cell imports: {late}"
    assert not re.findall(r"\b(?:simply|just|obviously|trivially|of course|clearly)\b", text, re.I)


@pytest.mark.parametrize("name", QUICK)
def test_a_release_gives_nothing_away(name, released):
    folder = released / "release" / name
    assert releasing.leaks(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.ipynb", "checks.json"]
    text = (folder / f"{name}.ipynb").read_text(encoding="utf-8")
    source = nbformat.read(released / "source" / name / f"{name}.ipynb", as_version=4)
    inside, outside = set(), set()
    for cell in source.cells:
        solution = re.findall(r"BEGIN SOLUTION\n(.*?)### END", cell.source, re.S)
        inside |= {line.strip() for part in solution for line in part.splitlines()}
        given = re.sub(r"BEGIN SOLUTION\n.*?### END", "", cell.source, flags=re.S)
        outside |= {line.strip() for line in given.splitlines()}
    secret = {line for line in inside - outside if len(line) > 12}
    assert len(secret) > 10
    assert [line for line in secret if json.dumps(line, ensure_ascii=False)[1:-1] in text] == []
    solutions = load_solutions(name)
    for number, task in json.loads((folder / "checks.json").read_text())["tasks"].items():
        assert set(task) == {"edition", "expected", "mistakes"}
        named = [wrong.sentence for wrong in solutions[number].wrong if wrong.sentence]
        assert [mistake["sentence"] for mistake in task["mistakes"]] == named
        assert all(set(mistake) == {"sentence", "see", "observed"} for mistake in task["mistakes"])


@pytest.mark.parametrize("name", QUICK)
def test_a_blank_notebook_earns_nothing_and_the_solution_everything(name, released):
    """The notebook as it was handed out, with the tests that the grader puts back; then the solution, as well there."""
    folder, tasks = released / "release" / name, core.load(name).tasks.values()
    solved = nbformat.read(releasing.solution(name, releasing.PUBLIC), as_version=4)
    blank = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    tests = {classroom_folder.grade_id(cell): cell.source for cell in solved.cells if judge.is_test(cell)}
    code = [cell for notebook in (blank, solved) for cell in notebook.cells if cell.cell_type == "code"]
    names = [classroom_folder.grade_id(cell) for cell in code]
    sources = [tests.get(n, cell.source) for n, cell in zip(names, code, strict=True)]
    done = classroom_folder.forked(lambda: classroom_folder.run(sources), folder)
    assert not [cell for cell in done if cell["error"] or cell["stderr"]]
    for right, half in enumerate((slice(len(done) // 2), slice(len(done) // 2, None))):
        results = {n: float(cell["result"]) for n, cell in zip(names[half], done[half], strict=True) if n in tests}
        assert results == {f"test_{task.name}": task.points * right for task in tasks}
        shown = "".join(cell["text"] for cell in done[half])
        for task in tasks:
            assert f"Exercise {task.number}: {'correct' if right else 'not done yet'}\n" in shown
        assert (f"{len(tasks)} of {len(tasks)} done" in shown) == right


@pytest.mark.parametrize("name", QUICK)
def test_the_practice_version_in_git_is_a_fresh_release(name, released):
    kept = classroom_folder.ASSIGNMENTS / name
    assert sorted(path.name for path in kept.iterdir()) == [f"{name}.ipynb", "checks.json"]
    assert releasing.leaks(kept) == []
    ask = f"run `make assignments`: {name} in git is not what its source gives"
    assert (kept / f"{name}.ipynb").read_text() == (released / name / f"{name}.ipynb").read_text(), ask
    old, new = (json.loads((folder / "checks.json").read_text()) for folder in (kept, released / name))
    assert is_fresh(old, new), ask


@pytest.mark.parametrize("name", ["a1_lora_numpy"])
def test_importing_the_answer_does_not_pass(released, name, tmp_path):
    """The package's own functions, called from a whole submission: the points that they are worth here."""
    trained = """def train(x, target, W, A, B, alpha, lr, steps):
    from lora_edu.lora_numpy import LoRALinear
    layer = LoRALinear(W.T, A.shape[1], alpha, np.random.default_rng(0))
    layer.lora_A, layer.lora_B = A.T, B
    grad_A, grad_B, _ = layer.backward(x, (layer.forward(x) - target) / len(x))
    return A - lr * grad_A.T, B - c.ratio * lr * grad_B"""
    split = "def split(*case):\n    from classroom import solutions\n    return solutions.load_solutions(c)"
    hand_out, solution = released / "release" / name / f"{name}.ipynb", releasing.solution(name, releasing.PUBLIC)
    notebook = classroom_folder.handed_in(hand_out, solution, train=trained, split=split)
    classroom_folder.collect(tmp_path, {f"copy/{name}.ipynb": nbformat.writes(notebook)})
    autograding.autograde(name, unboxed=True)
    row = classroom_folder.table(grades.write_grades(name))["copy"]
    assert [float(row[task]) for task in ("needed_rank", "split", "adapter", "train")] == [3, 0, 8, 0]
    assert row["look_at"] == "classroom 1.4:no-result"  # for the teacher to read
    assert collecting.remembered(name)["copy"]["file"] == f"{name}.ipynb"


def is_fresh(old, new):
    """Equal, but for the last digits of numbers: another processor rounds them anew."""
    if isinstance(new, list):
        return len(old) == len(new) and all(map(is_fresh, old, new))
    if isinstance(new, dict) and not comparing.is_numbers(new):
        return old.keys() == new.keys() and all(is_fresh(old[key], new[key]) for key in new)
    return comparing.equal(old, new, tolerance=3e-5)
