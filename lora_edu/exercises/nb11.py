"""The checks of notebook 11, the variants of LoRA."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.factors import mistakes
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.nb11_tables import suspects

__all__ = ["beside", "dora_weight", "plain_lora", "suspects", "vera_weight"]

# --- 11.1: VeRA ------------------------------------------------------------------------------------------------------


def _vera_layers() -> list[tuple]:
    """Cases (W, A, B, d, b): A and B are larger than the layer, and no side equals another."""
    cases = []
    for seed, (d_in, d_out, rank, widest, tallest) in enumerate([(5, 7, 3, 9, 11), (8, 4, 2, 10, 6)]):
        rng = np.random.default_rng(seed)
        shapes = ((d_out, d_in), (rank, widest), (tallest, rank), (rank,), (d_out,))
        cases.append(tuple(rng.normal(size=shape) for shape in shapes))
    return cases


def _vera(form: Callable) -> Callable:
    """A form of (W, the part of A, the part of B, d as a column, b as a column)."""
    return lambda W, A, B, d, b: form(W, A[:, : W.shape[1]], B[: len(W)], d[:, None], b[:, None])


def _vera_told(solution: Callable, *case) -> Any:
    """What it returns; for shapes that do not fit, which they are."""
    try:
        return solution(*case)
    except ValueError as error:
        W, A, B = case[:3]
        text = str(error)
        if (f"{A.shape[1]}" in text and f"{W.shape[1]}" in text) or (f"{len(B)}" in text and f"{len(W)}" in text):
            return (
                f"A has {A.shape[1]} columns and B has {len(B)} rows, for the widest layer of the model. W is "
                f"{len(W)} x {W.shape[1]}: take the first {W.shape[1]} columns of A and the first {len(W)} rows of B."
            )
        if "broadcast" in text:
            return (
                "the shapes do not fit: d has one number for each row of A, b one for each row of B. Multiply rows: "
                "`d[:, None] * A`."
            )
        raise


def _vera_explained(result: Any, W, A, B, d, b) -> str:
    """The shape; how often W and the update are in it; or what stands between B and A."""
    if isinstance(result, str):
        return result
    array = as_array(result)
    if array is None:
        return ""
    if array.shape != W.shape:
        return f"the result should be (d_out, d_in) = {W.shape}, the shape of W, and yours is {array.shape}."
    A, B = A[:, : W.shape[1]], b[:, None] * B[: len(W)]
    parts = np.stack([W.ravel(), (B * d @ A).ravel()], axis=1)
    of_W, of_update = np.linalg.lstsq(parts, array.ravel(), rcond=None)[0]
    if np.allclose(parts @ (of_W, of_update), array.ravel()):
        return f"yours is {of_W:.3g} times W plus {of_update:.3g} times diag(b) B diag(d) A. Each should be there once."
    middle = np.linalg.pinv(B) @ (array - W) @ np.linalg.pinv(A)  # (r, r): should be diag(d)
    if not np.allclose(B @ middle @ A, array - W):
        return ""
    return (
        f"W, A, B and b are right, and something else than diag(d) stands between B and A: where d is "
        f"{np.round(d, 3).tolist()}, yours is {np.round(np.diag(middle), 3).tolist()}."
    )


vera_weight = Exercise(
    "11.1",
    _vera(lambda W, A, B, d, b: W + (b * B) @ (d * A)),
    _vera_layers(),
    {
        "this leaves the vectors out. A and B are random and frozen: d and b are all that is trained.": (
            _vera(lambda W, A, B, d, b: W + B @ A)
        ),
        "d is missing. It multiplies the rows of A, one number for each.": _vera(lambda W, A, B, d, b: W + (b * B) @ A),
        "b is missing. It multiplies the rows of B, one number for each.": _vera(lambda W, A, B, d, b: W + B @ (d * A)),
        "this is the update alone. W is missing.": _vera(lambda W, A, B, d, b: (b * B) @ (d * A)),
        "this subtracts the update.": _vera(lambda W, A, B, d, b: W - (b * B) @ (d * A)),
        "this multiplies W with the update. The two are added.": _vera(lambda W, A, B, d, b: W * ((b * B) @ (d * A))),
        "this is transposed: the shape of W, (d_out, d_in), is asked for.": (
            _vera(lambda W, A, B, d, b: (W + (b * B) @ (d * A)).T)
        ),
        "this divides by the rank. VeRA has no alpha / rank: d and b set the size.": (
            _vera(lambda W, A, B, d, b: W + (b * B) @ (d * A) / len(A))
        ),
        "this adds the vectors. They multiply the rows.": _vera(lambda W, A, B, d, b: W + (b + B) @ (d + A)),
        "b multiplies W too. It stands before B alone.": _vera(lambda W, A, B, d, b: b * (W + B @ (d * A))),
        "d is there twice. It multiplies the rows of A (or, which is the same, the columns of B): not both.": (
            _vera(lambda W, A, B, d, b: W + (b * B * d.T) @ (d * A))
        ),
        "this takes the last columns of A and the last rows of B. Every layer takes the first ones.": (
            lambda W, A, B, d, b: W + (b[:, None] * B[-len(W) :]) @ (d[:, None] * A[:, -W.shape[1] :])
        ),
        "this takes the last columns of A. Every layer takes the first ones.": (
            lambda W, A, B, d, b: W + (b[:, None] * B[: len(W)]) @ (d[:, None] * A[:, -W.shape[1] :])
        ),
        "this takes the last rows of B. Every layer takes the first ones.": (
            lambda W, A, B, d, b: W + (b[:, None] * B[-len(W) :]) @ (d[:, None] * A[:, : W.shape[1]])
        ),
        "b is squared.": _vera(lambda W, A, B, d, b: W + (b * b * B) @ (d * A)),
        "this divides by d. It multiplies the rows of A.": _vera(lambda W, A, B, d, b: W + (b * B) @ (A / d)),
        "this divides by b. It multiplies the rows of B.": _vera(lambda W, A, B, d, b: W + (B / b) @ (d * A)),
        "this has W twice.": _vera(lambda W, A, B, d, b: 2 * W + (b * B) @ (d * A)),
        "this turns d around: its first number belongs to the first row of A.": (
            _vera(lambda W, A, B, d, b: W + (b * B) @ (d[::-1] * A))
        ),
        "this turns b around: its first number belongs to the first row of B.": (
            _vera(lambda W, A, B, d, b: W + (b[::-1] * B) @ (d * A))
        ),
        "this uses the norms of d and b, one number each. Each row of A and of B has a number of its own.": (
            _vera(lambda W, A, B, d, b: W + np.linalg.norm(b) * np.linalg.norm(d) * B @ A)
        ),
        "this uses the means of d and b, one number each. Each row of A and of B has a number of its own.": (
            _vera(lambda W, A, B, d, b: W + b.mean() * d.mean() * B @ A)
        ),
    },
    observe=_vera_told,
    explain=_vera_explained,
)

# --- 11.3: DoRA ------------------------------------------------------------------------------------------------------


def _dora_layers() -> list[tuple]:
    """Cases (W, A, B, m, alpha): no side equals another, alpha is never the rank, m is no row's length."""
    cases = []
    for seed, (d_in, d_out, rank, alpha) in enumerate([(5, 7, 2, 8.0), (8, 4, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        W, A, B = (rng.normal(size=shape) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
        cases.append((W, A, B, rng.uniform(0.5, 3, size=d_out), alpha))
    return cases


def _length(M, axis=1):
    return np.sqrt((M * M).sum(axis=axis, keepdims=True))


def _dora(form: Callable) -> Callable:
    """A form of (W, the sum W + s B A, m as a column, s B A)."""
    return lambda scale, W, A, B, m, alpha: form(
        W, W + scale(alpha, len(A), len(B), A.shape[1]) * (B @ A), m[:, None],
        scale(alpha, len(A), len(B), A.shape[1]) * (B @ A),
    )  # fmt: skip


def _rows_told(result: Any, W, A, B, m, alpha) -> str:
    """Whether the rows have the right direction, or the right length."""
    array = as_array(result["result"] if isinstance(result, dict) else result)
    if array is None:
        return ""
    if array.shape != W.shape:
        return f"the result should be (d_out, d_in) = {W.shape}, the shape of W, and yours is {array.shape}."
    V = W + alpha / len(A) * B @ A
    lengths = _length(array)[:, 0]
    cosines = (array * V).sum(1) / (lengths * _length(V)[:, 0] + 1e-30)
    if np.allclose(cosines, 1):
        return (
            f"every row has the right direction, and a wrong length: row 0 has {lengths[0]:.4g}, and should have "
            f"m[0] = {m[0]:.4g}."
        )
    if np.allclose(lengths, m):
        return "every row has the right length, m, and a wrong direction: it is that of a row of W + (alpha / r) B A."
    return (
        f"row 0 has length {lengths[0]:.4g}, where m[0] is {m[0]:.4g}, and its cosine with row 0 of "
        f"W + (alpha / r) B A is {cosines[0]:.3f}, where it should be 1."
    )


dora_weight = Exercise(
    "11.3",
    lambda W, A, B, m, alpha: m[:, None] * (W + alpha / len(A) * B @ A) / _length(W + alpha / len(A) * B @ A),
    _dora_layers(),
    mistakes(
        {
            "": _dora(lambda W, V, m, u: m * V / _length(V)),
            "this divides by the length of the rows of W. The direction is that of the sum, so divide by its length.": (
                _dora(lambda W, V, m, u: m * V / _length(W))
            ),
            "this normalizes columns. A row of the weight makes one output: m has one number for each row.": (
                _dora(lambda W, V, m, u: m * V / _length(V, 0))
            ),
            "the length is missing: multiply each row by its m.": _dora(lambda W, V, m, u: V / _length(V)),
            "nothing is normalized: divide each row by its length before you multiply by m.": (
                _dora(lambda W, V, m, u: m * V)
            ),
        }
    )
    | {
        "this divides by the norm of the whole matrix. Each row has a length of its own.": (
            lambda W, A, B, m, alpha: (
                m[:, None] * (W + alpha / len(A) * B @ A) / np.linalg.norm(W + alpha / len(A) * B @ A)
            )
        ),
        "this is W + s B A, LoRA's weight. DoRA gives each row the length m.": (
            lambda W, A, B, m, alpha: W + alpha / len(A) * B @ A
        ),
        "this normalizes W alone and adds the update afterwards. The sum is normalized.": (
            lambda W, A, B, m, alpha: m[:, None] * W / _length(W) + alpha / len(A) * B @ A
        ),
        "this normalizes the update alone. The sum of W and the update is normalized.": (
            lambda W, A, B, m, alpha: W + m[:, None] * (B @ A) / _length(B @ A)
        ),
        "this leaves W out: the direction is that of W + s B A.": (
            lambda W, A, B, m, alpha: m[:, None] * (B @ A) / _length(B @ A)
        ),
        "this leaves the update out: the direction is that of W + s B A.": (
            lambda W, A, B, m, alpha: m[:, None] * W / _length(W)
        ),
        "this divides by the square of the length: take the root.": (
            lambda W, A, B, m, alpha: (
                m[:, None] * (W + alpha / len(A) * B @ A) / _length(W + alpha / len(A) * B @ A) ** 2
            )
        ),
        "this takes the sum of magnitudes for the length. The length is the root of the sum of squares.": (
            lambda W, A, B, m, alpha: (
                m[:, None] * (W + alpha / len(A) * B @ A) / np.abs(W + alpha / len(A) * B @ A).sum(1, keepdims=True)
            )
        ),
        "this takes the largest magnitude for the length, as quantization does. The length is the root of the sum of "
        "squares.": (
            lambda W, A, B, m, alpha: (
                m[:, None] * (W + alpha / len(A) * B @ A) / np.abs(W + alpha / len(A) * B @ A).max(1, keepdims=True)
            )
        ),
        "this subtracts the update.": (
            lambda W, A, B, m, alpha: m[:, None] * (W - alpha / len(A) * B @ A) / _length(W - alpha / len(A) * B @ A)
        ),
    },
    explain=_rows_told,
)

# --- 11.4: PiSSA beside the unchanged W ------------------------------------------------------------------------------


def _pissa_cases() -> list[tuple]:
    """Cases (A, B, A0, B0)."""
    cases = []
    for seed, (d_in, d_out, rank) in enumerate([(5, 7, 2), (8, 4, 3)]):
        rng = np.random.default_rng(seed)
        shapes = ((rank, d_in), (d_out, rank))
        cases.append(tuple(rng.normal(size=shape) for shape in (*shapes, *shapes)))
    return cases


def _product_of(solution: Callable, A, B, A0, B0) -> Any:
    """The update that the two factors make, and their rank."""
    made = solution(A, B, A0, B0)
    if made is ... or made is None:
        return made
    if not isinstance(made, tuple | list) or len(made) != 2:
        return "return two factors, the new A and the new B."
    new_A, new_B = map(as_array, made)
    if new_A is None or new_B is None or new_A.ndim != 2 or new_B.ndim != 2:
        return "return two matrices, the new A and the new B."
    rank, d_in, d_out = len(A), A.shape[1], len(B)
    if (new_A.shape[1] == d_out and len(new_B) == d_in) or new_A.shape == (d_out, 2 * rank):
        return "A and B have changed places: return the new A first, (2r, d_in), then the new B, (d_out, 2r)."
    if new_A.shape == (rank, 2 * d_in) or new_B.shape == (2 * d_out, rank):
        return "this joins along the wrong side. A grows by rows (axis 0), B by columns (axis 1): the ranks add up."
    if new_A.shape == (rank, d_in) and new_B.shape == (d_out, rank):
        return (
            "the rank has stayed r, and a difference of two products of rank r has rank 2r. (A - A0 and B - B0 have "
            "cross terms when they are multiplied.) Put the factors side by side."
        )
    if new_A.shape != (2 * rank, d_in) or new_B.shape != (d_out, 2 * rank):
        return f"the new A should be (2r, d_in) = {(2 * rank, d_in)}, the new B (d_out, 2r) = {(d_out, 2 * rank)}; " + (
            f"yours are {new_A.shape} and {new_B.shape}."
        )
    return {"the update, new B times new A": new_B @ new_A}


plain_lora = Exercise(
    "11.4",
    lambda A, B, A0, B0: (np.concatenate([A, A0]), np.concatenate([B, -B0], axis=1)),
    _pissa_cases(),
    {
        "this adds the start (or has a minus in both of its factors). What was learned is B A - B0 A0.": (
            lambda A, B, A0, B0: (np.concatenate([A, A0]), np.concatenate([B, B0], axis=1))
        ),
        "this is the other way round: what was learned is B A - B0 A0.": (
            lambda A, B, A0, B0: (np.concatenate([A0, A]), np.concatenate([B0, -B], axis=1))
        ),
        "the factors are joined in different orders, so that B meets A0 and B0 meets A.": (
            lambda A, B, A0, B0: (np.concatenate([A0, A]), np.concatenate([B, -B0], axis=1))
        ),
        "this multiplies differences, (B - B0)(A - A0), which has cross terms. What was learned is B A - B0 A0.": (
            lambda A, B, A0, B0: (np.concatenate([A - A0, A - A0]), np.concatenate([B - B0, 0 * B], axis=1))
        ),
        "this is what was trained, twice. The start is missing: B A - B0 A0.": (
            lambda A, B, A0, B0: (np.concatenate([A, A]), np.concatenate([B, B], axis=1))
        ),
        "this is B A alone, on the unchanged W. There, what PiSSA started with, B0 A0, would be counted twice.": (
            lambda A, B, A0, B0: (np.concatenate([A, A0]), np.concatenate([B, 0 * B0], axis=1))
        ),
    },
    observe=_product_of,
)
