"""Exercise 4.5: a comparison of two ranks on a 4-bit layer, which may be unfair; and what is looked at."""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_course.assignments.looking import Complaint, done, in_order
from lora_course.assignments.qlora_pieces import FrozenLinear
from lora_course.assignments.verdict import ELSEWHERE

GRID = (0.2, 0.4, 0.8, 1.6)
SHARED = 0.2


@dataclass(eq=False, repr=False)
class Study:
    """Adapters of two ranks on one frozen layer, trained on one split and compared on another."""

    base: FrozenLinear
    data: dict[str, tuple[Tensor, Tensor]]  # "training", "validation", "test" -> x (n, 12), y (n, 8)
    rates: dict[int, float]  # rank -> the learning rate that it is trained with
    grid: tuple[float, ...] = GRID  # the rates that there are to choose from

    def train(self, rank: int, rate: float) -> Callable[[Tensor], Tensor]:
        """Train an adapter of this rank on the training split; always the same numbers for the same data."""
        x, y = self.data["training"]
        A = torch.randn(rank, x.shape[1], generator=torch.Generator().manual_seed(rank)) / x.shape[1] ** 0.5
        B = torch.zeros(y.shape[1], rank)
        factors = [A.requires_grad_(), B.requires_grad_()]

        def predict(inputs: Tensor) -> Tensor:
            return self.base(inputs) + 8 / rank * (inputs @ A.T) @ B.T

        for _ in range(10):
            gradients = torch.autograd.grad((predict(x) - y).pow(2).mean(), factors)
            with torch.no_grad():
                for factor, gradient in zip(factors, gradients, strict=True):
                    factor -= rate * gradient
        return lambda inputs: predict(inputs).detach()

    def loss(self, predict: Callable[[Tensor], Tensor], split: str, rows: Any = slice(None)) -> float:
        """The mean squared error on a split, or on some of its rows; infinite where training diverged."""
        x, y = self.data[split]
        error = (predict(x[rows]) - y[rows]).pow(2).mean().item()
        return error if math.isfinite(error) else math.inf


def new_study(seed: int, faults: tuple = ()) -> Study:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 12, generator=g) / 12**0.5
    base = FrozenLinear(weight).requires_grad_(False)
    change = torch.randn(8, 6, generator=g) @ torch.randn(6, 12, generator=g) / 12

    def rows(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 12, generator=g)
        return x, base(x) + x @ change.T + 0.7 * torch.randn(n, 8, generator=g)

    data = {"training": rows(30), "validation": rows(16), "test": rows(16)}
    if "leak" in faults:
        taken, order = torch.randperm(16, generator=g)[:6], torch.randperm(36, generator=g)
        both = zip(data["training"], data["test"], strict=True)
        data["training"] = tuple(torch.cat([mine, theirs[taken]])[order] for mine, theirs in both)
    rates = {2: SHARED, 8: SHARED} if "rate" in faults else {2: 0.4, 8: 1.6}
    return Study(base, data, rates)


def logged_study(number: int) -> Study:
    """The study of a log: something is wrong with it."""
    return new_study((18, 75, 77, 91)[number], ("leak", "rate"))


def report(number: int) -> None:
    """Print the log of the study of this number."""
    study = logged_study(number)
    for rank, rate in study.rates.items():
        print(f"rank {rank}, rate {rate:g}: test loss {study.loss(study.train(rank, rate), 'test'):.3f}")


# --- what is looked at ------------------------------------------------------------------------------------------------

# Studies in which the best rate on the validation split is neither that on the training nor that on the test split.
SEEDS = (16, 25, 32, 47, 60, 76, 78, 90, 109, 111, 140, 153, 166, 174, 184, 189, 191, 197, 212, 222, 254)
# Studies in which leaked rows in the training split change a best rate, by 4% of the loss at least.
LEAK_DECIDES = (271, 272, 395, 505, 538, 541, 751, 852, 864, 865, 1037, 1259)


def observe_study(answer: tuple[Callable, Callable], c: Any, seed: int, faults: tuple) -> dict:
    """What `review` finds in a study, and what `repair` makes of it. answer: (review, repair)"""
    review, repair = answer
    study = new_study(seed, faults)

    @functools.cache
    def found() -> list:
        return in_order(done(review(copy.deepcopy(study))), "leaked", "clean", "best rates")

    @functools.cache
    def repaired(faults: tuple = faults) -> Study:
        study = new_study(seed, faults)
        mine = copy.deepcopy(study)
        result = done(repair(mine))
        mine = result if isinstance(result, Study) else mine
        for split in ("validation", "test"):
            if [part.tolist() for part in mine.data[split]] != [part.tolist() for part in study.data[split]]:
                raise Complaint(f"the repair changed the {split} split")
        return mine

    def split() -> list:
        rows, tested = (repaired().data[name][0].tolist() for name in ("training", "test"))
        left = sum(row in tested for row in rows)
        if left:
            raise Complaint(f"{left} rows of the repaired training split are in the test split")
        return [sum(column) for column in zip(*rows, strict=True)]  # whatever the order of the rows

    def best() -> list:
        return [float(value) for rank in study.rates for value in found()[2][rank]]

    def rates() -> list:
        return [repaired().rates[rank] for rank in study.rates]

    def in_time() -> bool:
        """Whether the rates are those that the same repair chooses where no row was leaked: chosen after the split."""
        try:
            training = [sorted(repaired(faults).data["training"][0].tolist()) for faults in (faults, ("rate",))]
        except Complaint:
            return True  # what else the repair does is another part
        if training[0] == training[1] and repaired().rates != repaired(("rate",)).rates:
            raise Complaint("the repair chooses the rates while leaked rows are in the training split, not after")
        return True

    leaks, alone = "leak" in faults, faults == ("rate",)
    return {
        "leaked": lambda: [int(row) for row in found()[0]],
        "clean": lambda: [float(found()[1][rank]) for rank in study.rates],
        "best rates": ELSEWHERE if leaks else best,  # where no row is left out: a mistake in `leaked` costs it nothing
        "split repaired": split if leaks else ELSEWHERE,
        "rates repaired": rates if alone else in_time if faults == ("leak", "rate") else ELSEWHERE,
    }
