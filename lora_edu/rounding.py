"""Rounding in blocks: the codes, how well they are used, what they cost in bits, and which codebook errs least."""

import torch
from torch import Tensor

from lora_edu.quantization import block_absmax, nearest_code, normalize


def block_codes(values: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """The codes of a tensor, (n_blocks, block_size), and the distance between two levels, (n_blocks, 1)."""
    largest = 2 ** (bits - 1) - 1
    block_size = min(block_size, values.numel())
    missing = -values.numel() % block_size
    padded = torch.nn.functional.pad(values.flatten(), (0, missing))
    blocks = padded.view(-1, block_size)
    step = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / largest
    return (blocks / step).round(), step


def round_in_blocks(values: Tensor, bits: int, block_size: int) -> Tensor:
    """Round to the 2**bits - 1 levels of a symmetric integer code, with one absmax per block of the flattened values.

    Returns what the codes stand for, in the shape of `values`. The last block may be shorter.
    """
    codes, step = block_codes(values, bits, block_size)
    return (codes * step).flatten()[: values.numel()].view(values.shape)


def round_clipped(values: Tensor, bits: int, length: float) -> Tensor:
    """Round to one ruler for all, as long as this share of the absmax. What lies beyond falls on its last mark."""
    largest = 2 ** (bits - 1) - 1
    step = length * values.abs().max() / largest
    return (values / step).round().clamp(-largest, largest) * step


def best_length(values: Tensor, bits: int) -> float:
    """The length of one ruler with the least squared error on the values, of 0.02, 0.04, ..., 1 times the absmax."""
    lengths = [k / 50 for k in range(1, 51)]
    return min(lengths, key=lambda length: (values - round_clipped(values, bits, length)).norm().item())


def bin_use(codes: Tensor, n_codes: int) -> Tensor:
    """The share of the values that got each code: codes (n,), one a value (not packed), -> (n_codes,) with sum 1."""
    return torch.bincount(codes.flatten().int(), minlength=n_codes).double() / codes.numel()


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


def lloyd_max(values: Tensor, start: Tensor, block_size: int = 64, rounds: int = 60, held=(-1, 0, 1)) -> Tensor:
    """The codebook with the least squared error on `values` (n,), found from `start` (k,); the levels `held` stay.

    Each round moves every other level to the mean of what it stands for; a value counts with the square of its absmax,
    because that is how much its error counts after dequantization.
    """
    absmax = block_absmax(values, block_size)
    scaled = normalize(values, absmax, block_size)
    weights = absmax.repeat_interleave(block_size)[: len(values)] ** 2
    codebook, fixed = start.clone(), torch.isin(start, torch.tensor(held))
    for _ in range(rounds):
        codes = nearest_code(scaled, codebook).long()
        totals = torch.bincount(codes, weights, minlength=len(codebook))
        sums = torch.bincount(codes, weights * scaled, minlength=len(codebook))
        means = sums / totals.clamp(min=1e-30)
        codebook = torch.where(fixed | (totals == 0), codebook, means.float())
    return codebook


def compensated(weight: Tensor, inputs: Tensor, codebook: Tensor) -> Tensor:
    """GPTQ's rounding (Frantar et al. 2022, arXiv 2210.17323), in blocks of 64 whose absmax is fixed beforehand.

    weight: (d_out, d_in), inputs: (n, d_in). Column by column: what rounding one does to the outputs, the later
    ones take back as well as they can. Returns the rounded weight; its codes are as many and as wide as without.
    """
    H = inputs.T @ inputs
    H += 0.01 * H.diagonal().mean() * torch.eye(len(H))
    U = torch.linalg.cholesky(H.inverse(), upper=True)
    absmax = block_absmax(weight.flatten(), 64).repeat_interleave(64).view_as(weight)
    left, rounded = weight.clone(), torch.empty_like(weight)
    for j, scale in enumerate(absmax.T):
        codes = nearest_code((left[:, j] / scale).clamp(-1, 1), codebook)
        rounded[:, j] = codebook[codes.long()] * scale
        off = (left[:, j] - rounded[:, j]) / U[j, j]
        left[:, j:] -= off[:, None] * U[j, j:]
    return rounded


def rescale(values: Tensor, old: Tensor, new: Tensor, block_size: int) -> Tensor:
    """Give the blocks of values (n,), whose constants are old (n_blocks,), the constants new (n_blocks,)."""
    factor = new / old.clamp(min=1e-38)  # a block of zeros stays one
    return values * factor.repeat_interleave(block_size)[: len(values)]
