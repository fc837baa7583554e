"""What assignment 3 says about its format, held against the format: examples of the text, written answer, constants."""

import itertools
import random
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

from classroom.solutions import load_solutions
from lora_edu import quantize
from lora_edu.assignments import a3_nf4

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ANSWERS = {number: task.reference({}) for number, task in load_solutions("a3_nf4").items()}
signed_constants, quantile_codebook, encode, pack, decode, refit = ANSWERS.values()


def drawn_constants() -> list[SimpleNamespace]:
    """Every set of constants that a cohort can have, fill codes aside: found by drawing until nothing new comes."""
    rng, found = random.Random(0), {}
    for _ in range(8000):
        drawn = a3_nf4.draw(rng) | {"fill_code": 1}
        found[tuple(drawn.values())] = SimpleNamespace(**drawn)
    assert len(found) == 4 * 4 * 5 * 3  # 3 bits, and 5 bits with 16 or 17 levels below 0
    return list(found.values())


def codebook_of(c):
    return torch.as_tensor(quantile_codebook(c.levels_below, c.levels_above, c.offset_below, c.offset_above)).float()


def restored(weight, codebook, c):
    constants = signed_constants(weight, c.block_size)
    codes = encode(weight, constants, codebook, c.block_size)
    packed = pack(codes, c.bits, c.fill_code)
    return codes, decode(packed, c.bits, constants, codebook, c.block_size, weight.shape)


def relative_error(original, changed):
    return ((original - changed).norm() / original.norm()).item()


@pytest.fixture(scope="module")
def weight():
    return torch.randn(60, 250, generator=torch.Generator().manual_seed(0))


def test_the_format_beats_the_packages_codebook_of_as_many_bits_for_every_cohort(weight):
    library = {
        (bits, size): relative_error(weight, quantize(weight, f"nf{bits}", size).dequantize())
        for bits, size in itertools.product((3, 5), (24, 40, 48, 56, 80))
    }
    for c in drawn_constants():
        assert c.offset_below < c.offset_above and c.levels_below > c.levels_above
        assert relative_error(weight, restored(weight, codebook_of(c), c)[1]) < library[c.bits, c.block_size], c


def test_quantizing_twice_changes_no_code_unless_the_codebook_begins_at_minus_1(weight):
    c = SimpleNamespace(bits=3, levels_below=4, levels_above=3, offset_below=0.91, offset_above=0.95, block_size=48)
    c.fill_code = 7
    codebook = codebook_of(c)
    codes, once = restored(weight, codebook, c)
    assert torch.equal(restored(once, codebook, c)[0], codes)
    refitted, _ = refit(weight, codes, codebook, c.block_size)
    assert not torch.equal(refitted, signed_constants(weight, c.block_size))
    codebook[0] = -1  # the control
    codes, once = restored(weight, codebook, c)
    assert (restored(once, codebook, c)[0] != codes).float().mean() > 0.05


def test_refitted_constants_have_the_smaller_error(weight):
    for c in random.Random(2).sample(drawn_constants(), 5):
        codebook = codebook_of(c)
        codes, once = restored(weight, codebook, c)
        _, error = refit(weight, codes, codebook, c.block_size)
        assert error < relative_error(weight, once)
        moved = signed_constants(weight, c.block_size) * 0.97
        packed = pack(codes, c.bits, c.fill_code)
        assert error < relative_error(weight, decode(packed, c.bits, moved, codebook, c.block_size, weight.shape))


def test_the_examples_of_the_text():
    block = torch.tensor([0.5, -2, 1, 0.25])
    assert signed_constants(block, 4).tolist() == [-2]
    assert (block / -2).tolist() == [-0.25, 1, -0.5, -0.125]
    codes = torch.tensor([1, 2, 0, 0, 0, 0, 0, 7], dtype=torch.uint8)
    assert pack(codes, 3, 0).tolist() == [17, 0, 224] and 1 + 2 * 8 + 7 * 2**21 == 17 + 224 * 256**2
    notebook = nbformat.read(NOTEBOOKS / "assignments/source/a3_nf4/a3_nf4.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "the bytes $17, 0, 224$" in text and r"$(0.5,\ -2,\ 1,\ 0.25)$ it is $-2$" in text


def test_the_parts_and_points_stand_in_the_text():
    notebook = nbformat.read(NOTEBOOKS / "assignments/source/a3_nf4/a3_nf4.ipynb", as_version=4)
    for task in a3_nf4.TASKS:
        text = next(cell.source for cell in notebook.cells if cell.source.startswith(f"### Exercise {task.number}"))
        assert {part: float(p) for part, p in re.findall(r"^\| `(.+?)`: .* \| (\d+) \|$", text, re.M)} == task.parts
        assert f"· {task.title} ·" in text


def test_sentences_point_to_sections_that_exist():
    sections = set()
    for path in NOTEBOOKS.glob("0[0-6]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                numbers = re.findall(r"^## (\d+)\. ", cell.source, re.M)
                sections |= {f"notebook {path.name[:2]}, section {number}" for number in numbers}
    named = [wrong for task in load_solutions("a3_nf4").values() for wrong in task.wrong if wrong.sentence]
    assert len(named) > 90 and {wrong.see for wrong in named} <= sections
