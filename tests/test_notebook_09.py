"""Notebook 09: what its sentences lean on, its film, its figures, and a training that is stopped."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from lora_edu import add_lora, quantize_linears
from lora_edu.experiments import finetune, libraries, load_results, nb00
from lora_edu.experiments import nb09 as experiment
from lora_edu.experiments.sweeps import paired
from lora_edu.figures import nb09 as pictures
from lora_edu.figures import nb09_quality as quality
from lora_edu.lora import lora_layers
from lora_edu.measures import cosine
from lora_edu.qlora import DecodedLinear
from lora_edu.quantization import quantize, unpack
from lora_edu.training import History

RUNS = experiment.quality_runs()
PATH = Path(__file__).parent.parent / "notebooks" / "09_qlora_gpt.ipynb"


@pytest.fixture(scope="module")
def page():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def film():
    return load_results("qlora-film")["arms"]["120 steps"]


@pytest.fixture(scope="module")
def arms():
    return load_results("qlora-quality")["arms"]


# --- the film --------------------------------------------------------------------------------------------------------


def test_everything_moves_but_the_codes(film):
    frames = film["frames"]
    assert [frame["step"] for frame in frames] == list(experiment.FILM_STEPS)
    assert len({frame["codes"] for frame in frames}) == 1
    assert len({frame["adapters"] for frame in frames}) == len({frame["sample"] for frame in frames}) == len(frames)
    assert frames[-1]["plays"] < frames[0]["plays"] - 1 and frames[-1]["addresses"] > frames[0]["addresses"] + 0.2
    assert not np.any(frames[0]["B"])


def test_the_codes_that_are_shown_are_those_of_the_shipped_base(film):
    layer = finetune.prepared(experiment.load_base("laptop", device="cpu"), "qlora")
    shown = lora_layers(layer)[film["layer"]].base
    assert film["codes"] == experiment.corner_codes(shown)
    assert film["frames"][0]["codes"] == experiment.checksum(experiment.codes_of(layer))


def test_the_film_of_a_tiny_model(in_small, monkeypatch):
    in_small(experiment, finetune)
    monkeypatch.setattr(experiment, "FILM_LAYER", "blocks.0.attention.q_proj")
    monkeypatch.setattr(experiment, "CORNER", 8)
    monkeypatch.setattr(nb00, "SAMPLING", {"max_new_tokens": 3})
    monkeypatch.setattr(nb00, "surprise", lambda model, text: np.zeros(3))
    made = experiment.film(recipe={"steps": 10, "batch_size": 2}, progress=False)
    assert [frame["step"] for frame in made["frames"]] == [0, 5, 10]
    assert len({frame["codes"] for frame in made["frames"]}) == 1
    assert len(made["codes"]) == len(made["codes"][0]) == 8


# --- the layer -------------------------------------------------------------------------------------------------------


def test_the_weight_is_decoded_once_each_way(monkeypatch):
    quantized, times = quantize(torch.randn(20, 64), "nf4"), []
    decode = type(quantized)._decode_into
    monkeypatch.setattr(type(quantized), "_decode_into", lambda self, flat: times.append(1) or decode(self, flat))
    y = DecodedLinear.apply(torch.randn(3, 64, requires_grad=True), quantized, None)
    assert len(times) == 1
    y.sum().backward()
    assert len(times) == 2


# --- what the sentences lean on --------------------------------------------------------------------------------------


def test_qlora_and_lora_are_within_the_noise_of_the_seeds():
    lora, qlora = (experiment.of(RUNS, method, "all plays").at_best() for method in ("lora", "qlora"))
    pairs = [q - one for q, one in zip(qlora, lora, strict=True)]
    assert all(0 < pair < 0.002 for pair in pairs) and max(lora) - min(lora) > 10 * max(pairs)
    signs = {gap > 0 for gap in paired(*(experiment.of(RUNS, method, "20 kB") for method in ("qlora", "lora")))}
    assert signs == {True, False}


def test_on_plays_the_two_differ_less_than_two_draws_and_on_addresses_by_what_nf4_costs():
    arms = load_results("nf4-draws")["arms"]
    plays, addresses = (experiment.rises(arms, text, "columns") for text in ("plays", "addresses"))
    for text in experiment.TEXT_SIZES:
        assert max(map(abs, gaps(text, "loss"))) < (max(plays) - min(plays)) / 2
    assert min(gaps("all plays", "addresses")) > 0
    assert abs(np.mean(gaps("all plays", "addresses")) - np.mean(addresses)) < 0.002


def test_on_addresses_qlora_is_behind_after_20_kB_by_more_than_any_draw_costs():
    """The page once drew and named one amount of text only, "near what rounding costs"."""
    draws, behind = load_results("nf4-draws")["arms"], gaps("20 kB", "addresses")
    assert min(behind) > 0 and np.mean(behind) == pytest.approx(0.0099, abs=1e-4)
    drawn = {text: experiment.rises(draws, text, "columns") for text in ("plays", "addresses")}
    assert np.mean(behind) > 1.2 * max(drawn["addresses"])
    figure, words = quality.pairs_figure(RUNS, drawn)
    assert "on addresses, trained on 20 kB +0.0099" in words and "after 20 kB on average by more than any draw" in words
    assert len(figure.axes[0].get_yticklabels()) == 4


def test_on_plays_qlora_began_at_the_worst_of_sixteen_draws_and_ends_less_behind_than_draws_differ():
    """The pairs start from one draw, not from the band of all of them."""
    first, draws = (load_results(name)["arms"] for name in ("qlora-quality", "nf4-draws"))
    rises = experiment.rises(draws, "plays") + experiment.rises(draws, "plays", "columns")
    began = first["nf4, not trained"]["before"] - first["lora, not trained"]["before"]
    assert began == pytest.approx(max(rises), abs=1e-4) == pytest.approx(0.0115, abs=1e-4)
    ended = gaps("all plays", "loss")
    assert min(ended) > 0 and np.mean(ended) == pytest.approx(0.001, abs=5e-4)
    assert max(ended) < np.std(rises, ddof=1)


def gaps(text, measured):
    """QLoRA minus LoRA, seed by seed."""
    ends = (experiment.of(RUNS, method, text).at_best(measured) for method in ("qlora", "lora"))
    return [q - one for q, one in zip(*ends, strict=True)]


@pytest.mark.parametrize(("size", "largest", "cosines"), [(0.01, 0.01, (0, 0.2)), (0.1, 0.6, (0.5, 0.95))])
def test_a_small_update_is_lost_when_it_is_rounded_again(size, largest, cosines):
    generator = torch.Generator().manual_seed(0)
    rounded = quantize(torch.randn(256, 256, generator=generator), "nf4")
    push = torch.randn(256, 8, generator=generator) @ torch.randn(8, 256, generator=generator)
    push *= size * rounded.dequantize().norm() / push.norm()
    again = quantize(rounded.dequantize() + push, "nf4")
    moved = (unpack(again.codes, 16) != unpack(rounded.codes, 16)).float().mean()
    assert moved < largest
    assert cosines[0] < cosine(again.dequantize() - rounded.dequantize(), push) < cosines[1]


@pytest.mark.skipif(bool(libraries.missing()), reason="transformers, PEFT or bitsandbytes is not installed")
def test_the_libraries_build_the_same_model():
    assert all(libraries.compare().values())


# --- figures, and a training that was stopped ------------------------------------------------------------------------


def test_a_stopped_training_is_drawn_and_said():
    history = History(train_loss=[2.9], validation_loss=[(0, 2.77)], interrupted=True, steps=150)
    _, words = pictures.training(history.train_loss, history.validation_loss, {"base": 2.76, "base in NF4": 2.77})
    assert "it learns" not in words and "in 1 steps" in words
    assert history.stopped == "stopped after 1 of 150 steps"


def test_every_promise_about_training_is_kept_back_for_a_stopped_one(page):
    """The cells from the training on assert nothing of what only a whole run gives."""
    cells = [cell.source for cell in page.cells if cell.cell_type == "code"]
    first = next(i for i, source in enumerate(cells) if "history = train(" in source)
    for source in cells[first : first + 8]:
        for line in source.splitlines():
            if line.lstrip().startswith("assert") and ('loss["QLoRA"]' in line or "moved" in line or "cosines" in line):
                assert "history.stopped or" in line, line


def test_the_pushes_are_counted(tiny_gpt):
    model = add_lora(quantize_linears(tiny_gpt), rank=2, alpha=4, targets="all-linear")
    layer = lora_layers(model)["blocks.0.mlp.up_proj"].requires_grad_(False)
    layer.lora_B.normal_()
    _, words = pictures.pushes(layer, {2.0: (), 1e-6: ()})
    assert "0 at 0% of W′" in words and "Of a block of 64" in words
    layer.lora_B.zero_()  # as after a training that was stopped before its first step
    _, words = pictures.pushes(layer, {1.0: ()})
    assert "crossed by 0 at" in words


def test_nf4_costs_on_addresses_and_on_plays_no_draw_is_the_cost():
    arms = load_results("nf4-draws")["arms"]
    for way in ("shift", "columns"):
        plays, addresses = (np.array(experiment.rises(arms, text, way)) for text in ("plays", "addresses"))
        error = plays.std(ddof=1) / len(plays) ** 0.5
        assert len(plays) == 8 and abs(plays.mean()) < 2.4 * error  # 2.4: t of 8 draws, 95%
        assert addresses.min() > 0.004 and addresses.mean() == pytest.approx(0.0065, abs=1e-4)


def test_begun_elsewhere_many_errors_are_others_and_with_permuted_columns_most():
    """The page once took the shifts for independent draws: "every rounding error is another"."""
    weight = experiment.load_base("laptop", device="cpu").blocks[1].mlp.up_proj.weight.detach()
    order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(0))
    ours, shifted = (experiment.rounding(shift, "nf4", 64)(weight) for shift in (0, 16))
    permuted = quantize(weight[:, order], "nf4", 64).dequantize()[:, order.argsort()]
    others = [(draw != ours).float().mean() for draw in (shifted, permuted)]
    assert 0.35 < others[0] < 0.6 and others[1] > 0.7


@pytest.mark.parametrize(("name", "how"), [("shift 16", (16,)), ("columns permuted, seed 1", (0, 1))])
def test_a_stored_draw_can_be_made_again(name, how):
    assert experiment.drawn(*how) == pytest.approx(load_results("nf4-draws")["arms"][name], abs=1e-3)
