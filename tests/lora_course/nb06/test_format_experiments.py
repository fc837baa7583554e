"""The experiment with the formats: its pieces on a tiny model, and what is stored."""

import copy

import pytest
import torch
from torch.nn.functional import mse_loss

from lora_course.nb06.lab import rounding
from lora_course.running.scoreboard import change_linears
from lora_edu import nf_codebook, quantize
from lora_edu.measures import relative_error
from lora_edu.observing import block_linears, layer_inputs
from lora_edu.rounding import lloyd_max


@pytest.fixture
def normal():
    return torch.randn(2**18, generator=torch.Generator().manual_seed(5))


def test_lloyd_max_lowers_the_squared_error_by_five_percent(normal):
    fitted = lloyd_max(torch.randn(2**18, generator=torch.Generator().manual_seed(0)), nf_codebook(4))
    errors = [mse_loss(normal, quantize(normal, code).dequantize()) for code in (nf_codebook(4), fitted)]
    assert 0.045 < 1 - errors[1] / errors[0] < 0.065  # facts: 5.4%
    assert {-1.0, 0.0, 1.0} <= set(fitted.tolist()) and bool((fitted.diff() > 0).all())


def test_lloyd_max_leaves_a_level_that_nobody_uses_where_it_is():
    values = torch.tensor([1.0, 0.25, 0.35, -1.0])
    start = torch.tensor([-1.0, -0.6, 0.0, 0.2, 1.0])
    assert lloyd_max(values, start, block_size=4, rounds=3).tolist() == pytest.approx([-1, -0.6, 0, 0.3, 1])


def test_only_the_linear_layers_of_the_blocks_are_rounded(tiny_gpt):
    before = {name: value.clone() for name, value in tiny_gpt.state_dict().items()}
    inputs = layer_inputs(tiny_gpt, torch.arange(40, dtype=torch.uint8), length=32)
    errors = change_linears(tiny_gpt, rounding(0, nf_codebook(4), 16), inputs)
    linear = {f"blocks.{path}.weight" for path in block_linears(tiny_gpt)}
    changed = {name for name, value in tiny_gpt.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == linear and len(linear) == 6 * tiny_gpt.config.n_layers
    for name in linear:
        expected = quantize(before[name], "nf4", 16).dequantize()
        assert torch.allclose(tiny_gpt.state_dict()[name], expected, atol=1e-7)
    flat = [torch.cat([state[name].flatten() for name in sorted(linear)]) for state in (before, tiny_gpt.state_dict())]
    assert errors["weight_error"] == pytest.approx(relative_error(*flat), rel=1e-4)
    assert 0 < errors["output_error"] < 0.3


def test_a_shift_is_another_draw_of_the_same_size(tiny_gpt):
    inputs = layer_inputs(tiny_gpt, torch.arange(40, dtype=torch.uint8), length=32)
    weights, errors = [], []
    for shift in (0, 4, 8, 12):
        model = copy.deepcopy(tiny_gpt)
        errors.append(change_linears(model, rounding(shift, nf_codebook(4), 16), inputs)["weight_error"])
        weights.append(model.blocks[0].mlp.up_proj.weight.detach())
    assert not torch.equal(weights[0], weights[2])
    assert max(errors) < 1.1 * min(errors)
