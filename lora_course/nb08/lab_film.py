"""The film of one training step: what is alive after each operation, by kind.

`PeakMemory` writes the life of every tensor down, from the operation that makes it to its end. What it was for is
settled afterwards: what has become a parameter's gradient was a gradient from its first moment, and the rest are
activations, with the gradients that flow back through them. What stays from step to step (weights, optimizer state) is
measured once and lies below.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from lora_edu.memory.paged import PagedAdamW
from lora_edu.memory.peak import Life, PeakMemory
from lora_edu.memory.shapes import ADAPTERS, BASE, CONSTANTS, OPTIMIZER, measured_bytes
from lora_edu.training import trainable_parameters

RESIDENT = (BASE, CONSTANTS, ADAPTERS, OPTIMIZER)  # alive all the time


@dataclass
class Film:
    """The bytes that are alive in one step. resident: kind -> bytes; the lists have an entry for each operation."""

    resident: dict[str, int]
    gradients: list[int]
    activations: list[int]
    starts: dict[str, int] = field(default_factory=dict)  # phase -> its first operation

    @cached_property
    def totals(self) -> list[int]:
        below = sum(self.resident.values())
        return [below + g + a for g, a in zip(self.gradients, self.activations, strict=True)]

    @property
    def peak(self) -> int:
        return max(self.totals)


def film_step(model: nn.Module, tokens: Tensor, targets: Tensor, paged: bool = False) -> Film:
    """Train one step to fill the optimizer's state, and film the second. tokens and targets: (B, S) int64.

    paged: AdamW's state lies on the host and is not counted; its pages are, while they are on the device. Not counted
    either: the batch, and the one weight in full that 4-bit layers decode into, again and again.
    """
    trained = trainable_parameters(model)
    optimizer = PagedAdamW(trained) if paged else torch.optim.AdamW(trained)
    model(tokens, targets)[1].backward()
    optimizer.step()
    optimizer.zero_grad()
    resident = {kind: size for kind, size in measured_bytes(model, optimizer).items() if kind in RESIDENT}
    state = [value for values in optimizer.state.values() for value in values.values()]
    starts = {}
    with PeakMemory([*model.parameters(), *model.buffers(), *state, tokens, targets]) as seen:
        starts["forward"] = len(seen.operations)
        loss = model(tokens, targets)[1]
        starts["backward"] = len(seen.operations)
        loss.backward()
        starts["optimizer"] = len(seen.operations)
        optimizer.step()
    kept = {parameter.grad.untyped_storage()._cdata for parameter in trained}

    def is_gradient(life: Life) -> bool:
        return life.died is None and life.identity in kept

    if paged:
        resident[OPTIMIZER] = 0
    flowing = seen.bytes_of(lambda life: not is_gradient(life))
    return Film(resident, seen.bytes_of(is_gradient), flowing, starts)


def scenes(film: Film, most: dict[str, int]) -> dict[str, list[tuple[int, int]]]:
    """The film in fewer pictures: phase -> (gradients, activations), at most `most[phase]` of them.

    Neighboring operations are joined, and the one at which the most is alive stands for them: no peak is lost.
    """
    cut, ends = {}, [*list(film.starts.values())[1:], len(film.gradients)]
    for (phase, start), end in zip(film.starts.items(), ends, strict=True):
        step = -(-(end - start) // most[phase])
        groups = [range(i, min(i + step, end)) for i in range(start, end, step)]
        fullest = [max(group, key=film.totals.__getitem__) for group in groups]
        cut[phase] = [(film.gradients[i], film.activations[i]) for i in fullest]
    return cut
