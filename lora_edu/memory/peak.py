"""The peak of memory while code runs on the CPU: every tensor is counted from the operation that makes it to its end.

On a GPU torch keeps this number itself: `torch.cuda.max_memory_allocated()`. For the CPU there is none, so we watch
every operation with a dispatch mode, a hook that torch calls instead of the operation.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_edu.engine import kernels


@dataclass
class Life:
    """A storage: the operation that made it, the first one that it did not see any more, and its bytes."""

    identity: int
    born: int
    n_bytes: int
    died: int | None = None


class PeakMemory(TorchDispatchMode):
    """`with PeakMemory(there_already) as memory: ...`, then `memory.peak` has the most bytes alive at a time on top.

    `memory.operations` and `memory.lives` tell the story. there_already: tensors that are not counted, such as a
    model's parameters. A storage that several tensors share counts once. Neither is the memory counted that 4-bit
    layers have decoded into before, and will again.
    """

    def __init__(self, there_already: Iterable[Tensor] = ()):
        super().__init__()
        there_already = [*there_already, *kernels.scratch_pieces()]
        self.known = {tensor.untyped_storage()._cdata for tensor in there_already}  # the identity of a storage
        self.operations: list[str] = []
        self.lives: list[Life] = []
        self.alive: dict[int, Life] = {}  # identity -> the life that goes on
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not _only_looks(func):
            self.operations.append(func.overloadpacket.__name__)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):  # an argument may have been resized
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity, started = storage._cdata, max(0, len(self.operations) - 1)
        life = self.alive.get(identity)
        if identity in self.known or (life and life.n_bytes == storage.nbytes()):
            return
        if life:  # resized: a new life
            self._end(identity, started)
        else:
            weakref.finalize(storage, self._end, identity)
        self.alive[identity] = Life(identity, started, storage.nbytes())
        self.lives.append(self.alive[identity])
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _end(self, identity: int, died: int | None = None) -> None:
        life = self.alive.pop(identity)
        life.died = len(self.operations) if died is None else died
        self.now -= life.n_bytes

    def bytes_of(self, chosen: Callable[[Life], bool]) -> list[int]:
        """The bytes of the chosen lives after each operation."""
        changes = [0] * (len(self.operations) + 1)
        for life in filter(chosen, self.lives):
            changes[life.born] += life.n_bytes
            changes[len(self.operations) if life.died is None else life.died] -= life.n_bytes
        return list(accumulate(changes[:-1]))


def _only_looks(func: torch._ops.OpOverload) -> bool:
    """Whether an operation only gives memory another shape or name: a view, a transpose."""
    aliases = [value.alias_info for value in func._schema.returns]
    return func.overloadpacket is torch.ops.aten._unsafe_view or any(a and not a.is_write for a in aliases)
