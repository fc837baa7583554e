"""LoRA in NumPy: a linear layer with its forward and backward pass by hand, and a check of gradients.

    y = W x + s * B A x        with A: (rank, d_in), B: (d_out, rank), s = alpha / rank

Inputs come in batches, one row each: x is (batch, d_in), y is (batch, d_out). Notebook 02 derives each line.

Source: Hu et al. 2021, "LoRA", arXiv 2106.09685, section 4.1.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray


class Linear:
    """A linear layer without a bias, y = W x, all of whose weight is trained."""

    def __init__(self, weight: NDArray):
        self.weight = weight  # (d_out, d_in)

    def parameters(self) -> tuple[NDArray, ...]:
        """The arrays that training changes, in the order in which `backward` returns their gradients."""
        return (self.weight,)

    def forward(self, x: NDArray) -> NDArray:
        """x: (batch, d_in) -> (batch, d_out)"""
        return x @ self.weight.T

    def backward(self, x: NDArray, grad_output: NDArray) -> tuple[NDArray, ...]:
        """From dL/dy, (batch, d_out): the gradient of the weight, (d_out, d_in), and of x, (batch, d_in)."""
        grad_weight = grad_output.T @ x  # G
        grad_x = grad_output @ self.weight
        return grad_weight, grad_x


class LoRALinear:
    """A frozen weight with an adapter. At the start it computes exactly W x, because B is zero."""

    def __init__(self, weight: NDArray, rank: int, alpha: float, rng: np.random.Generator):
        """weight: (d_out, d_in). Raises ValueError for a rank outside 1 .. min(d_out, d_in) or a bad alpha."""
        check_adapter(weight, rank, alpha)
        d_out, d_in = weight.shape
        self.weight = weight  # frozen: no method changes it
        self.scaling = alpha / rank  # s
        self.lora_A = rng.uniform(-1, 1, size=(rank, d_in)) / np.sqrt(d_in)
        self.lora_B = np.zeros((d_out, rank))

    def parameters(self) -> tuple[NDArray, ...]:
        """The arrays that training changes, in the order in which `backward` returns their gradients."""
        return self.lora_A, self.lora_B

    def forward(self, x: NDArray) -> NDArray:
        """x: (batch, d_in) -> (batch, d_out)"""
        low = x @ self.lora_A.T  # (batch, rank): A x
        return x @ self.weight.T + self.scaling * low @ self.lora_B.T  # W x + s B (A x)

    def backward(self, x: NDArray, grad_output: NDArray) -> tuple[NDArray, ...]:
        """From dL/dy, (batch, d_out): the gradients of A, of B and of x, each of the shape of its array."""
        low = x @ self.lora_A.T  # (batch, rank): A x
        grad_low = self.scaling * grad_output @ self.lora_B  # (batch, rank): s B^T dL/dy
        grad_A = grad_low.T @ x  # s B^T G
        grad_B = self.scaling * grad_output.T @ low  # s G A^T
        grad_x = grad_output @ self.weight + grad_low @ self.lora_A  # (W + s B A)^T dL/dy
        return grad_A, grad_B, grad_x

    def delta_weight(self) -> NDArray:
        """The update of the weight, s * B A: (d_out, d_in). Only merging needs it in full."""
        return self.scaling * self.lora_B @ self.lora_A


def gradient_check(loss: Callable[[], float], parameter: NDArray, gradient: NDArray, step: float = 1e-5) -> float:
    """Compare a gradient with central differences; returns the relative error, below 1e-6 if it is right.

    loss() computes the loss from `parameter`, a float64 array that is nudged in place, entry by entry, and put back.
    Raises ValueError for another type of number or a gradient of another shape.
    """
    check_gradient(parameter, gradient)
    numeric = np.zeros_like(parameter)
    for index in np.ndindex(parameter.shape):
        with nudged(parameter, index, step):
            above = loss()
        with nudged(parameter, index, -step):
            below = loss()
        numeric[index] = (above - below) / (2 * step)
    scale = max(np.linalg.norm(numeric), np.linalg.norm(gradient))
    return float(np.linalg.norm(numeric - gradient) / scale) if scale else 0.0


@contextmanager
def nudged(parameter: NDArray, index: tuple[int, ...], step: float) -> Iterator[None]:
    """One entry of an array, a step away for a while; it is put back after an error too."""
    kept = parameter[index]
    parameter[index] = kept + step
    try:
        yield
    finally:
        parameter[index] = kept


# --- checks --------------------------------------------------------------------------------------------------------


def check_adapter(weight: NDArray, rank: int, alpha: float) -> None:
    """Raises ValueError, in words, for a weight, a rank or an alpha that cannot be."""
    if not isinstance(weight, np.ndarray) or weight.ndim != 2:
        what = f"an array of shape {weight.shape}" if isinstance(weight, np.ndarray) else f"a {type(weight).__name__}"
        raise ValueError(f"the weight must be a matrix (d_out, d_in), got {what}")
    smaller = min(np.shape(weight))
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool) or not 1 <= rank <= smaller:
        shape = "x".join(map(str, np.shape(weight)))
        raise ValueError(f"rank must be between 1 and {smaller} (the smaller side of a {shape} layer), got {rank}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, got {alpha}: the update is scaled by alpha / rank")


def check_gradient(parameter: NDArray, gradient: NDArray) -> None:
    """Raises ValueError, in words, where central differences would mislead."""
    if not isinstance(parameter, np.ndarray) or not isinstance(gradient, np.ndarray):
        raise TypeError("a gradient check needs arrays: np.array(...) makes one of a list")
    if parameter.dtype != np.float64:
        raise ValueError(f"a gradient check needs float64: in {parameter.dtype} the rounding is larger than the nudge")
    if parameter.shape != gradient.shape:
        raise ValueError(f"the gradient has shape {gradient.shape}, its parameter {parameter.shape}")
