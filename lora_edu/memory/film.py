"""The film of one training step: what is alive after each operation, by kind.

`PeakMemory` counts the bytes of every tensor from the operation that makes it to its end. `Recorder` writes each life
down, and what a tensor was for is settled afterwards: what has become a parameter's gradient was a gradient from its
first moment, and the rest are activations, with the gradients that flow back through them. What stays from step to step
(weights, optimizer state) is measured once and lies below.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from lora_edu.engine import kernels
from lora_edu.memory.paged import PagedAdamW
from lora_edu.memory.peak import PeakMemory
from lora_edu.memory.shapes import ADAPTERS, BASE, CONSTANTS, OPTIMIZER, measured_bytes
from lora_edu.training import trainable_parameters

RESIDENT = (BASE, CONSTANTS, ADAPTERS, OPTIMIZER)  # alive all the time


@dataclass
class Life:
    """A storage: the operation that made it, the first one that it did not see any more, and its bytes."""

    identity: int
    born: int
    n_bytes: int
    died: int | None = None


class Recorder(PeakMemory):
    """`with Recorder(there_already) as film: ...`, then `film.operations` and `film.lives` tell the story."""

    def __init__(self, there_already: Iterable[Tensor] = ()):
        super().__init__(there_already)
        self.operations: list[str] = []
        self.lives: list[Life] = []
        self.current: dict[int, Life] = {}  # identity -> the life that goes on

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not _only_looks(func):
            self.operations.append(func.overloadpacket.__name__)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity in self.known:
            return
        life = self.current.get(identity)
        if life is None:
            weakref.finalize(storage, self._end, identity)
        if life is None or life.n_bytes != storage.nbytes():  # new, or resized: a new life
            now = max(0, len(self.operations) - 1)
            if life is not None:
                life.died = now
            self.current[identity] = Life(identity, now, storage.nbytes())
            self.lives.append(self.current[identity])

    def _end(self, identity: int) -> None:
        self.current.pop(identity).died = len(self.operations)

    def bytes_of(self, chosen: Callable[[Life], bool]) -> list[int]:
        """The bytes of the chosen lives after each operation."""
        changes = [0] * (len(self.operations) + 1)
        for life in filter(chosen, self.lives):
            changes[life.born] += life.n_bytes
            changes[len(self.operations) if life.died is None else life.died] -= life.n_bytes
        totals, now = [], 0
        for change in changes[:-1]:
            now += change
            totals.append(now)
        return totals


def _only_looks(func: torch._ops.OpOverload) -> bool:
    """Whether an operation only gives memory another shape or name: a view, a transpose."""
    aliases = [value.alias_info for value in func._schema.returns]
    return func.overloadpacket is torch.ops.aten._unsafe_view or any(a and not a.is_write for a in aliases)


@dataclass
class Film:
    """The bytes that are alive in one step. resident: kind -> bytes; the lists have an entry for each operation."""

    resident: dict[str, int]
    operations: list[str]
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

    def phase(self, operation: int) -> str:
        """The phase in which an operation is."""
        return [name for name, start in self.starts.items() if start <= operation][-1]


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
    known = [*model.parameters(), *model.buffers(), *state, tokens, targets, *kernels.scratch_pieces()]
    starts = {}
    with Recorder(known) as seen:
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
    return Film(
        resident,
        seen.operations,
        seen.bytes_of(is_gradient),
        seen.bytes_of(lambda life: not is_gradient(life)),
        starts,
    )


def scenes(film: Film, most: dict[str, int]) -> dict[str, list[tuple[str, int, int]]]:
    """The film in fewer pictures: phase -> (operation, gradients, activations), at most `most[phase]` of them.

    Neighboring operations are joined, and the one at which the most is alive stands for them: no peak is lost.
    """
    cut, ends = {}, [*list(film.starts.values())[1:], len(film.operations)]
    for (phase, start), end in zip(film.starts.items(), ends, strict=True):
        step = -(-(end - start) // most[phase])
        groups = [range(i, min(i + step, end)) for i in range(start, end, step)]
        fullest = [max(group, key=film.totals.__getitem__) for group in groups]
        cut[phase] = [(film.operations[i], film.gradients[i], film.activations[i]) for i in fullest]
    return cut
