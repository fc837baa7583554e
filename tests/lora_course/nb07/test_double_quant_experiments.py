"""Double quantization, measured: errors by their sources, and what is stored of the loss."""

import pytest
import torch

from lora_course.nb07 import lab as dq
from lora_course.nb07.lab import CONSTANTS, error_by_source, normal_weights, rounded_constants
from lora_edu.quantization import DoubleQuant, quantize


@pytest.mark.parametrize("how", [DoubleQuant(), DoubleQuant("e4m3", 16, False), DoubleQuant("nf4", 64)])
def test_the_constants_are_rounded_as_the_package_does(how):
    weight = normal_weights(48 * 100)
    exact, stored = quantize(weight, "nf4", 64), quantize(weight, "nf4", 64, how)
    mine = rounded_constants(exact.absmax, how.code, how.block_size, how.subtract_mean)
    assert torch.allclose(mine, stored.block_scales(), rtol=1e-6)


@pytest.mark.parametrize("source", ["codes", "constants", "both"])
def test_the_error_of_layers_counts_all_weights_together(source):
    """Not the mean of the layers' errors, and the last block of a layer included."""
    layers = [normal_weights(64 * 40 - 7), 3 * normal_weights(64 * 20, 1)]
    for change in CONSTANTS.values():
        squares = [(error_by_source(weight, change, 32)[source] * weight.norm()) ** 2 for weight in layers]
        whole = sum(squares) / sum(weight.norm() ** 2 for weight in layers)
        assert dq.error_of_layers(layers, change, block_size=32)[source] == pytest.approx(whole.item() ** 0.5, rel=1e-4)
