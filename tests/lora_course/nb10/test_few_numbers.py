"""Few numbers (notebook 10): what is trained, where each way starts, and what the page says of the stored runs."""

import pytest
import torch

from lora_course.nb10 import lab_few as few
from lora_course.nb10 import lab_few_runs as records
from lora_course.running import finetune
from lora_course.running.sweeps import SEEDS
from lora_edu.training import trainable_parameters

GAINS = {lesson: records.shares(lesson) for lesson in records.LESSONS}
SWEPT = [(lesson, way) for lesson in records.LESSONS for way in GAINS[lesson]]


@pytest.mark.parametrize("way", few.WAYS)
def test_each_way_starts_as_the_base_and_moves_all_of_its_numbers(in_small, way):
    base = in_small(few, finetune)
    model, tokens = few.few(way, seed=1), torch.arange(24).view(2, 12)
    assert torch.allclose(model(tokens)[0], base(tokens)[0], atol=1e-5)
    optimizer = torch.optim.Adam(trainable_parameters(model), lr=0.01)
    before = [p.detach().clone() for p in trainable_parameters(model)]
    for _ in range(2):  # LoRA's A waits for B
        model(tokens, tokens)[1].backward()
        optimizer.step()
    assert all((p != old).float().mean() > 0.9 for p, old in zip(trainable_parameters(model), before, strict=True))


def test_the_update_stays_between_the_layer_s_strongest_components():
    layer, x, mixes = torch.nn.Linear(12, 20, bias=False), torch.randn(5, 12), torch.randn(4, 3, 3)
    shared = few.SharedCore(layer, mixes, torch.nn.Parameter(torch.randn(4)))
    U, S, Vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    R = sum(number * mix for number, mix in zip(shared.numbers, mixes, strict=True))
    update = U[:, :3] @ torch.diag(S[:3]) @ R @ Vt[:3]
    assert torch.allclose(shared(x), x @ (layer.weight + update).T, atol=1e-5)


def test_all_layers_share_the_few_numbers_and_mix_them_in_their_own_ways(in_small):
    in_small(few, finetune)
    layers = [m for m in few.few("shared").modules() if isinstance(m, few.SharedCore)]
    assert len(layers) > 1 and len({id(layer.numbers) for layer in layers}) == 1
    assert not torch.equal(layers[0].mixes, layers[1].mixes)
    again = next(m for m in few.few("shared", seed=1).modules() if isinstance(m, few.SharedCore))
    assert not torch.equal(layers[0].mixes, again.mixes)


def test_all_norms_are_trained(in_small):
    base = in_small(few, finetune)
    norms = [layer for layer in base.modules() if isinstance(layer, torch.nn.LayerNorm)]
    trained = sum(p.numel() for p in trainable_parameters(few.few("norms")))
    assert trained == sum(p.numel() for layer in norms for p in layer.parameters())


def test_the_numbers_of_a_way_are_those_that_were_trained():
    runs = records.all_runs("plays")[1]
    assert {run.way: run.numbers for run in runs} == {way: few.WAYS[way] for way in GAINS["plays"]}


@pytest.mark.parametrize(("lesson", "way"), SWEPT)
def test_the_best_rate_lies_inside_of_its_sweep_and_three_seeds_ran_there(lesson, way):
    swept, best = records.all_runs(lesson)[1].where(way=way).sweep(), records.best(lesson, way)
    assert {run.seed for run in best} >= set(SEEDS)
    assert min(swept) < best[0].lr < max(swept)
