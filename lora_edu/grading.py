"""Checks for the exercises in the notebooks. A check that fails says which mistake it recognizes.

An exercise is a reference solution, a few well-known wrong ones with the sentence that helps, and cases that tell them
apart (alpha is never equal to the rank, no matrix is square). The learner's function is run on all cases:

    returns ... (the untouched stub)     prints "Exercise 9.1: not done yet"
    equals the reference                 prints "Exercise 9.1: correct"
    equals a wrong solution              AssertionError with that mistake's sentence
    anything else                        AssertionError with the smallest failing case
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_edu.quantization import nf_codebook

last_result = ""


@dataclass(frozen=True)
class Exercise:
    """One exercise; calling it with the learner's function checks that function."""

    number: str
    reference: Callable
    cases: Sequence[tuple]
    misconceptions: dict[str, Callable] = field(default_factory=dict)  # what to say -> the wrong solution

    def __call__(self, attempt: Callable) -> None:
        results = [self._run(attempt, case) for case in self.cases]
        if all(result is ... or result is None for result in results):
            return self._say("not done yet")
        wrong = [i for i, case in enumerate(self.cases) if not same(results[i], self.reference(*case))]
        if not wrong:
            return self._say("correct")
        for sentence, mistake in self.misconceptions.items():
            if all(same(result, mistake(*case)) for result, case in zip(results, self.cases, strict=True)):
                raise AssertionError(f"Exercise {self.number}: {sentence}")
        case = self.cases[wrong[0]]
        shown = ", ".join(describe(argument) for argument in case)
        raise AssertionError(
            f"Exercise {self.number}: for ({shown}) "
            + difference(self.reference(*case), results[wrong[0]])
        )

    def _run(self, attempt: Callable, case: tuple) -> Any:
        try:
            return attempt(*case)
        except Exception as error:
            shown = ", ".join(describe(argument) for argument in case)
            raise AssertionError(
                f"Exercise {self.number}: your function stopped with {type(error).__name__} ({error}) for ({shown})"
            ) from error

    def _say(self, result: str) -> None:
        global last_result
        last_result = f"Exercise {self.number}: {result}"
        print(last_result)


def beside(my_guess: Any, measured: str) -> None:
    """Print what was measured, and the reader's guess beside it."""
    print(f"measured: {measured}" + ("" if my_guess is None else f"     your guess: {my_guess}"))


def as_array(value: Any) -> np.ndarray | None:
    """A number, list, NumPy array or torch tensor as a float64 array; None for anything else."""
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def same(result: Any, expected: Any) -> bool:
    """Whether two results agree in shape and in every value, up to rounding in float32."""
    result, expected = as_array(result), as_array(expected)
    if result is None or expected is None or result.shape != expected.shape:
        return False
    return bool(np.all(np.abs(result - expected) <= 1e-5 * max(1e-30, np.abs(expected).max(initial=0))))


def difference(expected: Any, result: Any) -> str:
    """The first difference between two results, in words."""
    expected, got = as_array(expected), as_array(result)
    if got is None:
        return f"the result should be numbers, got {type(result).__name__}"
    if got.shape != expected.shape:
        return f"the result should have shape {expected.shape}, got {got.shape}"
    if expected.ndim == 0:
        return f"expected {expected:.6g}, got {got:.6g}"
    index = np.unravel_index(np.argmax(np.abs(got - expected)), expected.shape)
    place = ", ".join(str(i) for i in index)
    return f"entry [{place}] should be {expected[index]:.6g}, got {got[index]:.6g}"


def describe(argument: Any) -> str:
    """An argument in an error message: a number as it is, an array by its shape."""
    array = as_array(argument)
    return repr(argument) if array is None or array.ndim == 0 else f"array of shape {array.shape}"


# --- 00 Start here -------------------------------------------------------------------------------------------------

adapter_numbers = Exercise(
    "0.1",
    lambda in_features, out_features, rank: rank * (in_features + out_features),
    [(256, 256, 8), (256, 1024, 8), (1024, 256, 3), (5, 7, 1)],
    {
        "this is the size of W itself. The adapter stores A and B, and never their product.": lambda i, o, r: i * o,
        "this counts A alone. B, of shape (out_features, rank), is trained too.": lambda i, o, r: r * i,
        "this counts B alone. A, of shape (rank, in_features), is trained too.": lambda i, o, r: r * o,
        "this multiplies the sizes of A and B. They stand side by side: add them.": lambda i, o, r: r * i * r * o,
    },
)

weight_gigabytes = Exercise(
    "0.2",
    lambda parameters, bits: parameters * bits / 8 / 1e9,
    [(7e9, 16), (65e9, 4.127), (3_356_160, 32)],
    {
        "this counts bits. Eight bits make one byte.": lambda p, b: p * b / 1e9,
        "this divides by 2**30, which gives gibibytes. A gigabyte (GB) is 10**9 bytes.": lambda p, b: p * b / 8 / 2**30,
        "this counts bytes. A gigabyte is 10**9 of them.": lambda p, b: p * b / 8,
    },
)

# --- 09 QLoRA ------------------------------------------------------------------------------------------------------

bits_per_weight = Exercise(
    "9.1",
    lambda block_size, second_block_size: 4 + 8 / block_size + 32 / (block_size * second_block_size),
    [(64, 256), (32, 256), (64, 64), (128, 512)],
    {
        "this leaves out the second-level constants: 32 bits for each group of second_block_size blocks.": (
            lambda b, s: 4 + 8 / b
        ),
        "this is the budget without double quantization: the absmax of a block takes 8 bits now, not 32.": (
            lambda b, s: 4 + 32 / b
        ),
        "this shares a second-level constant among second_block_size weights. It is shared among that many blocks.": (
            lambda b, s: 4 + 8 / b + 32 / s
        ),
        "these are the constants alone. The 4-bit code of the weight comes on top.": lambda b, s: 8 / b + 32 / (b * s),
    },
)


def _random_layers() -> list[tuple]:
    """Cases for qlora_output: no side equals another, alpha is never the rank."""
    cases = []
    for seed, (batch, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 12, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        blocks = d_in * d_out // 4
        codes, absmax = rng.integers(0, 16, size=(d_out, d_in)), rng.uniform(0.5, 2.0, size=blocks)
        x, a, b = (rng.normal(size=shape) for shape in ((batch, d_in), (rank, d_in), (d_out, rank)))
        cases.append((x, codes, absmax, a, b, alpha))
    return cases


def _qlora(x, codes, absmax, a, b, alpha, scale=None, weight=None):
    if weight is None:
        weight = _weight(codes, absmax)
    return x @ weight.T + (alpha / len(a) if scale is None else scale) * (x @ a.T @ b.T)


def _weight(codes, absmax):
    values = nf_codebook(4).numpy().astype(np.float64)[codes]
    return (values.reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape)


qlora_output = Exercise(
    "9.2",
    _qlora,
    _random_layers(),
    {
        "this scales the update by alpha. The paper divides alpha by the rank.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=alpha)
        ),
        "this leaves the scaling alpha / rank out.": lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=1),
        "this is the base alone: the branch of the adapter is missing.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=0)
        ),
        "this multiplies with the codes themselves. A code is an index: look its value up in the codebook first.": (
            lambda x, c, m, a, b, alpha: _qlora(
                x, c, m, a, b, alpha, weight=(c.reshape(len(m), -1) * m[:, None]).reshape(c.shape)
            )
        ),
        "this forgets the absmax: the codebook's values lie in [-1, 1], and each block has its own scale.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, np.ones_like(m), a, b, alpha)
        ),
        "this uses one absmax for the whole matrix. Each block of values has its own.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, np.full_like(m, m.max()), a, b, alpha)
        ),
    },
)
