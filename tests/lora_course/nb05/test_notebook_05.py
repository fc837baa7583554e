"""Notebook 05: its first screen, its pictures, and that it goes on without MiniLM, the network that is fetched."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import code_cell

from lora_course.drawing import plots
from lora_course.experiments import load_results
from lora_course.nb05 import pictures
from lora_course.nb05.lab import WAYS
from lora_edu import downloads, load_base, quantize
from lora_edu.downloads import DownloadError
from lora_edu.measures import relative_error
from lora_edu.observing import block_linears
from lora_edu.quantization import unpack
from lora_edu.rounding import best_length, block_codes, round_clipped, round_in_blocks

cell = partial(code_cell, "05_blocks")


@pytest.fixture
def absent(monkeypatch):
    """What the notebook has defined where MiniLM is neither in the cache nor to be had."""

    def model_folder(name):
        raise DownloadError("no network")

    monkeypatch.setattr(downloads, "model_folder", model_folder)
    names = {"torch": torch, "model": load_base("laptop", device="cpu"), "plots": plots}
    exec(cell('model_folder("minilm")').source, names)
    assert names["minilm"] == {} and len(names["gpt"]) == 24
    return names


def test_without_minilm_it_says_so_and_goes_on(absent, capsys):
    exec(cell('model_folder("minilm")').source, absent)
    assert capsys.readouterr().out == "MiniLM is not here and cannot be fetched now: we go on without it\n"
    one_absmax = cell("def round_with_one_absmax").source.partition("\nerror")[0]
    exec(one_absmax + "\n" + cell("def reach").source, absent | {"relative_error": relative_error})
    assert capsys.readouterr().out.count("GPT, ") == 2


# --- the first screen, and what the page says -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def block():
    return load_base("laptop", device="cpu").blocks[1].attention.o_proj.weight.detach().flatten()[:64]


def test_the_outlier_hurts_its_neighbors_and_not_itself(block):
    view = pictures.outlier_view(block)
    readouts = [view.update(size=40, shared=shared) for shared in pictures.SHARED]
    assert [re.search(r"error (\d+)%", readout)[1] for readout in readouts] == ["100", "53"]
    alone, saved = (view.values(size=40, shared=shared)["back"] for shared in pictures.SHARED)
    others = np.arange(64) != pictures.PLACE
    assert alone[pictures.PLACE] == saved[pictures.PLACE] == pytest.approx(40)
    assert not alone[others].any()
    neighbors = np.arange(64) // 16 == pictures.PLACE // 16
    assert not saved[others & neighbors].any() and (saved[~neighbors] != 0).mean() > 0.8


def test_the_block_is_drawn_with_the_package_s_bytes(block):
    quantized = quantize(block, "int4", 64)
    figure, words = pictures.one_block(block, quantized)
    shown = [text.get_text() for text in figure.axes[2].texts]
    assert shown == [f"{byte:02x}" for byte in quantized.codes.tolist()] and len(shown) == 32
    codes = [int(text.get_text()) for text in figure.axes[1].texts]
    assert codes == (block / block.abs().max() * 7).round().int().tolist() and "error of 10%" in words


def test_one_clipped_ruler():
    normal = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_clipped(normal, 4, 1), round_in_blocks(normal, 4, 2**16))
    best = best_length(normal, 4)
    error = {length: relative_error(normal, round_clipped(normal, 4, length)) for length in (best - 0.1, best, 1)}
    assert error[best] < min(error[best - 0.1], error[1] - 0.05) and error[best] < 0.12


def test_half_the_error_of_the_weights_saves_no_loss_and_a_ruler_for_the_loss_a_third():
    """That clipping halves the error, and at which length the loss is least, the page's cells assert."""
    arms = load_results("shared-constants")["arms"]
    whole = load_results("scoreboard")["arms"]["as shipped"]["loss"]
    one, clipped, for_loss, row, blocks = (
        np.array([arms[f"{way}, draw {draw}"]["loss"] for draw in range(4)]) - whole for way in WAYS
    )
    assert abs(clipped.mean() - one.mean()) < 0.003 and one.min() < clipped.mean()
    assert 0.3 < 1 - for_loss.mean() / one.mean() < 0.4 and for_loss.max() < clipped.min()
    assert blocks.max() < row.min() and row.max() < clipped.min() / 3


def test_the_package_and_the_page_differ_in_ties_alone():
    """So the scoreboard's loss is not, in its last digits, that of section 6."""
    for layer in list(block_linears(load_base("laptop", device="cpu")).values())[:6]:
        weight = layer.weight.detach()
        codes, step = block_codes(weight, 4, 64)
        there = unpack(quantize(weight, "int4", 64).codes, 16).view(codes.shape).float() - 7
        differs = there != codes
        assert 0 < differs.float().mean() < 0.01
        between = (weight.view(-1, 64) / step)[differs] % 1
        assert torch.allclose(between, torch.full_like(between, 0.5), atol=1e-5)
