"""The peak of memory while code runs on the CPU: every tensor is counted from the operation that makes it to its end.

On a GPU torch keeps this number itself: `torch.cuda.max_memory_allocated()`. For the CPU there is none, so we watch
every operation with a dispatch mode, a hook that torch calls instead of the operation.
"""

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_edu.engine import kernels


class PeakMemory(TorchDispatchMode):
    """`with PeakMemory(there_already) as memory: ...`, then `memory.peak` has the most bytes alive at a time on top.

    there_already: tensors that are not counted, such as a model's parameters. A storage that several tensors share
    counts once. Neither is the memory counted that 4-bit layers have decoded into before, and will again.
    """

    def __init__(self, there_already: Iterable[Tensor] = ()):
        super().__init__()
        there_already = [*there_already, *kernels.scratch_pieces()]
        self.known = {tensor.untyped_storage()._cdata for tensor in there_already}  # the identity of a storage
        self.alive: dict[int, int] = {}  # identity -> bytes
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):  # an argument may have been resized
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity in self.known:
            return
        if identity not in self.alive:
            weakref.finalize(storage, self._forget, identity)
        self.now += storage.nbytes() - self.alive.get(identity, 0)
        self.alive[identity] = storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _forget(self, identity: int) -> None:
        self.now -= self.alive.pop(identity)
