"""The NumPy layer against torch and against central differences; the gradient check against wrong gradients."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from lora_edu import lora, lora_numpy
from lora_edu.lora_numpy import Linear, LoRALinear, gradient_check

X = np.random.default_rng(1).normal(size=(5, 12))
GRAD_Y = np.random.default_rng(2).normal(size=(5, 20))


def adapted(rank=3, alpha=12.0):
    """A layer that is not square, with alpha != rank and a B that is not zero."""
    rng = np.random.default_rng(0)
    layer = LoRALinear(rng.normal(size=(20, 12)), rank, alpha, rng)
    layer.lora_B += rng.normal(size=layer.lora_B.shape)
    return layer


def test_equals_the_torch_layer_in_output_and_gradients():
    ours = adapted()
    theirs = lora.LoRALinear(nn.Linear(12, 20, bias=False, dtype=torch.float64), rank=3, alpha=12.0)
    theirs.base.weight.data = torch.tensor(ours.weight)
    theirs.lora_A.data, theirs.lora_B.data = torch.tensor(ours.lora_A), torch.tensor(ours.lora_B)
    x = torch.tensor(X, requires_grad=True)
    y = theirs(x)
    y.backward(torch.tensor(GRAD_Y))
    expected = y.detach(), theirs.lora_A.grad, theirs.lora_B.grad, x.grad
    for result, reference in zip((ours.forward(X), *ours.backward(X, GRAD_Y)), expected, strict=True):
        assert np.allclose(result, reference.numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layer", [adapted(), Linear(np.random.default_rng(3).normal(size=(20, 12)))])
def test_the_gradient_check_passes_for_each_parameter_and_leaves_it_as_it_was(layer):
    for parameter, gradient in zip(layer.parameters(), layer.backward(X, GRAD_Y), strict=False):
        kept = parameter.copy()
        assert gradient_check(lambda: (np.tanh(layer.forward(X)) * GRAD_Y).sum(), parameter, 0 * gradient) == 1
        assert gradient_check(lambda: (layer.forward(X) * GRAD_Y).sum(), parameter, gradient) < 1e-6
        assert np.array_equal(parameter, kept)


@pytest.mark.parametrize("factor", [0.25, 3, -1, 1.001])
def test_the_gradient_check_finds_a_wrong_factor(factor):
    layer = adapted()
    grad_A, *_ = layer.backward(X, GRAD_Y)
    error = gradient_check(lambda: (layer.forward(X) * GRAD_Y).sum(), layer.lora_A, factor * grad_A)
    assert error > 5e-4


def test_the_gradient_check_refuses_what_would_mislead():
    with pytest.raises(ValueError, match="needs float64: in float32"):
        gradient_check(lambda: 0.0, np.zeros((2, 3), dtype=np.float32), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"the gradient has shape \(3, 2\), its parameter \(2, 3\)"):
        gradient_check(lambda: 0.0, np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(TypeError, match="needs arrays"):
        gradient_check(lambda: 0.0, [1.0], [1.0])
    assert gradient_check(lambda: 1.0, np.zeros((2, 3)), np.zeros((2, 3))) == 0


def test_a_fresh_adapter_changes_nothing_and_its_base_is_never_copied_or_changed():
    weight = np.random.default_rng(4).normal(size=(20, 12))
    kept = weight.copy()
    layer = LoRALinear(weight, rank=3, alpha=12, rng=np.random.default_rng(0))
    assert np.array_equal(layer.forward(X), Linear(weight).forward(X))
    assert np.abs(layer.lora_A).max() <= 12**-0.5 and np.abs(layer.lora_A).min() > 0
    for _ in range(3):
        for parameter, gradient in zip(layer.parameters(), layer.backward(X, GRAD_Y), strict=False):
            parameter -= 0.1 * gradient
    assert layer.weight is weight and np.array_equal(weight, kept)
    assert not np.allclose(layer.forward(X), Linear(weight).forward(X))


def test_numpy_is_all_it_needs():
    source = inspect.getsource(lora_numpy)
    assert "torch" not in source and "lora_edu" not in source
