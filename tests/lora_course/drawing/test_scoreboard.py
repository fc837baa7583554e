"""The scoreboard: its rows are measured by one protocol, and the table shows those of the notebooks so far."""

import copy
import json

import pytest
import torch
from conftest import random_gpt

from lora_course.drawing.score_table import scoreboard
from lora_course.nb06.lab import format_loss
from lora_course.nb07.lab import double_quant_loss
from lora_course.running import scoreboard as board
from lora_edu.quantization import DoubleQuant, quantize


@pytest.mark.parametrize(("bits", "how"), [(32, False), (8, DoubleQuant()), (4, DoubleQuant("nf4"))])
def test_a_format_is_that_of_the_package(bits, how):
    weight = torch.randn(48, 80)
    expected = quantize(weight, "nf4", 32, how)
    assert torch.equal(board.rounded(weight, "nf4", 32, bits), expected.dequantize())


def test_constants_in_16_bits_are_rounded_to_float16():
    weight = torch.randn(48, 80)
    exact = quantize(weight, "nf4", 64)
    got = board.rounded(weight, "nf4", 64, 16)
    assert torch.allclose(got, exact.dequantize(), rtol=1e-3) and not torch.equal(got, exact.dequantize())
    assert not board.rounded(1e-9 * weight, "nf4", 64, 16).any()  # below what float16 can say


BITS = 4 + 8 / 16 + 32 / (16 * 256)  # of NF4 in blocks of 16, double quantization


@pytest.mark.parametrize("measure", [
    lambda: board.score("nf4", 16, 8, windows=2), lambda: format_loss("nf4", 4),
    lambda: double_quant_loss(8, windows=2)], ids=["a row", "a draw", "constants"])  # fmt: skip
def test_a_row_is_measured(in_small, measure):
    in_small(board)
    result, untouched = measure(), board.score(None, windows=2)
    assert 0.05 < result["weight_error"] < 0.15 and result["output_error"] > 0 and result == measure()
    assert untouched["loss"] != result["loss"] and untouched["weight_error"] == 0 and untouched["bits"] == 16
    assert result.get("bits", BITS) == pytest.approx(BITS, abs=1e-5)
    json.dumps(result)


def test_a_row_keeps_how_far_the_guesses_moved_on_both_texts(in_small, monkeypatch):
    """The control, the model beside itself, is unchanged; a ruler that ends earlier moves other guesses."""
    in_small(board)
    model = random_gpt()
    monkeypatch.setattr(board, "load_base", lambda *_, **__: copy.deepcopy(model))
    whole, one = board.score(None, windows=2), {"codebook": "int4", "block_size": board.ONE_CONSTANT, "windows": 2}
    plain, clipped = board.score(**one), board.score(**one, clipped=True)
    for text in ("addresses", "plays"):
        assert whole[text] == {"kl": 0, "flips": 0} and 0 < plain[text]["flips"] < 1
        assert 0 < plain[text]["kl"] != clipped[text]["kl"] > 0
    assert clipped["weight_error"] < plain["weight_error"]


def test_the_table_has_the_rows_of_the_notebooks_so_far(capsys):
    scoreboard("05")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(board.ROWS["05"]) and "as shipped" in lines[2]
    scoreboard("07")
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(board.SCOREBOARD_ARMS)
