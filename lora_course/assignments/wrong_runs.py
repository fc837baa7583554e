"""Exercise 2.5: training runs in which something may be wrong, though the loss falls; and what is looked at.

A `TrainingRun` is all that a training loop has: a model with adapters, data, and settings.
"""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_course.assignments.looking import Complaint, done, in_order
from lora_course.assignments.plain_tensors import all_bits, bits, numbers
from lora_course.assignments.towers import Branched, seeded
from lora_course.assignments.verdict import ELSEWHERE

WIDTH, RANK = 6, 2


class Stack(nn.Module):
    """An embedding, blocks that are a norm and an adapted layer each, and a head. Input: tokens below 11."""

    def __init__(self, n_blocks: int):
        super().__init__()
        self.token_embedding = nn.Embedding(11, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), Branched(nn.Linear(WIDTH, WIDTH), RANK)) for _ in range(n_blocks)
        )
        self.lm_head = nn.Linear(WIDTH, 11)


@dataclass(eq=False, repr=False)
class TrainingRun:
    """A training run. `train` changes `model` and returns the losses; `copy.deepcopy(run)` is a run of its own."""

    model: Stack
    tokens: Tensor  # (n,)
    answers: Tensor  # (n,)
    optimized: list[str]  # the names of the parameters that the optimizer gets
    checkpointed: int  # so many blocks, from the first on, are computed again in the backward pass
    reentrant: bool  # how they are checkpointed
    rate: float = 0.2
    steps: int = 3

    def loss(self) -> Tensor:
        x = self.model.token_embedding(self.tokens)
        for i, block in enumerate(self.model.blocks):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again = i < self.checkpointed and torch.is_grad_enabled()
                x = x + (checkpoint(block, x, use_reentrant=self.reentrant) if again else block(x))
        return F.cross_entropy(self.model.lm_head(x), self.answers)

    def train(self) -> list[float]:
        parameters = dict(self.model.named_parameters())
        optimizer = torch.optim.SGD([parameters[name] for name in self.optimized], lr=self.rate)
        losses = []
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def layers(self) -> dict[str, Branched]:
        """The adapted layers, by path."""
        return {path: module for path, module in self.model.named_modules() if isinstance(module, Branched)}

    def base(self) -> list[str]:
        """The names of all tensors that are not a factor of an adapter."""
        return [name for name, _ in self.model.named_parameters() if not name.endswith((".down", ".up"))]


FAULTS = (("norm",), ("reentrant",), ("forgotten",), ("embedding", "reentrant"))


def new_run(seed: int, faults: tuple = (), n_blocks: int = 4) -> TrainingRun:
    """A run, with these faults. The seed decides the numbers, and the place of a fault."""
    rng = np.random.default_rng(seed)
    model = seeded(seed, Stack, n_blocks)
    model.requires_grad_(False)
    tokens = torch.tensor(rng.integers(0, 11, size=60))
    answers = torch.tensor(rng.permutation(11))[tokens]
    place, other = (int(i) for i in rng.permutation(n_blocks)[:2])
    for block in model.blocks:
        block[1].requires_grad_(True).base.requires_grad_(False)
        with torch.no_grad():
            block[1].down.copy_(numbers(rng, WIDTH, RANK))
    again, reentrant = n_blocks - 1 - place % 2, "reentrant" in faults
    run = TrainingRun(model, tokens, answers, [], checkpointed=again, reentrant=reentrant)
    if "norm" in faults:
        model.blocks[place][0].requires_grad_(True)
    if "embedding" in faults:
        model.token_embedding.requires_grad_(True)
    run.optimized = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if "forgotten" in faults:
        run.optimized = [name for name in run.optimized if f"blocks.{place}." not in name]
    if "norm" in faults:
        model.blocks[other][0].requires_grad_(True)  # it asks for a gradient, and no optimizer knows it
    return run


def logged_run(number: int) -> TrainingRun:
    """The run of a log: something is wrong with it."""
    return new_run(1, FAULTS[number])


def report(number: int) -> None:
    """Train the run of this number, and print its log."""
    run = logged_run(number)
    fresh = copy.deepcopy(run)
    for step, loss in enumerate(run.train(), start=1):
        print(f"step {step}   loss {loss:.4f}")
    trained = {name: tensor for name, tensor in run.model.state_dict().items() if name not in run.base()}
    fresh.model.load_state_dict(trained, strict=False)
    print(f"at the end: {run.loss().item():.4f}; the adapters alone, on the base as it was: {fresh.loss().item():.4f}")


# --- what is looked at ------------------------------------------------------------------------------------------------


def diagnosis(answer: tuple[Callable, Callable], c: Any, seed: int, faults: tuple, n_blocks: int) -> dict:
    """What `evidence` measures in a run, and what training does after `repair`. answer: (evidence, repair)"""
    evidence, repair = answer
    make = functools.partial(new_run, seed, faults, n_blocks)

    @functools.cache
    def found() -> tuple[list, str]:
        run = make()
        before, result = _everything(run), done(evidence(run))
        unchanged = "the run is as it was" if _everything(run) == before else "the run was changed"
        return in_order(result, "tensors", "layers", "verdict"), unchanged

    @functools.cache
    def repaired() -> tuple[list[float], list[str], list[str]]:
        """The losses of training after the repair; the factors that stay, and the tensors of the base that move."""
        run, given = make(), make()
        result = done(repair(run))
        run = result if isinstance(result, TrainingRun) else run
        before = given.model.state_dict()
        other = [name for name in ("rate", "steps") if getattr(run, name) != getattr(given, name)]
        other += [name for name in ("tokens", "answers") if bits(getattr(run, name)) != bits(getattr(given, name))]
        if other:
            raise Complaint(f"the repair changed what was not wrong: {', '.join(other)}")
        if any(bits(run.model.state_dict()[name]) != bits(tensor) for name, tensor in before.items()):
            raise Complaint("the repair changed numbers of the model: repair, and train nothing")
        losses = TrainingRun.train(run)
        after = run.model.state_dict()
        moved = [name for name, tensor in before.items() if bits(after[name]) != bits(tensor)]
        base = given.base()
        return losses, [n for n in before if n not in moved and n not in base], [n for n in moved if n in base]

    def base_repaired() -> list[int]:
        _, still, moved = repaired()
        if moved:
            raise Complaint(f"after the repair, training still moves {', '.join(moved)}")
        if len(still) == 2 * n_blocks:
            raise Complaint("after the repair, training moves nothing at all")
        return [n_blocks]

    def adapters_repaired() -> list[float]:
        losses, still, _ = repaired()
        if still:
            raise Complaint(f"after the repair, training does not move {', '.join(still)}")
        return [n_blocks] if len(faults) > 1 else losses  # of two faults, each is a part of its own

    parts = {
        "tensors": lambda: [float(found()[0][0][name]) for name in make().base()],
        "layers": lambda: [float(number) for path in make().layers() for number in found()[0][1][path]],
        "verdict": lambda: "; ".join(f"{name}: {found()[0][2][name]}" for name in sorted(found()[0][2])) or "nothing",
        "untouched": lambda: found()[1],
    }
    mended: dict[str, Any] = {"base repaired": ELSEWHERE, "adapters repaired": ELSEWHERE}
    if faults == ("norm",):
        mended["base repaired"] = base_repaired
    elif faults:
        mended["adapters repaired"] = adapters_repaired
    return parts | mended


def _everything(run: TrainingRun) -> list:
    parameters = list(run.model.parameters())
    settings = [list(run.optimized), run.checkpointed, run.reentrant, run.rate, run.steps]
    return [all_bits(run.model), settings, [(p.requires_grad, p.grad is None) for p in parameters]]
