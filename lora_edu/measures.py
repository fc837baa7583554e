"""Measures that the notebooks use: how far apart two weights are, what layers are given, what style a text has."""

import re
from contextlib import ExitStack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.gpt import GPT, encode
from lora_edu.layers import evaluating
from lora_edu.quantization import block_absmax, nearest_code, normalize

SPEAKER_LINE = re.compile(r"\*\*[A-Z][A-Z .,'-]*\*\*")


def relative_error(original: Tensor, changed: Tensor) -> float:
    """The relative Frobenius error ||W - W'|| / ||W||: 0 for no change, 1 for a loss of everything."""
    wide = torch.promote_types(original.dtype, torch.float32)  # in 16 bits, the difference would be rounded itself
    original, changed = original.to(wide), changed.to(wide)
    return ((original - changed).norm() / original.norm()).item()


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two tensors: 1 for one direction, about 0 for chance, 0 if one of them is 0."""
    return ((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-30)).item()


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
    seen = {}
    with torch.no_grad(), ExitStack() as hooks:  # they are taken off again, after an error too
        for path, layer in block_linears(model).items():
            hook = layer.register_forward_hook(lambda _, x, y, path=path: seen.__setitem__(path, x[0][0]))
            hooks.callback(hook.remove)
        model(tokens[None, :length].long().to(next(model.parameters()).device))
    return seen


def low_rank(U: np.ndarray, S: np.ndarray, Vt: np.ndarray, rank: int) -> np.ndarray:
    """The first `rank` layers of a matrix, added up: (d_out, d_in), of rank `rank`."""
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def relative_errors(S: np.ndarray) -> np.ndarray:
    """The error ||M - M_r|| / ||M|| that Eckart and Young promise, for every rank r from 0 to len(S)."""
    missing = np.append(np.cumsum(S[::-1] ** 2)[::-1], 0)  # the squared norm of all layers after the first r
    return np.sqrt(missing / missing[0])


def round_in_blocks(values: Tensor, bits: int, block_size: int) -> Tensor:
    """Round to the 2**bits - 1 levels of a symmetric integer code, with one absmax per block of the flattened values.

    Returns what the codes stand for, in the shape of `values`. The last block may be shorter.
    """
    codes, step = block_codes(values, bits, block_size)
    return (codes * step).flatten()[: values.numel()].view(values.shape)


def block_codes(values: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """The codes of a tensor, (n_blocks, block_size), and the distance between two levels, (n_blocks, 1)."""
    largest = 2 ** (bits - 1) - 1
    block_size = min(block_size, values.numel())
    missing = -values.numel() % block_size
    padded = torch.nn.functional.pad(values.flatten(), (0, missing))
    blocks = padded.view(-1, block_size)
    step = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / largest
    return (blocks / step).round(), step


def bits_per_weight(bits: int, block_size: int, scale_bits: float = 32) -> float:
    """The bits that a weight takes: its code, and its share of the constant of its block, which takes scale_bits."""
    return bits + scale_bits / block_size


def total_bits(block_size: int, constant_bits: int = 32, second_size: int = 0) -> float:
    """Code and constants of one weight in a 4-bit format, in bits.

    second_size: how many constants share a float32 constant of their own; 0 for none. Such a constant pays for its
    own constant as a weight does: the same formula, twice.
    """
    constant = bits_per_weight(constant_bits, second_size) if second_size else constant_bits
    return bits_per_weight(4, block_size, constant)


def lloyd_max(values: Tensor, start: Tensor, block_size: int = 64, rounds: int = 60) -> Tensor:
    """The codebook with the least squared error on `values` (n,), found from `start` (k,); -1, 0 and 1 stay.

    Each round moves every free level to the mean of what it stands for; a value counts with the square of its absmax,
    because that is how much its error counts after dequantization.
    """
    absmax = block_absmax(values, block_size)
    scaled = normalize(values, absmax, block_size)
    weights = absmax.repeat_interleave(block_size)[: len(values)] ** 2
    codebook, fixed = start.clone(), (start == 0) | (start.abs() == 1)
    for _ in range(rounds):
        codes = nearest_code(scaled, codebook).long()
        totals = torch.bincount(codes, weights, minlength=len(codebook))
        sums = torch.bincount(codes, weights * scaled, minlength=len(codebook))
        means = sums / totals.clamp(min=1e-30)
        codebook = torch.where(fixed | (totals == 0), codebook, means.float())
    return codebook


def rescale(values: Tensor, old: Tensor, new: Tensor, block_size: int) -> Tensor:
    """Give the blocks of values (n,), whose constants are old (n_blocks,), the constants new (n_blocks,)."""
    factor = new / old.clamp(min=1e-38)  # a block of zeros stays one
    return values * factor.repeat_interleave(block_size)[: len(values)]


@torch.no_grad()
def surprise(model: nn.Module, text: str, before: str = "\n") -> np.ndarray:
    """The surprise in nats at each byte of a text, (n_bytes,), given the bytes before it: -ln of its probability.

    before: what the model has read before the first byte; by default a line end, and so nothing about the text.
    """
    tokens, given = encode(before + text).long(), len(encode(before))
    if not given:
        raise ValueError("before must hold at least one byte: the model predicts nothing from nothing")
    device = next(model.parameters()).device
    with evaluating(model):
        logits = model(tokens[None, :-1].to(device))[0][0].float().cpu()  # (n - 1, vocab_size)
    return F.cross_entropy(logits, tokens[1:], reduction="none")[given - 1 :].numpy()
