"""The control of an adapter: the same numbers in other places."""

import torch
from torch import Tensor

from lora_edu import GPT
from lora_edu.lora import adapter_state, load_adapter_state


def shuffle_adapter(model: GPT, seed: int) -> None:
    """Put the numbers of each A and each B in other places of the same matrix."""
    generator = torch.Generator().manual_seed(seed)
    load_adapter_state(model, {name: shuffled(tensor, generator) for name, tensor in adapter_state(model).items()})


def shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.flatten()[order].view(tensor.shape)
