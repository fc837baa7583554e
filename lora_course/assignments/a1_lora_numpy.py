"""Assignment 1: low rank and LoRA in NumPy, from the best two factors to training.

The orientation is that of the texts that write the update as A B^T: a weight is (d_in, d_out), one input per row, and

    y = x W + s * (x A) B^T      with A: (d_in, rank), B: (d_out, rank), s = alpha / rank**power
"""

import numpy as np

from lora_course.assignments.core import Task
from lora_course.assignments.looking import Complaint, array, call, done, in_order, observed
from lora_course.assignments.verdict import ELSEWHERE

TITLE = "Low rank and LoRA in NumPy"


def draw(rng) -> dict:
    return {
        "energy": rng.choice([0.8, 0.85, 0.9, 0.95]),  # 1.1: the share of the energy to keep
        "share": rng.choice([0.25, 0.6, 0.75]),  # 1.2: the exponent of a singular value that A gets
        "power": rng.choice([0.75, 1.25, 1.5]),  # 1.3 on: s = alpha / rank**power
        "gain": rng.choice([0.5, 2.0, 3.0]),  # 1.3: A starts between -gain / sqrt(d_in) and +gain / sqrt(d_in)
        "ratio": rng.choice([2, 4, 8]),  # 1.4: how much larger the learning rate of B is
    }


# --- 1.1 and 1.2: matrices with a known spectrum ----------------------------------------------------------------------


def _with_spectrum(rng, rows, columns, values) -> np.ndarray:
    """A random matrix with these singular values: (rows, columns)"""
    left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return left * np.array(values) @ right.T


def _rank_cases(c, rng) -> list[tuple]:
    """Spectra that tell the usual mistakes apart; then shapes and ranks that are drawn, so that no table knows them."""
    slowly, fast = [8 * 0.85**k for k in range(9)], [10 * 0.6**k for k in range(8)]
    spectra: list = [[9, 6, 3, 1.5, 1, 0.5], slowly, [20, 1, 1, 1, 1, 1, 1], [5] * 22, fast, [7, 6, 5, 4, 3, 2, 1]]
    sides = [(9, 7), (12, 10), (7, 9), (26, 22), (8, 11), (9, 8)]
    fixed = [
        (_with_spectrum(rng, *side, [value * rng.uniform(0.97, 1.03) for value in values]),)
        for side, values in zip(sides, spectra, strict=True)
    ]
    drawn = [rng.choice(np.arange(6, 25), 2, replace=False) for _ in range(4)]
    return fixed + [(_with_spectrum(rng, s[0], s[1], rng.uniform(0.5, 0.9) ** np.arange(s.min())),) for s in drawn]


def _observe_rank(answer, c, matrix) -> dict:
    seen = observed(answer, matrix)
    return {"rank": seen.value, "inputs": seen.inputs}


def _split_cases(c, rng) -> list[tuple]:
    spectrum = sorted(rng.uniform(0.5, 9, size=6), reverse=True)
    return [(_with_spectrum(rng, *shape, spectrum), rank) for shape, rank in [((9, 7), 2), ((6, 11), 3), ((8, 6), 1)]]


def _observe_split(answer, c, matrix, rank) -> dict:
    seen = observed(answer, matrix, rank)
    A, B = map(array, in_order(seen.value, "A", "B"))
    lengths = lambda: np.concatenate([(factor**2).sum(axis=0) ** 0.5 for factor in (A, B)])  # noqa: E731
    return {"product": lambda: A @ B.T, "balance": lengths, "manners": seen.manners}


def _layer(rng, batch, d_in, d_out, rank) -> tuple:
    """x, W, A and B of a layer none of whose sides are equal."""
    shapes = [(batch, d_in), (d_in, d_out), (d_in, rank), (d_out, rank)]
    return tuple(rng.normal(size=shape) for shape in shapes)


# --- 1.3: the adapter -------------------------------------------------------------------------------------------------


def _adapter_cases(c, rng) -> list[tuple]:
    cases = []
    for seed, (batch, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 5.0), (4, 5, 9, 3, 2.0)]):
        x, W, A, B = _layer(rng, batch, d_in, d_out, rank)
        cases.append((x, W, A, B, rank, alpha, seed + int(rng.integers(100))))
    return cases


def _observe_adapter(answer, c, x, W, A, B, rank, alpha, seed) -> dict:
    """A start is the part `start`; the other parts are looked at with factors that the test puts in."""

    def layer(weight=None, trained=True):
        made = answer(W.copy() if weight is None else weight, rank, alpha, seed)
        for name in ("weight", "lora_A", "lora_B"):
            setattr(made, name, array(done(getattr(made, name))))
        if trained:
            made.lora_A, made.lora_B = A.copy(), B.copy()
        return made

    def merged(times, weight=None):
        made = layer(weight)
        for _ in range(times):
            done(made.merge())
        return made

    def weight_and_output(made):
        return [*np.ravel(made.weight), *np.ravel(call(made.forward, x))]

    def twice():
        update, made = merged(times=1).weight - W, merged(times=2)
        if np.abs(made.weight - W - update).max() > 1e-9:
            times = (update * (made.weight - W)).sum() / (update**2).sum()
            raise Complaint(f"after merging twice, the weight holds {times:.3g} times the update")
        for _ in range(2):
            done(made.unmerge())
        return weight_and_output(made)

    def frozen():
        mine = W.copy()
        merged(times=1, weight=mine)
        return "unchanged" if np.array_equal(mine, W) else "merging changed the array that was passed in"

    def start():
        made, again = layer(trained=False), layer(trained=False)
        if np.any(np.asarray(made.lora_B)):
            return "B does not start at zero: the output changes before any training (notebook 02, section 5)"
        if not np.array_equal(made.lora_A, again.lora_A):
            return "the same seed gives another A: draw with np.random.default_rng(seed)"
        return [*np.ravel(made.lora_A), *np.ravel(call(made.forward, x))]

    return {
        "start": start,
        "forward": lambda: call(layer().forward, x),
        "merge": lambda: weight_and_output(merged(times=1)),
        "twice": twice,
        "frozen": frozen,
    }


# --- 1.4: training ----------------------------------------------------------------------------------------------------


def _train_cases(c, rng) -> list[tuple]:
    cases = []
    for batch, d_in, d_out, rank, alpha, steps in [(6, 4, 5, 2, 3.0, 1), (7, 6, 3, 2, 1.5, 1), (5, 5, 8, 3, 2.0, 6)]:
        x, W, A, B = _layer(rng, batch, d_in, d_out, rank)
        target = x @ W + 0.3 * rng.normal(size=(batch, d_out))
        cases.append((x, target, W, 0.5 * A, 0.3 * B, alpha, 0.03, steps))
    return cases


def _observe_train(answer, c, x, target, W, A, B, alpha, lr, steps) -> dict:
    """A and B after one step; in the other cases, whether many steps are as many single ones of the same answer."""
    seen = observed(answer, x, target, W, A, B, alpha, lr, steps)
    found = [array(factor) for factor in in_order(seen.value, "A", "B")]
    if steps == 1:
        return {"A": found[0], "B": found[1], "steps": ELSEWHERE, "manners": seen.manners}

    def step(A, B, lr) -> list:
        return [array(factor) for factor in in_order(call(answer, x, target, W, A, B, alpha, lr, 1), "A", "B")]

    def loss(A, B) -> float:
        return ((x @ W + alpha / A.shape[1] ** c.power * x @ A @ B.T - target) ** 2).sum()

    def walked() -> float:
        if not loss(*step(A, B, lr / 1000)) < loss(A, B):
            raise Complaint("a small step does not make the loss smaller")
        one: list = [A, B]
        for _ in range(steps):
            one = step(one[0], one[1], lr)
        far = max(np.abs(mine - there).max() for mine, there in zip(found, one, strict=True))
        if far > 1e-9:
            raise Complaint(f"{steps} steps in one call end {far:.3g} away from where {steps} calls of one step do")
        return float(steps)

    return {"A": ELSEWHERE, "B": ELSEWHERE, "steps": walked, "manners": seen.manners}


TASKS = [
    Task(
        "1.1", "needed_rank", "How much rank does a matrix need?", 10, {"rank": 2, "inputs": 1},
        _rank_cases, _observe_rank, tolerance=0, seconds=5, names="matrix", edition=2,
    ),
    Task(
        "1.2", "split", "The best two factors", 15, {"product": 2, "balance": 1, "manners": 1},
        _split_cases, _observe_split, seconds=5, names="matrix rank",
    ),
    Task(
        "1.3", "adapter", "An adapter that can be merged", 30,
        {"start": 2, "forward": 2, "merge": 2, "twice": 1, "frozen": 1},
        _adapter_cases, _observe_adapter, seconds=5, names="x W A B rank alpha seed",
        computed=("forward", "merge", "twice"), base=lambda c, x, W, *others: {"forward": x @ W},
    ),
    Task(
        "1.4", "train", "Training with two learning rates", 35, {"A": 3, "B": 3, "steps": 2, "manners": 1},
        _train_cases, _observe_train, seconds=5, names="x target W A B alpha lr steps", computed=("A", "B"),
        base=lambda c, x, target, W, A, B, alpha, lr, steps: {"A": A, "B": B} if steps == 1 else {},
    ),
]  # fmt: skip
