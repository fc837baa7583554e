"""Measures that the notebooks use: how far apart two weights are, what layers are given, what style a text has."""

import re

import torch
from torch import Tensor, nn

from lora_edu.gpt import GPT

SPEAKER_LINE = re.compile(r"\*\*[A-Z][A-Z .,'-]*\*\*")


def relative_error(original: Tensor, changed: Tensor) -> float:
    """The relative Frobenius error ||W - W'|| / ||W||: 0 for no change, 1 for a loss of everything."""
    wide = torch.promote_types(original.dtype, torch.float32)  # in 16 bits, the difference would be rounded itself
    original, changed = original.to(wide), changed.to(wide)
    return ((original - changed).norm() / original.norm()).item()


def mean_squared_error(original: Tensor, changed: Tensor) -> float:
    """The mean of (W - W')**2."""
    return (original - changed).float().square().mean().item()


def mean_absolute_error(original: Tensor, changed: Tensor) -> float:
    """The mean of |W - W'|."""
    return (original - changed).float().abs().mean().item()


def output_error(weight: Tensor, changed: Tensor, inputs: Tensor) -> float:
    """What a layer's output loses: ||X W^T - X W'^T|| / ||X W^T||, for inputs X of shape (..., d_in)."""
    return relative_error(inputs @ weight.T, inputs @ changed.T)


def bin_use(codes: Tensor, n_codes: int) -> Tensor:
    """The share of the values that got each code: codes (n,), one a value (not packed), -> (n_codes,) with sum 1."""
    return torch.bincount(codes.flatten().int(), minlength=n_codes).double() / codes.numel()


def entropy_bits(shares: Tensor) -> float:
    """The information in a code, -sum p log2 p, in bits: 4 if all 16 codes are used equally often, less otherwise."""
    used = shares[shares > 0]
    return -(used * used.log2()).sum().item()


def speaker_share(text: str) -> float:
    """The share of the non-empty lines that are `**SPEAKER**` lines, the mark of the plays' Markdown."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return sum(bool(SPEAKER_LINE.fullmatch(line)) for line in lines) / len(lines) if lines else 0.0


def block_linears(model: GPT) -> dict[str, nn.Linear]:
    """The linear layers in the blocks, by path: those that QLoRA quantizes."""
    return {path: module for path, module in model.blocks.named_modules() if isinstance(module, nn.Linear)}


def layer_inputs(model: GPT, tokens: Tensor, length: int = 256) -> dict[str, Tensor]:
    """What each linear layer of the blocks is given for the first `length` tokens: path -> (length, d_in)."""
    seen, hooks = {}, []
    for path, layer in block_linears(model).items():
        hooks.append(layer.register_forward_hook(lambda _, x, y, path=path: seen.__setitem__(path, x[0][0])))
    with torch.no_grad():
        model(tokens[None, :length].long().to(next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return seen
