"""Notebook 05: its first screen, its pictures, and that it goes on without MiniLM, the network that is fetched."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import code_cell

from lora_edu import downloads, load_base, quantize
from lora_edu.downloads import DownloadError
from lora_edu.experiments import load_results
from lora_edu.experiments.nb05 import LONGER, WAYS, cut_layer, cut_only, with_row_gains
from lora_edu.figures import nb05 as pictures
from lora_edu.figures import plots
from lora_edu.measures import relative_error
from lora_edu.observing import block_linears
from lora_edu.quantization import unpack
from lora_edu.rounding import best_length, block_codes, round_clipped, round_in_blocks

OTHERS = ("flipped", "elsewhere")


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


@pytest.mark.parametrize("shared", pictures.SHARED)
def test_the_outlier_slider_at_every_setting(block, shared):
    view = pictures.outlier_view(block)
    errors = []
    for size in range(1, 41):
        readout = view.update(size=size, shared=shared)
        errors.append(int(re.search(r"error (\d+)%", readout)[1]))
        back = view.values(size=size, shared=shared)["back"]
        assert back[pictures.PLACE] == pytest.approx(size, rel=1e-5) or size < 3
    assert errors[0] < 15 and errors[-1] == (100 if shared == pictures.ONE_CONSTANT else 53)


def test_the_outlier_hurts_its_neighbors_and_not_itself(block):
    view = pictures.outlier_view(block)
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


def test_clipping_halves_the_error_of_the_weights_and_saves_no_loss():
    arms = load_results("shared-constants")["arms"]
    draws = {way: [arms[f"{way}, draw {draw}"] for draw in range(4)] for way in WAYS}
    error = {way: np.mean([arm["weight_error"] for arm in found]) for way, found in draws.items()}
    losses = {way: np.array([arm["loss"] for arm in found]) for way, found in draws.items()}
    one, clipped, row, blocks = WAYS
    assert error[clipped] < error[one] / 2 + 0.01 and error[clipped] < error[row]
    assert losses[one].min() < losses[clipped].mean() + 0.01 and losses[clipped].min() > losses[row].max() + 0.02
    assert losses[row].min() > losses[blocks].max()
    assert min(arms[f"one, clipped, {k} times as long"]["loss"] for k in LONGER) > losses[row].max() + 0.01


@pytest.fixture(scope="module")
def cuts():
    """How far off the outputs are, and the added loss, of a cut and what is held beside it: an array for all draws."""
    arms = load_results("shared-constants")["arms"]
    whole = load_results("scoreboard")["arms"]["as shipped"]["loss"]

    def draws(way):
        found = [arms[name] for name in (way, *(f"{way}, draw {k}" for k in range(3))) if name in arms]
        return np.array([arm["output_error"] for arm in found]), np.array([arm["loss"] for arm in found]) - whole

    return draws


def test_errors_of_a_cut_s_sizes_cost_less_with_other_signs_or_at_other_weights(cuts):
    (off, cut), (flipped_off, flipped), (elsewhere_off, elsewhere) = (cuts(way) for way in ("cut", *OTHERS))
    assert len(flipped) == len(elsewhere) == 3
    assert max(*flipped_off, *elsewhere_off) < 0.8 * off
    assert max(elsewhere) < min(flipped) < max(flipped) < cut / 6


def test_adding_up_in_the_outputs_explains_a_quarter_of_a_cut(cuts):
    """The page once said that it is why a cut is dear."""
    (off, cut), (blown_off, blown), (outward_off, outward) = (cuts(way) for way in ("cut", "blown up", "outward"))
    assert len(blown) == 3 and np.allclose([*blown_off, *outward_off], off, rtol=0.05)
    assert max(blown) < cut / 3 and blown.mean() == pytest.approx(cut / 4, rel=0.1) and 0.4 * cut < outward < 0.6 * cut


def test_a_gain_a_row_gives_half_of_a_cut_back_and_hardly_any_to_the_control(cuts):
    off, cut = cuts("cut")
    mended_off, mended = cuts("cut, a gain a row")
    blown_off, blown = cuts("blown up")
    control_off, control = cuts("blown up, a gain a row")
    assert len(mended) == len(control) == 3
    assert max(mended_off) < 0.7 * off and 0.4 * cut < min(mended) < max(mended) < 0.55 * cut
    assert max(control_off / blown_off) < 0.8 and min(control / blown) > 0.85


def test_the_outputs_do_not_set_the_loss_either(cuts):
    arms = load_results("shared-constants")["arms"]
    whole = load_results("scoreboard")["arms"]["as shipped"]["loss"]
    rows = [arms[f"an absmax a row, draw {k}"] for k in range(4)]
    off, flipped = cuts("flipped")
    assert np.mean([arm["output_error"] for arm in rows]) == pytest.approx(off.mean(), rel=0.05)
    assert np.mean([arm["loss"] for arm in rows]) - whole > 3 * flipped.mean()


def test_a_gain_a_row_is_found_from_the_outputs():
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(8, 64, generator=generator), torch.randn(200, 64, generator=generator)
    sizes = torch.linspace(0.5, 2, 8)[:, None]
    assert torch.allclose(with_row_gains(weight, sizes * weight, inputs), weight, atol=1e-5)


def test_blown_up_errors_put_the_outputs_off_as_a_cut_does():
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(64, 64, generator=generator), torch.randn(200, 64, generator=generator) + 1
    off = {way: inputs @ (cut_layer(weight, inputs, way, 0) - weight).T for way in ("cut", "flipped", "blown up")}
    size = {way: found.norm().item() for way, found in off.items()}
    assert size["blown up"] == pytest.approx(size["cut"], rel=1e-4) != pytest.approx(size["flipped"], rel=1e-2)
    outward = cut_layer(weight, inputs, "outward") - weight
    assert torch.allclose(outward, weight - cut_only(weight, "cut"), atol=1e-6)


def test_what_is_off_beside_a_cut():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    off = {way: cut_only(weight, way, 0) - weight for way in ("cut", *OTHERS)}
    sizes = {way: found.abs().flatten().sort().values for way, found in off.items()}
    largest = weight.abs() > best_length(weight, 4) * weight.abs().max()
    assert torch.equal(off["cut"] != 0, largest) and torch.equal(off["flipped"] != 0, largest)
    assert torch.allclose(sizes["flipped"], sizes["cut"], atol=1e-6)
    assert torch.allclose(sizes["elsewhere"], sizes["cut"], atol=1e-6)
    assert 0.2 < (off["flipped"][largest] * off["cut"][largest] > 0).float().mean() < 0.8
    assert ((off["elsewhere"] != 0) & largest).sum() < largest.sum() / 2
    assert (off["elsewhere"] * weight <= 0).all() and (off["cut"] * weight <= 0).all()


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
