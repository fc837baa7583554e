"""What assignment 3 says about its format, held against the format: examples of the text, written answer, constants."""

import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch

from classroom.solutions import load_solutions
from lora_edu import quantize
from lora_edu.assignments import a3_nf4
from lora_edu.codebooks import nf_codebook
from lora_edu.measures import relative_error

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ANSWERS = {number: task.reference({}) for number, task in load_solutions("a3_nf4").items()}
quantile_codebook, encode, refit = ANSWERS.values()


def signed_constants(weight, block_size):
    return torch.stack([block[block.abs().argmax()] for block in weight.flatten().split(block_size)])


def decode(codes, constants, codebook, block_size, shape):
    return (codebook[codes.long()] * constants.repeat_interleave(block_size)[: len(codes)]).view(shape)


def drawn_constants() -> list[SimpleNamespace]:
    """Every set of constants that a cohort can have: found by drawing until nothing new comes."""
    rng, found = random.Random(0), {}
    for _ in range(8000):
        drawn = a3_nf4.draw(rng)
        found[tuple(drawn.values())] = SimpleNamespace(**drawn)
    assert len(found) == 4 * 4 * 5 * 3  # 3 bits, and 5 bits with 16 or 17 levels below 0
    return list(found.values())


def codebook_of(c):
    return torch.as_tensor(quantile_codebook(c.levels_below, c.levels_above, c.offset_below, c.offset_above)).float()


def restored(weight, codebook, c):
    constants = signed_constants(weight, c.block_size)
    codes = encode(weight, constants, codebook, c.block_size)
    return codes, decode(codes, constants, codebook, c.block_size, weight.shape)


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
    codebook = codebook_of(c)
    codes, once = restored(weight, codebook, c)
    assert torch.equal(restored(once, codebook, c)[0], codes)
    refitted, _ = refit(weight, codes, codebook, c.block_size)
    assert not torch.equal(refitted, signed_constants(weight, c.block_size))
    codebook[0] = -1  # the control
    codes, once = restored(weight, codebook, c)
    assert (restored(once, codebook, c)[0] != codes).float().mean() > 0.05


def test_the_claim_of_the_control_is_refuted_by_the_sign_alone(weight):
    """What the rubric says: with the library's codebook the sign changes nothing; the rest of the gap is block size."""
    for bits in (3, 5):
        c = next(c for c in drawn_constants() if c.bits == bits and c.block_size == 48)
        library = torch.as_tensor(nf_codebook(bits)).float()

        def error(codebook, block_size, signed):
            constants = signed_constants(weight if signed else weight.abs(), block_size)
            codes = encode(weight, constants, codebook, block_size)
            return relative_error(weight, decode(codes, constants, codebook, block_size, weight.shape))

        friends, ours = error(library, 4 * c.block_size, False), error(codebook_of(c), c.block_size, True)
        without, alone = error(library, c.block_size, False), error(library, c.block_size, True)
        assert abs(alone / without - 1) < 0.01 and ours < 0.98 * without
        assert (friends - without > without - ours) == (bits == 3)  # with 5 bits, blocks matter less


def test_the_examples_of_the_text():
    block = torch.tensor([0.5, -2, 1, 0.25])
    assert signed_constants(block, 4).tolist() == [-2]
    assert (block / -2).tolist() == [-0.25, 1, -0.5, -0.125]
    notebook = nbformat.read(NOTEBOOKS / "assignments/source/a3_nf4/a3_nf4.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert r"$(0.5,\ -2,\ 1,\ 0.25)$ the constant is $-2$" in text
