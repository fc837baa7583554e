"""The hygiene of the notebooks: what a reader of the committed files relies on. nbval runs them."""

import ast
import importlib.util
import itertools
import json
import re

import nbformat
import pytest
from conftest import PAGES, markdown

from lora_course.checking import grading
from lora_course.setup import hosted
from lora_edu.codebooks import dynamic_codebook

MACHINE_PATH = re.compile(r"(?<![\w/.])/(?:home|Users|work|root|tmp)/\w|[A-Z]:\\\\")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=PAGES, ids=lambda path: path.stem)
def path(request):
    return request.param


def as_read(path):
    """What a reader sees: without the cell that stands in front for Colab and Kaggle (setup/test_hosted.py)."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not hosted.is_hosted(cell)]
    return notebook


@pytest.fixture
def page(path):
    return as_read(path)


def pictures(page):
    """Each output with a picture, and the one that follows."""
    for cell in code_cells(page):
        for output, after in itertools.zip_longest(cell.outputs, cell.outputs[1:]):
            if "image/png" in output.get("data", {}):
                yield output, after


def test_valid_small_and_without_machine_paths(path, page):
    nbformat.validate(page)
    assert path.stat().st_size < 1_500_000 and not MACHINE_PATH.search(path.read_text(encoding="utf-8"))


def test_executed_top_to_bottom_in_a_fresh_kernel_without_errors_and_warnings(page):
    assert [cell.execution_count for cell in code_cells(page)] == list(range(1, len(code_cells(page)) + 1))
    for output in (output for cell in code_cells(page) for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output


def test_what_a_page_imports_of_the_package_is_there(page):
    for cell in code_cells(page):
        exec("\n".join(line for line in imports(cell.source) if "lora_" in line), {})


def test_the_words_of_the_house(page):
    words = r"\b(?:simply|just|obviously|trivially|of course|clearly)\b"
    assert not re.findall(words, markdown(page.cells), re.I)


def test_cells_that_are_not_compared_assert_something(page):
    """In a line of its own, or in the block that ends the cell: the body of a loop, the `else` of a missing library."""
    for cell in code_cells(page):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            body = ast.parse(cell.source).body
            assert any(isinstance(node, ast.Assert) for node in [*body, *ast.walk(body[-1])]), cell.source


# What the cells say that ask a library, with it and without it. That they run with it, nbval shows.
OPTIONAL = {
    "04_lora_torch": ("PEFT gives the same logits", "PEFT is not installed here"),
    "06_nf4": ("bitsandbytes agrees on every byte", "bitsandbytes is not installed here"),
    "07_double_quantization": ("all 256 values are equal to bitsandbytes'", "bitsandbytes is not installed here"),
    "12_real_model": ("PEFT is off by ", "PEFT is not installed here"),
    "17_a_task": ("llama.cpp speaks here", "llama.cpp is not installed here"),
}


@pytest.mark.parametrize("stem", OPTIONAL)
def test_a_cell_was_run_with_its_library_and_says_so_without_it(stem, capsys, monkeypatch):
    notebook, (with_it, without_it) = as_read(PAGES[0].with_name(f"{stem}.ipynb")), OPTIONAL[stem]
    (cell,) = (cell for cell in code_cells(notebook) if without_it in cell.source)
    assert cell.outputs[0].text.startswith(with_it)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell.source, {"importlib": importlib, "dynamic_codebook": dynamic_codebook})
    assert capsys.readouterr().out.startswith(without_it)


# --- the page ---------------------------------------------------------------------------------------------------------


def is_guess(cell):
    return cell.source.startswith("my_guess = None")


def test_no_line_of_a_cell_is_wider_than_a_screen(page):
    for cell in code_cells(page):
        assert all(len(line) <= 88 for line in cell.source.splitlines()), cell.source


def test_a_picture_stands_on_the_first_screen(page):
    first = nbformat.v4.new_notebook(cells=page.cells[1:4])
    assert list(pictures(first)) or "lora-edu-static" in str(first)  # 13's article is set as text


def test_the_imports_above_the_first_picture_are_folded(page):
    first = next(cell for cell in code_cells(page) if imports(cell.source))
    assert first.metadata.get("jupyter", {}).get("source_hidden"), first.source


def test_the_cell_of_a_slider_says_how_it_is_woken(path, page):
    """JupyterLab shows the first line of a folded cell and nothing else of it."""
    shown = re.compile(r"explore\(|^(?:controls = )?pictures\.\w+\(", re.M)
    sliders = [cell for cell in code_cells(page) if shown.search(cell.source)]
    assert sliders or path.stem.startswith("13")  # whose article has buttons
    assert all(cell.source.startswith(SLIDER + "\n") for cell in sliders)


def test_every_picture_has_alt_text_and_words_below(page):
    for output, after in pictures(page):
        assert len(output.metadata["image/png"]["alt"]) > 40
        words = after.data["text/html"]
        assert words.startswith("<details><summary>In words</summary>")
        assert not re.search(r"\bnan\b", words, re.I), words


def test_a_stored_measurement_does_not_spoil_the_guess(page):
    """JupyterLab and the book both fold the output of a measurement, pictures and tables included."""
    for cell in code_cells(page):
        if "beside(my_guess" in cell.source:
            assert cell.metadata.get("jupyter", {}).get("outputs_hidden") is True, cell.source
            assert "hide-output" in cell.metadata.get("tags", []), cell.source
            assert label(cell.outputs[0]) in (" ", "(a figure: its words follow)", "what was measured:", *LISTS)


SLIDER = "# The slider: click here, then Shift+Enter"
MEASURE = "# Measure: guess first, then click here and press Shift+Enter"
FOLDED_PROSE = re.compile(r"<details>.*?</details>", re.DOTALL)


def is_folded(cell):
    """JupyterLab shows its first line; the book a summary."""
    return cell.metadata.get("jupyter", {}).get("source_hidden") is True


def guesses(page):
    """Each guess, the cell that measures it, and the cells from there to the next guess or heading.

    A slider may stand before the measurement: the reader turns it, and then compares. A guess that the page keeps for a
    later section (`my_bill = my_guess`) is measured there.
    """
    for place, cell in enumerate(page.cells):
        if cell.cell_type == "code" and is_guess(cell):
            after = page.cells[place + 1 :]
            code = [other for other in after if other.cell_type == "code"]
            if "= my_guess" in code[0].source:
                continue
            measuring = next(other for other in code if not other.source.startswith(SLIDER))
            rest = after[after.index(measuring) + 1 :]
            ends = itertools.takewhile(lambda one: not is_guess(one) and not has_heading(one), rest)
            yield cell, measuring, list(ends)


def has_heading(cell):
    return cell.cell_type == "markdown" and re.search(r"^#{1,6} ", cell.source, re.M)


def test_the_cell_after_a_guess_measures_and_is_folded(page):
    for guess, measuring, _ in guesses(page):
        assert "beside(my_guess" in measuring.source, guess.source
        below = page.cells[page.cells.index(guess) + 1]
        assert below is measuring or below.source.startswith(SLIDER), guess.source
        assert is_folded(measuring), guess.source
        assert measuring.source.startswith(MEASURE + "\n"), measuring.source


def test_the_prose_below_a_guess_does_not_tell_what_was_measured(page):
    """No number that the folded output holds and nobody had read before stands in the open text that comes next."""
    for guess, measuring, after in guesses(page):
        before = markdown(page.cells[: page.cells.index(guess)]) + guess.source
        measured = set(NUMBER.findall(words_of(measuring))) - set(NUMBER.findall(before))
        for cell in itertools.takewhile(lambda one: one.cell_type == "markdown", after):
            told = measured & set(NUMBER.findall(FOLDED_PROSE.sub("", cell.source)))
            assert not told, (guess.source, told)


def test_an_open_cell_that_follows_a_measurement_asserts_nothing_of_it(page):
    """Code that stands right below, with no words between: an assertion with a name that is shown beside the guess."""
    for guess, measuring, after in guesses(page):
        made = shown_beside(measuring) if measuring.cell_type == "code" else set()
        below = itertools.takewhile(lambda one: one.cell_type == "code", after)
        for cell in (one for one in below if not is_folded(one)):
            for claim in (node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)):
                used = {node.id for node in ast.walk(claim) if isinstance(node, ast.Name)}
                assert not used & (made - bound_in(cell)), (guess.source, ast.unparse(claim))


NUMBER = re.compile(r"\d+\.\d+|\d{2,}(?=%)")  # what a measurement gives, not how many there were


def words_of(cell):
    return "\n".join(
        output.get("text", "") + "".join(output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html"))
        for output in cell.get("outputs", [])
    )


def shown_beside(cell):
    """The names in the call that shows what was measured."""
    calls = (node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call))
    beside = next((call for call in calls if ast.unparse(call.func) == "check.beside"), None)
    return {node.id for node in ast.walk(beside) if isinstance(node, ast.Name)} - {"my_guess"} if beside else set()


def is_made(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def bound_in(cell):
    return {node.id for node in ast.walk(ast.parse(cell.source)) if is_made(node)}


LISTS = ("blocks.0.attention.q_proj",)  # what one cell prints first, and may be seen


def label(output) -> str:
    """What JupyterLab writes beside the three dots of a folded output: its first line."""
    bundle = output.get("data", {})
    text = bundle.get("text/html") or bundle.get("text/plain") or output.get("text")
    return next(line for line in text.split("\n") if line)


def test_every_guess_is_measured(page):
    guesses = sum(is_guess(cell) for cell in code_cells(page))
    assert guesses == sum("beside(my_guess" in cell.source for cell in code_cells(page))


def test_no_dropdowns(page):
    """In JupyterLab the arrow keys leave a dropdown for the next cell, which the next key may then cut."""
    assert not [cell.source for cell in code_cells(page) if "Dropdown" in cell.source]


# --- exercises -------------------------------------------------------------------------------------------------------


def test_every_exercise_has_a_check_a_hint_and_a_solution(path, page):
    text = markdown(page.cells)
    exercises = re.findall(r"^### Exercise (\d+\.\d+)", text, re.M)
    assert len(exercises) >= (1 if path.stem == "13_claims" else 2)
    assert text.count("<summary>Hint</summary>") == text.count("<summary>Solution</summary>") == len(exercises)
    outputs = json.dumps([cell.outputs for cell in code_cells(page)])
    assert all(f"Exercise {number}: not done yet" in outputs for number in exercises)


TRAINS_EACH = [pytest.param(one, id=one.stem, marks=[pytest.mark.slow] * (one.stem == "18_clinic")) for one in PAGES]


@pytest.mark.parametrize("path", TRAINS_EACH, indirect=True)
def test_every_solution_passes_its_check(path, page):
    """Run each folded solution, then the check cell that follows the exercise's stub."""
    room = path.stem if path.stem == "tour" else f"nb{path.stem[:2]}"
    check = importlib.import_module(f"lora_course.{room}.check")
    first = next(cell.source for cell in code_cells(page) if not is_guess(cell))
    for index, cell in enumerate(page.cells):
        found = re.search(r"<summary>Solution</summary>.*?```python\n(.+?)```", cell.source, re.DOTALL)
        if cell.cell_type == "markdown" and found:
            code = [cell.source for cell in page.cells[:index] if cell.cell_type == "code"]
            call = next(source for source in reversed(code) if "check." in source)
            exec("\n".join([*imports(first), *imports(code[-2]), found[1], call]), {"check": check})
            assert grading.last_result.endswith("correct"), call


def imports(source):
    """The lines of a cell that import: what a reader has who ran the first cell of the page, and the exercise's own."""
    return [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
