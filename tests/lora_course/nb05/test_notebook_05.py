"""Notebook 05: its first screen, its pictures, and that it goes on without MiniLM, the network that is fetched."""

import re
import time
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import code_cell

from lora_course.checking.grading import WrongAnswer
from lora_course.drawing import plots
from lora_course.experiments import load_results
from lora_course.nb05 import check, pictures
from lora_course.nb05.lab import with_signs
from lora_edu import downloads, load_base, quantize
from lora_edu.downloads import DownloadError
from lora_edu.measures import relative_error

cell = partial(code_cell, "05_blocks")


@pytest.fixture
def absent(monkeypatch):
    """What the notebook has defined where MiniLM is neither in the cache nor to be had."""
    monkeypatch.setattr(downloads, "model_folder", Mock(side_effect=DownloadError("no network")))
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


def test_the_error_that_tells_is_that_of_the_outputs():
    """In squares it explains KL; that of the weights is off by a factor of four."""
    arms = [load_results("scoreboard")["arms"][f"int4, {way}"] for way in
            ("one constant a layer", "one constant, clipped", "blocks of 64")]  # fmt: skip
    outputs = [arm["addresses"]["kl"] / arm["output_error"] ** 2 for arm in arms]
    weights = [arm["addresses"]["kl"] / arm["weight_error"] ** 2 for arm in arms]
    assert max(outputs) < 1.3 * min(outputs) and max(weights) > 3.5 * min(weights)


def test_the_guesses_are_those_that_kl_adds_up():
    """Whichever byte came, the mean stays; what the loss says of single bytes has both signs."""
    logits = 3 * torch.randn(9, 256)
    before, after = (one.log_softmax(-1).numpy() for one in (logits, logits + torch.randn(9, 256)))
    flips = (before.argmax(1) != after.argmax(1)).sum()
    view = pictures.guesses_view(before, after, "O my lord")
    readouts = [view.update(place=2, byte=byte) for byte in range(1, 9)]
    assert len({readout.partition("KL ")[2] for readout in readouts}) == 1
    moves = [float(re.search(r"moves by ([-+][\d.]+)", readout)[1]) for readout in readouts]
    likeliest = before[2].argsort()[::-1][:8]
    assert moves == pytest.approx((before - after)[2, likeliest], abs=6e-4) and min(moves) < 0 < max(moves)
    kl = (np.exp(before[2]) * (before - after)[2]).sum()
    assert f"KL {kl:.3f}. {flips} of 9 favorites have changed." in readouts[0]
    assert readouts[0].startswith("After “O ”: if ")
    unmoved = pictures.guesses_view(before, before, "O my lord")
    assert "moves by +0.000; " in unmoved.update(place=2, byte=1) and "0 of 9" in unmoved.update(place=2, byte=1)


# --- six roundings that are equally good ------------------------------------------------------------------------------


def test_other_signs_keep_the_size_of_each_error_and_nothing_else():
    error = torch.randn(40, 60)
    turned = with_signs(error, torch.Generator().manual_seed(0))
    assert torch.equal(turned.abs(), error.abs())
    assert 0.45 < (turned == error).float().mean() < 0.55
    assert not torch.equal(turned, with_signs(error, torch.Generator().manual_seed(1)))


def test_the_loss_on_plays_hangs_on_the_signs_and_the_rest_does_not():
    """The page once took one lot, the worst of six, for the rule: "with other signs they do"."""
    arms = load_results("signs")["arms"]
    lots = [arms[f"signs {lot}"] for lot in range(6)]
    plays, addresses = ([one[text]["loss_added"] for one in lots] for text in ("plays", "addresses"))
    assert plays[0] == max(plays) > 0.02 and min(plays) < -0.005
    assert sum(abs(added) < 0.01 for added in plays) >= 3  # not a rule in either direction
    assert 0.009 < min(addresses) and max(addresses) < 0.014
    for text, low, high in (("plays", 0.028, 0.033), ("addresses", 0.011, 0.013)):
        kl = [arm[text]["kl"] for arm in arms.values()]
        assert len(kl) == 7 and low < min(kl) and max(kl) < high
    assert all(abs(one["addresses"]["kl"] - one["addresses"]["loss_added"]) < 0.0025 for one in lots)


# --- the exercise whose search might never end ------------------------------------------------------------------------


def without_a_guard(bits, budget, scale_bits):
    size = 1
    while bits + scale_bits / size > budget:
        size *= 2
    return size


def test_a_search_without_an_end_is_told_so_and_not_begun():
    """The page's own solution once ran for ever where the codes alone take the budget."""
    assert check.smallest_block.reference(4, 4, 32) == check.smallest_block.reference(4, 3, 32) == 0
    begin = time.thread_time()
    with pytest.raises(WrongAnswer, match="no block fits, because the codes alone take the whole budget"):
        check.smallest_block(without_a_guard)
    assert time.thread_time() - begin < 5
