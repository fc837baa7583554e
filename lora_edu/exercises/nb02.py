"""The checks of notebook 02, LoRA in NumPy.

A wrong answer is mostly a wrong form, a wrong scaling, or both: the mistakes are every form with every scaling.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_edu.exercises.factors import SCALINGS, explained, mistakes, other_form
from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "first_step", "grad_A", "grad_gate", "merged_weight"]

SCALINGS_TWICE = {
    "": lambda alpha, rank, d_out, d_in: (alpha / rank) ** 2,
    "this has s once. It stands in the gradient of B, and once more in the update s B A.": SCALINGS[""],
    "this leaves s out. It stands in the gradient of B, and once more in the update s B A.": (
        lambda alpha, rank, d_out, d_in: 1
    ),
    "this scales by alpha. The factor is s = alpha / rank, squared.": lambda alpha, rank, d_out, d_in: alpha**2,
    "this has alpha once, and no rank. The factor is s = alpha / rank, squared.": (
        lambda alpha, rank, d_out, d_in: alpha
    ),
    "`alpha // rank` rounds down to a whole number: use `/`.": lambda alpha, rank, d_out, d_in: (alpha // rank) ** 2,
    "this squares only one half of s = alpha / rank.": lambda alpha, rank, d_out, d_in: alpha**2 / rank,
    "this divides by d_in, the number of columns of A. The rank is the number of its rows.": (
        lambda alpha, rank, d_out, d_in: (alpha / d_in) ** 2
    ),
}


def _cases(*names: str) -> list[tuple]:
    """Random cases: alpha is never the rank, and no two sides are equal."""
    cases = []
    for seed, (batch, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 11, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        shapes = {
            "x": (batch, d_in),
            "grad_output": (batch, d_out),
            "grad_weight": (d_out, d_in),
            "weight": (d_out, d_in),
            "lora_A": (rank, d_in),
            "lora_B": (d_out, rank),
        }
        values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        values |= {"alpha": alpha, "lr": (0.1, 0.03)[seed]}
        cases.append(tuple(values[name] for name in names))
    return cases


# --- the gradient of A ------------------------------------------------------------------------------------------------


def _of_A(form: Callable[[NDArray, NDArray, NDArray], NDArray]) -> Callable:
    """A form of the gradient of A from x, g and s B, or a part of it."""
    return lambda scale, x, g, B, alpha: form(x, g, scale(alpha, B.shape[1], len(B), x.shape[1]) * B)


grad_A = Exercise(
    "2.1",
    lambda x, g, B, alpha: alpha / B.shape[1] * (g @ B).T @ x,
    _cases("x", "grad_output", "lora_B", "alpha"),
    mistakes(
        {
            "": _of_A(lambda x, g, sB: (g @ sB).T @ x),
            "this averages over the batch. The gradient of the output contains the average already: sum the rows.": (
                _of_A(lambda x, g, sB: (g @ sB).T @ x / len(x))
            ),
            "this is the transpose. A gradient has the shape of its parameter, (rank, d_in).": (
                _of_A(lambda x, g, sB: x.T @ (g @ sB))
            ),
            "the sign is wrong. The gradient points uphill; only the step goes against it.": (
                _of_A(lambda x, g, sB: -(g @ sB).T @ x)
            ),
            "this is the gradient of A x, one row per input. One more step: each entry of A meets one entry of x.": (
                _of_A(lambda x, g, sB: g @ sB)
            ),
            "this sums the batch before the product. Multiply row by row first: the product with x sums the batch.": (
                _of_A(lambda x, g, sB: np.outer((g @ sB).sum(0), x.sum(0)))
            ),
            "this is G, the gradient of the full weight. The chain rule goes on through B.": (
                lambda scale, x, g, B, alpha: scale(alpha, B.shape[1], len(B), x.shape[1]) * g.T @ x
            ),
        }
    ),
    explain=explained(
        "(rank, d_in), the shape of A",
        lambda x, g, B, alpha: (
            {"batch": len(x), "d_in": x.shape[1], "d_out": len(B), "rank": B.shape[1], "alpha": alpha},
            {"B^T G": (B.T @ g.T @ x, alpha / B.shape[1])},
        ),
    ),
    otherwise=other_form("B^T (dL/dy)^T x", "x", lambda x, g, B, alpha: (0.0, x)),
)


# --- the gradient of a gate -------------------------------------------------------------------------------------------


def _of_gate(form: Callable[[NDArray, NDArray], NDArray]) -> Callable:
    """A form of the gates' gradient from A x and s B^T g, both (batch, rank)."""
    return lambda scale, x, g, A, B, alpha: form(x @ A.T, scale(alpha, len(A), len(B), x.shape[1]) * g @ B)


grad_gate = Exercise(
    "2.2",
    lambda x, g, A, B, alpha: alpha / len(A) * ((x @ A.T) * (g @ B)).sum(axis=0),
    _cases("x", "grad_output", "lora_A", "lora_B", "alpha"),
    mistakes(
        {
            "": _of_gate(lambda low, up: (low * up).sum(axis=0)),
            "this averages over the batch. The gradient of the output contains the average already: sum the rows.": (
                _of_gate(lambda low, up: (low * up).mean(axis=0))
            ),
            "this keeps the rows of the batch apart. They share the gates: sum over the batch.": (
                _of_gate(lambda low, up: low * up)
            ),
            "this sums over the components. Each has its own gate: sum over the batch.": (
                _of_gate(lambda low, up: (low * up).sum(axis=1))
            ),
            "this sums over everything. Each component has its own gate: sum over the batch only.": (
                _of_gate(lambda low, up: (low * up).sum())
            ),
            "this pairs every component with every other, B^T G A^T. A gate meets its own component: the diagonal.": (
                _of_gate(lambda low, up: up.T @ low)
            ),
            "this pairs every component with every other, A G^T B. A gate meets its own component: the diagonal.": (
                _of_gate(lambda low, up: low.T @ up)
            ),
            "this adds up all pairs of components. A gate meets its own component only: the diagonal.": (
                _of_gate(lambda low, up: (up.T @ low).sum(axis=1))
            ),
            "this sums the batch before the product. Multiply A x and B^T g row by row, then sum.": (
                _of_gate(lambda low, up: low.sum(axis=0) * up.sum(axis=0))
            ),
            "the sign is wrong. The gradient points uphill; only the step goes against it.": (
                _of_gate(lambda low, up: -(low * up).sum(axis=0))
            ),
            "this leaves the input out: a gate's gradient holds A x too.": _of_gate(lambda low, up: up.sum(axis=0)),
            "this leaves the gradient of the output out: a gate's gradient holds B^T g too.": (
                lambda scale, x, g, A, B, alpha: scale(alpha, len(A), len(B), x.shape[1]) * (x @ A.T).sum(axis=0)
            ),
        }
    ),
    explain=explained(
        "(rank,), one number for each component",
        lambda x, g, A, B, alpha: (
            {"batch": len(x), "d_in": x.shape[1], "d_out": len(B), "rank": len(A), "alpha": alpha},
            {"the diagonal of B^T G A^T": (((x @ A.T) * (g @ B)).sum(axis=0), alpha / len(A))},
        ),
    ),
    otherwise=lambda *case: "no factor makes this right. Gate k needs (B^T g)_k times (A x)_k, summed over the batch.",
)


# --- merging ----------------------------------------------------------------------------------------------------------


def _of_merge(form: Callable[[NDArray, NDArray], NDArray]) -> Callable:
    """A form of the merged weight from W and s B A."""
    return lambda scale, W, A, B, alpha: form(W, scale(alpha, len(A), len(B), A.shape[1]) * B @ A)


def _in_place(W: NDArray, update: NDArray) -> NDArray:
    W += update
    return W


KEPT = "the weight that was given stays as it was"


def _merged(solution: Callable, W: NDArray, *factors) -> Any:
    """The result, and whether the given weight is still what it was."""
    kept = W.copy()
    result = solution(W, *factors)
    if result is ... or result is None:
        return result
    return {KEPT: np.array_equal(W, kept), "result": result}


merged_weight = Exercise(
    "2.3",
    lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
    _cases("weight", "lora_A", "lora_B", "alpha"),
    mistakes(
        {
            "": _of_merge(lambda W, update: W + update),
            "this is the update alone. Merging adds it to the weight.": _of_merge(lambda W, update: update),
            "this subtracts the update. That is how an adapter is taken out again.": (
                _of_merge(lambda W, update: W - update)
            ),
            "this is the transpose of the merged weight. A weight has the shape (d_out, d_in).": (
                _of_merge(lambda W, update: (W + update).T)
            ),
            "this multiplies the weight and the update entry by entry. Merging adds.": (
                _of_merge(lambda W, update: W * update)
            ),
            "this changes the weight that was given: `weight += ...` works in place. The frozen base is lost then, and "
            "a second merge adds the update twice. Return a new array.": _of_merge(_in_place),
        }
    )
    | {"this is the weight without the update. Merging adds s B A.": lambda W, A, B, alpha: W},
    observe=_merged,
    explain=explained(
        "(d_out, d_in)",
        lambda W, A, B, alpha: (
            {"d_out": len(W), "d_in": A.shape[1], "rank": len(A), "alpha": alpha},
            {"W": (W, 1), "B A": (B @ A, alpha / len(A))},
        ),
    ),
    otherwise=other_form("the update B A", "A", lambda W, A, B, alpha: (W, A)),
)


# --- the first step ---------------------------------------------------------------------------------------------------


def _of_step(form: Callable[[NDArray, NDArray, float], NDArray]) -> Callable:
    """A form of the first step from s^2 G, A and the learning rate."""
    return lambda scale, G, A, alpha, lr: form(scale(alpha, len(A), len(G), A.shape[1]) * G, A, lr)


first_step = Exercise(
    "2.4",
    lambda G, A, alpha, lr: -lr * (alpha / len(A)) ** 2 * G @ A.T @ A,
    _cases("grad_weight", "lora_A", "alpha", "lr"),
    mistakes(
        {
            "": _of_step(lambda G, A, lr: -lr * G @ A.T @ A),
            "the sign is wrong: a step goes against the gradient.": _of_step(lambda G, A, lr: lr * G @ A.T @ A),
            "the learning rate is missing.": _of_step(lambda G, A, lr: -G @ A.T @ A),
            "the learning rate and the sign are missing: a step is -lr times the gradient.": (
                _of_step(lambda G, A, lr: G @ A.T @ A)
            ),
            "the learning rate stands in twice. B takes one step.": _of_step(lambda G, A, lr: -(lr**2) * G @ A.T @ A),
            "this is the transpose. The weight has the shape (d_out, d_in).": (
                _of_step(lambda G, A, lr: (-lr * G @ A.T @ A).T)
            ),
            "this is the gradient of B. It takes a step, and the update of the weight is s B A.": (
                _of_step(lambda G, A, lr: G @ A.T)
            ),
            "A moves as well here. In the first step it does not: its gradient is multiplied by B, which is zero.": (
                _of_step(lambda G, A, lr: -2 * lr * G @ A.T @ A)
            ),
        },
        SCALINGS_TWICE,
    )
    | {
        "this is the step of full fine-tuning. LoRA sees G through A only.": lambda G, A, alpha, lr: -lr * G,
        "this is the new B. The update of the weight is s B A.": (
            lambda G, A, alpha, lr: -lr * alpha / len(A) * G @ A.T
        ),
        "nothing moves here. With B = 0 the gradient of A is zero, but that of B is not.": (
            lambda G, A, alpha, lr: np.zeros_like(G)
        ),
    },
    explain=explained(
        "(d_out, d_in)",
        lambda G, A, alpha, lr: (
            {"d_out": len(G), "d_in": A.shape[1], "rank": len(A), "alpha": alpha},
            {"G": (G, 0), "G A^T A": (G @ A.T @ A, -lr * (alpha / len(A)) ** 2)},
        ),
    ),
    otherwise=other_form("G A^T A", "A", lambda G, A, alpha, lr: (0.0, A)),
)
