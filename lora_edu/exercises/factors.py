"""What exercises share whose answer is a sum of products times factors: y = W x + s B A x, and its gradients.

A wrong answer there is mostly a wrong *form*, a wrong *scaling*, or one of each (`mistakes`). What is none of them is
taken apart: its axes, how often each part is in it, and what its rows are combinations of.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_edu.exercises.describing import as_array

# The factor that belongs there, alpha / rank, and others that are written for it.
SCALINGS = {
    "": lambda alpha, rank, d_out, d_in: alpha / rank,
    "the scaling alpha / rank is missing.": lambda alpha, rank, d_out, d_in: 1,
    "this scales by alpha. The update is scaled by alpha / rank.": lambda alpha, rank, d_out, d_in: alpha,
    "this divides by the rank but leaves alpha out.": lambda alpha, rank, d_out, d_in: 1 / rank,
    "`alpha // rank` rounds down to a whole number: use `/`.": lambda alpha, rank, d_out, d_in: alpha // rank,
    "this multiplies by the rank. The scaling is alpha / rank.": lambda alpha, rank, d_out, d_in: alpha * rank,
    "this has the scaling upside down: it is alpha / rank.": lambda alpha, rank, d_out, d_in: rank / alpha,
    "this has s = alpha / rank once too often.": lambda alpha, rank, d_out, d_in: (alpha / rank) ** 2,
    "this divides by the root of the rank, as the variant rsLoRA does. LoRA divides by the rank.": (
        lambda alpha, rank, d_out, d_in: alpha / rank**0.5
    ),
    "this divides by d_out, the number of rows of B. The rank is the number of its columns, and of the rows of A.": (
        lambda alpha, rank, d_out, d_in: alpha / d_out
    ),
    "this divides by d_in, the number of columns of A. The rank is the number of its rows, and of the columns of B.": (
        lambda alpha, rank, d_out, d_in: alpha / d_in
    ),
}


def mistakes(forms: dict[str, Callable], scalings: dict[str, Callable] = SCALINGS) -> dict[str, Callable]:
    """Every form with every scaling but the right one with the right one; the right form and scaling have no sentence.

    A form is a function of the scaling and of the exercise's own arguments.
    """
    named = {}
    for (form, make), (scaling, scale) in product(forms.items(), scalings.items()):
        if form or scaling:
            sentence = f"{form} Also: {scaling}" if form and scaling else form or scaling
            named[sentence] = lambda *case, make=make, scale=scale: make(scale, *case)
    return named


def explained(wanted: str, look: Callable[..., tuple[dict, dict]]) -> Callable:
    """Says of a result that is no known mistake which axes it has, or how much it holds of each part.

    wanted: the shape that the result should have, in words. look(*case): the sizes by name, and the parts by name:
    an array of the right shape, and how often it should be in the result.
    """

    def explain(result: Any, *case) -> str:
        array, (sizes, parts) = as_array(result["result"] if isinstance(result, dict) else result), look(*case)
        if array is None:
            return ""
        shape = next(iter(parts.values()))[0].shape
        if array.shape != shape:
            axes = {size: name for name, size in sizes.items() if name != "alpha"}
            got = f"({', '.join(str(axes.get(size, size)) for size in array.shape)})" if array.ndim else "one number"
            return f"the result should be {wanted}, and yours is {got}."
        columns = np.stack([part.ravel() for part, _ in parts.values()], axis=1)
        found = np.linalg.lstsq(columns, array.ravel(), rcond=None)[0]
        if np.abs(columns @ found - array.ravel()).max() > 1e-8 * np.abs(array).max():
            return ""
        yours, right = (
            " + ".join(f"{number + 0:.4g} times {name}" for name, number in zip(parts, numbers, strict=True))
            for numbers in (np.round(found, 9), [number for _, number in parts.values()])
        )
        setting = f"with alpha = {sizes['alpha']:g} and rank = {sizes['rank']}"
        return f"the factors are wrong: {setting} yours is {yours}; it should be {right}.".replace("+ -", "- ")

    return explain


def other_form(wanted: str, last: str, look: Callable[..., tuple[NDArray | float, NDArray]]) -> Callable:
    """Says of a result that no factor makes right whether its rows are combinations of those of the last factor.

    look(*case): what the result holds besides the product, and the product's last factor.
    """

    def otherwise(result: Any, *case) -> str:
        besides, factor = look(*case)
        rows = as_array(result["result"] if isinstance(result, dict) else result)
        if rows is None or rows.shape[1:] != factor.shape[1:]:
            return ""
        rows = rows - besides
        mixed = np.linalg.lstsq(factor.T, rows.T, rcond=None)[0].T @ factor
        if np.abs(mixed - rows).max() > 1e-6 * np.abs(rows).max():
            return f"the last factor of {wanted} is {last}, and the rows of yours are no combinations of its rows."
        return (
            f"the rows are combinations of those of {last}, as in {wanted}, but others: look at what stands before it."
        )

    return otherwise
