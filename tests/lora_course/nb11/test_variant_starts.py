"""Starts on a rounded base: each repair does what it promises, for the weights or for the outputs."""

import pytest
import torch

from lora_edu.measures import relative_error
from lora_edu.variants import largest_directions, loftq_start, qpissa_start, repair_seen, round_weight, square_roots


@pytest.fixture
def weight():
    """A weight whose singular values decay, and inputs that live mostly in a few directions."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.diag(0.9 ** torch.arange(64.0))
    W = torch.randn(48, 64, generator=generator) @ decay + 0.05 * torch.randn(48, 64, generator=generator)
    inputs = torch.randn(500, 64, generator=generator) @ torch.diag(torch.linspace(3, 0.05, 64))
    return W, inputs


def repaired(start):
    Q, B, A = start
    return Q + B @ A


def qera_start(W, rank, codebook, inputs):
    Q = round_weight(W, codebook)
    return Q, *repair_seen(W - Q, rank, inputs)


def test_repairs_do_what_they_promise(weight):
    W, x = weight
    for codebook in ("nf4", "nf2"):
        none = round_weight(W, codebook)
        svd, loftq = (repaired(loftq_start(W, 4, codebook, rounds)) for rounds in (1, 5))
        qera, qpissa = repaired(qera_start(W, 4, codebook, x)), repaired(qpissa_start(W, 4, codebook))
        assert relative_error(W, svd) < relative_error(W, none)
        of_outputs = [relative_error(x @ W.T, x @ start.T) for start in (qera, none, svd)]
        assert of_outputs[0] < min(of_outputs[1:])
        assert relative_error(W, qera) > relative_error(W, svd)  # the SVD is best for the weights
        assert relative_error(W, qpissa) < relative_error(W, none)
        assert torch.linalg.matrix_rank(svd - none) == torch.linalg.matrix_rank(qera - none) == 4
        assert codebook == "nf2" or relative_error(W, loftq) < relative_error(W, svd)


def test_qera_with_inputs_that_prefer_nothing_is_the_svd(weight):
    W, _ = weight
    x = 8 * torch.eye(64)
    assert torch.allclose(repaired(qera_start(W, 4, "nf4", x)), repaired(loftq_start(W, 4, "nf4", 1)), atol=1e-5)


def test_square_roots():
    x = torch.randn(300, 20)
    R = x.T @ x / len(x)
    root, inverse = square_roots(R)
    assert torch.allclose(root @ root, R, atol=1e-5) and torch.allclose(root @ inverse, torch.eye(20), atol=1e-4)
    unused = torch.diag(torch.tensor([1.0, 2.0, 0.0]))  # a direction that no input has
    assert all(part.isfinite().all() for part in square_roots(unused))


def test_the_largest_directions_are_the_nearest_matrix_of_the_rank(weight):
    W, _ = weight
    B, A = largest_directions(W, 5)
    values = torch.linalg.svdvals(W)
    assert torch.allclose((W - B @ A).norm(), values[5:].norm(), rtol=1e-4)
