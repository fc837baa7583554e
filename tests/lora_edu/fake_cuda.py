"""A CUDA device that does not exist, for `test_fake_cuda.py`.

On the card are fake tensors (torch's FakeTensorMode): a shape, a type and the device, no numbers. torch itself refuses
there what it refuses on a GPU: tensors on two devices, a product of two types. What is on the processor is real.

Not exercised, so unknown until a GPU has run it: every value that a card computes; what a gradient scaler decides (its
calls run); pinned memory and the order of copies; inductor and triton; nccl; the card's random numbers; memory and
speed; bitsandbytes beside us. What is read from this card is made up: 1, True, a tensor full of ones.
"""

import contextlib
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from lora_edu import layers

aten = torch.ops.aten


class Card(TorchDispatchMode):
    """Leaves what touches the card to the FakeTensorMode below it, and makes up what is read from there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if FakeTensor not in types and getattr(kwargs.get("device"), "type", "") != "cuda":
            with unset_fake_temporarily():  # all on the processor: real, else a codebook would have no numbers either
                return args[0].clone() if func is aten._pin_memory.default else func(*args, **kwargs)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):  # from the card to the processor
            with unset_fake_temporarily():
                return args[0].fill_(1)
        if func is aten._local_scalar_dense.default:  # .item(), int(), if
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if func is aten.equal.default:
            assert args[0].device == args[1].device, "torch.equal has tensors on two devices"
            return True
        out = func(*args, **kwargs)
        if isinstance(out, FakeTensor) and out.is_cuda:  # the same as below, in less time
            return out
        with unset_fake_temporarily():
            return tree_map_only(FakeTensor, lambda t: t if t.is_cuda else torch.ones(t.shape, dtype=t.dtype), out)


@contextlib.contextmanager
def a_card():
    """Inside, torch believes in a card, of compute capability 8.0."""
    answers = {"is_available": True, "is_bf16_supported": True, "get_rng_state": torch.zeros(16, dtype=torch.uint8)}
    answers |= {"get_device_capability": (8, 0), "set_rng_state": 0, "synchronize": 0, "reset_peak_memory_stats": 0}
    answers |= {"manual_seed_all": None}
    with contextlib.ExitStack() as stack:
        patch = lambda *what, **how: stack.enter_context(mock.patch.object(*what, **how))  # noqa: E731
        for name, answer in answers.items():
            patch(torch.cuda, name, return_value=answer)
        patch(FakeTensorMode, "avoid_device_init", True)  # it would start the card in which it now believes
        patch(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())  # number by number took half of the time
        patch(torch.utils, "swap_tensors")  # `.to("cuda")` on the card has nothing to do, and torch no way to do it
        patch(layers, "_has_memory", lambda tensor: tensor.layout == torch.strided)  # else a foreign type is refused
        patch(layers, "memory", lambda tensor: range(at := tensor.untyped_storage()._cdata, at + 1))  # it has none
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Card())


def on_card(thing) -> None:
    """A module is on the card with all that it has, and its gradients; or a tensor is."""
    tensors = [*thing.parameters(), *thing.buffers()] if isinstance(thing, torch.nn.Module) else [thing]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    assert all(tensor.is_cuda for tensor in tensors), "a tensor is not on the card"
