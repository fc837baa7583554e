"""Notebook 06: bitsandbytes was asked, and the exercises name the mistakes."""

import importlib.util
from pathlib import Path
from statistics import NormalDist

import nbformat
import numpy as np
import pytest
import torch

from lora_edu import files, nf_codebook, quantize
from lora_edu.exercises import nb06
from lora_edu.files import DownloadError
from lora_edu.measures import relative_error

PATH = Path(__file__).parent.parent / "notebooks" / "06_nf4.ipynb"
with_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture
def cell():
    cells = nbformat.read(PATH, as_version=4).cells
    return next(cell for cell in cells if "optional-bitsandbytes" in cell.metadata.get("tags", []))


@pytest.fixture
def names():
    """What the notebook has defined before that cell."""
    return {"torch": torch, "quantize": quantize, "nf_codebook": nf_codebook}


def test_the_stored_notebook_was_run_with_bitsandbytes(cell):
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert text.startswith("bitsandbytes agrees on every byte")


@with_bitsandbytes
def test_the_cell_runs_with_bitsandbytes(cell, names, capsys):
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("bitsandbytes agrees on every byte")


@with_bitsandbytes
def test_the_cell_fails_if_one_code_differs(cell, names):
    def almost(tensor, name, block_size):
        quantized = quantize(tensor, name, block_size)
        quantized.codes[-1] ^= 16
        return quantized

    names["quantize"] = almost
    with pytest.raises(AssertionError):
        exec(cell.source, names)


def test_the_cell_says_so_without_bitsandbytes(cell, names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("bitsandbytes is not installed here")


def eq_4_with_infinite_ends(offset, half):
    def q(p):
        return -np.inf if p == 0 else np.inf if p == 1 else NormalDist().inv_cdf(p)

    count = 2 * half
    return [(q(i / (count + 1)) + q((i + 1) / (count + 1))) / 2 for i in range(count)]


def eq_4_that_stops(offset, half):
    return [NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(2 * half)]


@pytest.mark.parametrize("attempt", [eq_4_with_infinite_ends, eq_4_that_stops])
def test_eq_4_taken_literally_is_named(attempt):
    with pytest.raises(AssertionError, match=r"Exercise 6.1: this is Eq. 4 taken literally"):
        nb06.normal_float(attempt)


def test_every_wrong_codebook_is_named_through_the_check_that_the_notebook_calls():
    for sentence, mistake in nb06._normal_float.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            nb06.normal_float(mistake)
        assert str(caught.value) == f"Exercise 6.1: {sentence}"


def test_stubs_and_other_errors(capsys):
    nb06.normal_float(lambda offset, half: ...)
    assert capsys.readouterr().out == "Exercise 6.1: not done yet\n"
    with pytest.raises(AssertionError, match="your function stopped with ZeroDivisionError"):
        nb06.normal_float(lambda offset, half: 1 / 0)


# --- right solutions that are written differently -------------------------------------------------------------------


def by_torch(offset, half):
    def side(count):
        return torch.special.ndtri(torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:-1])

    levels = torch.cat([-side(half - 1), torch.zeros(1), side(half).flip(0)])
    return levels / levels[-1]


def by_loop(codes):
    padded = [*codes, 7] if len(codes) % 2 else list(codes)
    return [(first << 4) | second for first, second in zip(padded[::2], padded[1::2], strict=True)]


def by_blocks(X, W, codes, absmax):
    table, changed = nf4().tolist(), W.copy()
    for index, code in enumerate(codes.flatten()):
        changed.flat[index] = table[code] * absmax[index // codes.shape[1]]
    return (((X @ (W - changed).T) ** 2).sum() / ((X @ W.T) ** 2).sum()) ** 0.5


def nf4():
    return nf_codebook(4).numpy()


def of_new_codes(X, W, codes, absmax):
    """Quantizes W itself, and never looks at the codes."""
    changed = quantize(torch.from_numpy(W), "nf4", codes.shape[1]).dequantize().numpy()
    return np.linalg.norm(X @ (W - changed).T) / np.linalg.norm(X @ W.T)


def eq_4_finite(offset, half, divide=True):
    quantiles = [NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)]
    levels = np.convolve(quantiles, [0.5, 0.5], mode="valid")
    return levels / levels.max() if divide else levels


@pytest.mark.parametrize(
    ("check", "wrong", "sentence"),
    [
        (nb06.rounded_output_error, of_new_codes, "this quantizes W again"),
        (nb06.rounded_output_error, lambda X, W, c, m: X @ W, "your function stopped with ValueError"),
        (nb06.normal_float, eq_4_finite, "this is the finite part of Eq. 4: 2"),
        (nb06.normal_float, lambda o, half: eq_4_finite(o, half, False), "this is the finite part of Eq. 4, and not"),
    ],
)
def test_wrong_answers_that_a_case_was_made_for(check, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(wrong)


def test_one_case_has_codes_that_are_not_the_nearest():
    nearest = [
        np.array_equal(codes, np.abs(W.reshape(codes.shape)[..., None] / absmax[:, None, None] - nf4()).argmin(-1))
        for _, W, codes, absmax in nb06.rounded_output_error.cases
    ]
    assert any(nearest) and not all(nearest)


@pytest.mark.parametrize(
    ("check", "solution"),
    [
        (nb06.normal_float, by_torch),
        (nb06.packed_codes, by_loop),
        (nb06.packed_codes, lambda codes: np.uint8(by_loop(codes))),
        (nb06.rounded_output_error, by_blocks),
    ],
)
def test_right_solutions_pass(check, solution, capsys):
    check(solution)
    assert capsys.readouterr().out.endswith(": correct\n")


def test_the_notebook_goes_on_without_minilm(capsys, monkeypatch):
    def absent(name):
        raise DownloadError("no network")

    monkeypatch.setattr(files, "model_folder", absent)
    cells = nbformat.read(PATH, as_version=4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code" and 'model_folder("minilm")' in cell.source)
    normal = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    names = {"torch": torch, "quantize": quantize, "normal": normal, "relative_error": relative_error}
    exec(cell.source, names | {"formats": ["nf4", "int4"]})
    out = capsys.readouterr().out
    assert out.startswith("MiniLM is not here") and out.count("%") == 4
