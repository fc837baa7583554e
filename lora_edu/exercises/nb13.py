"""The checks of notebook 13: is a difference luck, one batch for many adapters, and a sentence of one's own."""

import numpy as np

from lora_edu.exercises import cards
from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "many_adapters", "own_sentence", "standard_errors"]

# --- 13.1: two classifiers on the same test --------------------------------------------------------------------------


def _only(one, other):
    """How many items only the first got right, and how many only the second."""
    one, other = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    return float((one & ~other).sum()), float((other & ~one).sum())


def _paired(one, other, over=lambda b, c: np.sqrt(b + c), top=lambda b, c: b - c):
    b, c = _only(one, other)
    return top(b, c) / over(b, c) if b + c else 0.0


def _unpaired(one, other, pooled=False):
    n, p, q = len(one), np.mean(one), np.mean(other)
    both = (p + q) / 2
    variance = 2 * both * (1 - both) / n if pooled else (p * (1 - p) + q * (1 - q)) / n
    return (p - q) / np.sqrt(variance) if variance else 0.0


def _difference(one, other):
    return np.mean(one) - np.mean(other)


def _by_deviation(one, other, ddof=0, root=True):
    gaps = np.asarray(one, float) - np.asarray(other, float)
    spread = gaps.std(ddof=ddof)
    if not spread:
        return 0.0
    return gaps.mean() / spread * (np.sqrt(len(gaps)) if root else 1)


def _tests():
    """Two rows of 0 and 1 each; in the last two nobody differs."""
    cases = []
    for seed, (n, p, q) in enumerate([(40, 0.8, 0.6), (55, 0.55, 0.75), (30, 0.9, 0.5)]):
        rng = np.random.default_rng(seed)
        cases.append(((rng.random(n) < p).astype(int), (rng.random(n) < q).astype(int)))
    same = np.random.default_rng(9).integers(0, 2, 25)
    return [*cases, (same, same.copy())]


standard_errors = Exercise(
    "13.1",
    _paired,
    _tests(),
    {
        "this takes the two tests for independent. They share their verses: where both are right or both wrong, "
        "nothing is learned about the difference. Count b and c.": _unpaired,
        "this takes the two tests for independent, with one accuracy for both. They share verses: count b and c.": (
            lambda one, other: _unpaired(one, other, pooled=True)
        ),
        "the sign is the wrong way round: positive if the first is better.": lambda one, other: -_paired(one, other),
        "this is the size without its sign. Positive means that the first is better, negative that the second is.": (
            lambda one, other: abs(_paired(one, other))
        ),
        "the root is missing: the standard error of b - c is the root of b + c.": (
            lambda one, other: _paired(one, other, over=lambda b, c: b + c)
        ),
        "this is the square of what is asked for (McNemar's test). Take the root, and keep the sign.": (
            lambda one, other: _paired(one, other) ** 2
        ),
        "this is the difference of the two accuracies. Divide it by its standard error.": _difference,
        "this is b - c, a difference of counts. How many standard errors is it?": (
            lambda one, other: _paired(one, other, over=lambda b, c: 1.0)
        ),
        "this divides by the root of all verses. Those where both agree do not count.": (
            lambda one, other: _paired(one, other, over=lambda b, c: np.sqrt(len(one)))
        ),
        "this has McNemar's correction, a 1 taken off b - c. Leave it out here.": (
            lambda one, other: _paired(one, other, top=lambda b, c: np.sign(b - c) * max(0.0, abs(b - c) - 1))
        ),
        "this is right up to a detail: it divides by the spread of the differences around their mean. If there is no "
        "difference, each verse in b or c counts 1: the root of b + c.": _by_deviation,
        "this is right up to a detail: it divides by the spread (n - 1) of the differences around their mean. If there "
        "is no difference, each verse in b or c counts 1: the root of b + c.": (
            lambda one, other: _by_deviation(one, other, ddof=1)
        ),
        "this is the mean over the spread. The standard error of a mean is the spread over the root of n.": (
            lambda one, other: _by_deviation(one, other, root=False)
        ),
        "this is 0 wherever the second is better. Let it be negative there.": (
            lambda one, other: max(0.0, _paired(one, other))
        ),
        "this adds b and c where their difference is asked for.": (
            lambda one, other: _paired(one, other, top=lambda b, c: b + c)
        ),
        "this divides by the root of b alone. Both kinds of verses can fall either way: b + c.": (
            lambda one, other: _paired(one, other, over=lambda b, c: np.sqrt(max(b, 1)))
        ),
        "this takes the difference of the two rows of right answers as b, those of both included: b counts verses that "
        "only the first got right.": lambda one, other: (
            (np.sum(one) - np.sum(other)) / np.sqrt(max(1, np.sum(one) + np.sum(other)))
        ),
        "this is nan where nobody differs: no difference is 0 standard errors.": (
            lambda one, other: _paired(one, other) if sum(_only(one, other)) else np.nan
        ),
    },
    symptoms={
        "where both agree on every verse the answer is 0. Guard the division.": (
            lambda got, one, other: bool(np.isnan(got).any() or np.isinf(got).any())
        ),
        "this is far too large for so few verses: the standard error of b - c is the root of b + c.": (
            lambda got, one, other: bool(np.abs(got).max() > len(one) ** 0.5)
        ),
    },
)

# --- 13.2: one base, one batch, many adapters ------------------------------------------------------------------------


def _served(x, W, A, B, which, alpha, s=None, pick=None, base=1.0):
    """pick: (n,) which adapter each row really gets; base: what stands before x W^T."""
    s = alpha / A.shape[1] if s is None else s
    pick = which if pick is None else pick
    branch = np.stack([B[k] @ (A[k] @ row) for row, k in zip(x, pick, strict=True)])
    return base * (x @ W.T) + s * branch


def _summed(x, W, A, B, which, alpha, mean=False):
    everything = sum(B[k] @ A[k] for k in range(len(A))) / (len(A) if mean else 1)
    return x @ (W + alpha / A.shape[1] * everything).T


def _averaged(x, W, A, B, which, alpha):
    return x @ (W + alpha / A.shape[1] * B.mean(0) @ A.mean(0)).T


def _sorted(x, W, A, B, which, alpha):
    order = np.argsort(which, kind="stable")
    return _served(x[order], W, A, B, which[order], alpha)


def _batches():
    """Cases (x, W, A, B, which, alpha): four adapters, none used in order, one of them never."""
    cases = []
    for seed, (n, d_out, d_in, r, alpha) in enumerate([(6, 5, 7, 2, 6.0), (9, 4, 6, 3, 4.0)]):
        rng = np.random.default_rng(seed)
        which = rng.permutation([3, 0, 1, 3, 0, 1, 3, 1, 0][:n])
        sizes = ((n, d_in), (d_out, d_in), (4, r, d_in), (4, d_out, r))
        cases.append((*(rng.normal(size=size) for size in sizes), which, alpha))
    return cases


many_adapters = Exercise(
    "13.2",
    _served,
    _batches(),
    {
        "alpha is not divided by the rank: s = alpha / r.": lambda *case: _served(*case, s=case[-1]),
        "the scaling is missing: s = alpha / r stands before B A x.": lambda *case: _served(*case, s=1.0),
        "alpha is divided by the number of adapters. The rank is the second axis of A.": (
            lambda *case: _served(*case, s=case[-1] / len(case[2]))
        ),
        "alpha is divided by d_in. The rank is the second axis of A, its last is d_in.": (
            lambda *case: _served(*case, s=case[-1] / case[2].shape[2])
        ),
        "the scaling is the wrong way round: it is alpha / r, not r / alpha.": (
            lambda *case: _served(*case, s=case[2].shape[1] / case[-1])
        ),
        "every row gets adapter 0. Row i gets adapter which[i].": (
            lambda *case: _served(*case, pick=np.zeros(len(case[0]), int))
        ),
        "row i gets adapter i here (modulo their number). It gets adapter which[i].": (
            lambda *case: _served(*case, pick=np.arange(len(case[0])) % len(case[2]))
        ),
        "every row gets the adapter of the first row.": (
            lambda *case: _served(*case, pick=np.full(len(case[0]), case[4][0]))
        ),
        "every row gets the adapter of the last row.": (
            lambda *case: _served(*case, pick=np.full(len(case[0]), case[4][-1]))
        ),
        "`which` is sorted, and the rows of x are not: they get each other's adapters.": (
            lambda *case: _served(*case, pick=np.sort(case[4]))
        ),
        "this takes row which[i] of x. Every row of x comes once: which[i] chooses the adapter.": (
            lambda *case: _served(case[0][case[4]], *case[1:])
        ),
        "adapters are used in the reverse of `which`.": lambda *case: _served(*case, pick=case[4][::-1]),
        "every row gets the sum of all adapters. Row i gets adapter which[i] alone.": _summed,
        "every row gets the mean of all adapters. Row i gets adapter which[i] alone.": (
            lambda *case: _summed(*case, mean=True)
        ),
        "this averages the A and the B of all adapters. Row i gets adapter which[i] alone.": _averaged,
        "the rows are in the order of their adapters. Hand them back in the order in which they came.": _sorted,
        "the base is missing: x W^T, once for all rows.": lambda *case: _served(*case, base=0.0),
        "this is the base alone: the adapters are missing.": lambda *case: _served(*case, s=0.0),
        "the base is in it as often as there are adapters. It is computed once.": (
            lambda *case: _served(*case, base=float(len(case[2])))
        ),
        "the base is counted twice.": lambda *case: _served(*case, base=2.0),
        "the base is scaled with s too. s stands before the branch only.": (
            lambda *case: _served(*case, base=case[-1] / case[2].shape[1])
        ),
        "the branch is subtracted. It is added.": lambda *case: _served(*case, s=-case[-1] / case[2].shape[1]),
        "the scaling is in it twice.": lambda *case: _served(*case, s=(case[-1] / case[2].shape[1]) ** 2),
    },
)

# --- a sentence of one's own -----------------------------------------------------------------------------------------

PARTS = ("sentence", "number", "settings", "control", "verdict")


def own_sentence(mine: dict | None) -> None:
    """Say what is missing of a sentence, its number, the settings, the control, the verdict: in this order."""
    if mine is None:
        return cards.show(cards.OPEN, "no sentence yet")
    missing = [part for part in PARTS if not str(mine.get(part) or "").strip()]
    if "verdict" not in missing and "control" in missing:
        return cards.show(
            cards.WRONG, "a verdict without a control: in which setting must the number come out otherwise?"
        )
    if missing:
        return cards.show(cards.OPEN, f"still to write: {missing[0]}")
    if not any(letter.isdigit() for letter in str(mine["control"])):
        return cards.show(cards.WRONG, "the control names no number: which value would make you change your verdict?")
    cards.show(cards.RIGHT, "sentence, number, settings, control, and then the verdict: now measure it")
