"""What a training run is, as short strings that can be compared: the model, its frozen weights, the text.

Two runs with the same description, the same settings and the same trainable parameters compute the same.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def describe_run(model: nn.Module, data: Iterable[Tensor]) -> dict[str, str]:
    """Describe a model and a text: the shape of each trainable parameter, the numbers in each layer, fingerprints.

    The values of trainable parameters are left out: a checkpoint holds them.
    """
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    frozen |= dict(model.named_buffers())  # a 4-bit weight is a buffer
    return {
        "the text": fingerprint(data),
        "the frozen weights": fingerprint(value for _, value in sorted(frozen.items())),
        **{f"the trainable {name}": _shape(value) for name, value in trainable.items()},
        **{f"the layer {path or '(the model)'}": _numbers(module) for path, module in model.named_modules()},
    }


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """The first 12 digits of a SHA-256 over tensors: types, shapes and every byte. About a second per gigabyte."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_shape(tensor).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _shape(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def _numbers(module: nn.Module) -> str:
    """A layer and the numbers that its arithmetic depends on: LoRALinear(alpha=16, rank=8, scaling=2.0)."""
    numbers = {
        name: value
        for name, value in sorted(vars(module).items())
        if type(value) in (int, float, torch.dtype) and not name.startswith("_")
    }
    return f"{type(module).__name__}({', '.join(f'{name}={value}' for name, value in numbers.items())})"
