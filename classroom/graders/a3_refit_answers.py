"""Exercise 3.4: answers, right and wrong. Which is which, and the points, are in a3_refit.py."""

import numpy as np
import torch

from lora_edu.measures import relative_error
from lora_edu.quantization import block_absmax, quantize


def reference(values, codes, codebook, block_size):
    flat, levels = values.flatten(), codebook[codes.long()]
    constants = torch.stack(
        [
            (w * q).sum() / (q * q).sum().clamp(min=1e-30)
            for w, q in zip(flat.split(block_size), levels.split(block_size), strict=True)
        ]
    )
    rounded = levels * constants.repeat_interleave(block_size)[: len(flat)]
    return constants, (flat - rounded).norm() / flat.norm()


# --- right -----------------------------------------------------------------------------------------------------------


def broadcast(values, codes, codebook, block_size):
    pad = (0, -values.numel() % block_size)
    w = torch.nn.functional.pad(values.flatten(), pad).view(-1, block_size)  # (n_blocks, block_size)
    q = torch.nn.functional.pad(codebook[codes.long()], pad).view(-1, block_size)
    squares = torch.einsum("bi,bi->b", q, q)
    constants = torch.einsum("bi,bi->b", w, q) / torch.where(squares == 0, 1, squares)
    return constants, (torch.linalg.norm(w - q * constants[:, None]) / torch.linalg.norm(w)).item()


def in_numpy(values, codes, codebook, block_size):
    flat, levels = (
        np.asarray(values, dtype=np.float64).ravel(),
        np.asarray(codebook, dtype=np.float64)[np.asarray(codes)],
    )
    constants, rounded = [], np.zeros_like(flat)
    for start in range(0, len(flat), block_size):
        block = slice(start, start + block_size)
        constant, *_ = np.linalg.lstsq(levels[block, None], flat[block], rcond=None)
        constants.append(constant[0])
        rounded[block] = constant[0] * levels[block]
    return np.array(constants), np.linalg.norm(flat - rounded) / np.linalg.norm(flat)


def one_by_one(values, codes, codebook, block_size, *, least=1e-20):
    flat, levels = values.flatten().tolist(), [codebook[code].item() for code in codes.tolist()]
    n_blocks = -(-len(flat) // block_size)
    products, squares = [0.0] * n_blocks, [0.0] * n_blocks
    for i, (w, q) in enumerate(zip(flat, levels, strict=True)):
        products[i // block_size] += w * q
        squares[i // block_size] += q * q
    constants = [product / square if square > least else 0.0 for product, square in zip(products, squares, strict=True)]
    missing = sum((w - q * constants[i // block_size]) ** 2 for i, (w, q) in enumerate(zip(flat, levels, strict=True)))
    return torch.tensor(constants), (missing / sum(w * w for w in flat)) ** 0.5


# --- wrong -----------------------------------------------------------------------------------------------------------


def relative(flat, rounded, constants):
    return (flat - rounded).norm() / flat.norm()


def fitting(fit=None, error=relative, look_up=None):
    """An answer in which one step is another: fitting a block, measuring the error, decoding the codes."""

    def answer(values, codes, codebook, block_size):
        flat = values.flatten()
        levels = codebook[codes.long()] if look_up is None else look_up(flat, codes, codebook, block_size)
        fit_block = fit or (lambda w, q: (w * q).sum() / (q * q).sum().clamp(min=1e-30))
        blocks = zip(flat.split(block_size), levels.split(block_size), strict=True)
        constants = torch.stack([fit_block(w, q) for w, q in blocks])
        of_each = constants.repeat_interleave(block_size)[: len(flat)]
        return constants, error(flat, levels * of_each, of_each)

    return answer


def absmax(w, q):
    return w.abs().max()


def signed(w, q):
    return w[w.abs().argmax()]


def mean_ratio(w, q):
    used = q != 0
    return (w[used] / q[used]).mean() if used.any() else torch.tensor(0.0)


def ratio_of_sums(w, q):
    return w.sum() / q.sum() if q.sum() != 0 else torch.tensor(0.0)


def ratio_of_norms(w, q):
    return w.norm() / q.norm().clamp(min=1e-30) * (w * q).sum().sign()


def other_way_round(w, q):
    return (w * q).sum() / (w * w).sum()


def best_and_unchecked(w, q):
    return (w * q).sum() / (q * q).sum()


def padded_with_code_0(values, codes, codebook, block_size):
    missing = -values.numel() % block_size
    w = torch.nn.functional.pad(values.flatten(), (0, missing)).view(-1, block_size)
    q = codebook[torch.nn.functional.pad(codes, (0, missing)).long()].view(-1, block_size)
    constants = (w * q).sum(dim=1) / (q * q).sum(dim=1).clamp(min=1e-30)
    return constants, (w - q * constants[:, None]).norm() / w.norm()


def one_for_all(values, codes, codebook, block_size):
    constants, error = reference(values, codes, codebook, values.numel())
    return constants.expand(-(-values.numel() // block_size)).clone(), error


def whole_blocks_only(values, codes, codebook, block_size):
    whole = values.numel() // block_size * block_size
    return reference(values.flatten()[:whole], codes[:whole], codebook, block_size)


def looked_up_again(flat, codes, codebook, block_size):
    """Throws the codes away and takes the nearest ones for the signed constant of each block."""
    constants = torch.stack([signed(block, None) for block in flat.split(block_size)])
    scaled = flat / constants.repeat_interleave(block_size)[: len(flat)]
    return codebook[(scaled[:, None] - codebook).abs().argmin(dim=1)]


def mean_of_block_errors(flat, rounded, of_each, block_size):
    pairs = zip(flat.split(block_size), rounded.split(block_size), strict=True)
    return torch.stack([(w - r).norm() / w.norm() for w, r in pairs]).mean()


def with_mean_of_block_errors(values, codes, codebook, block_size):
    measure = lambda *of_all: mean_of_block_errors(*of_all, block_size)  # noqa: E731
    return fitting(error=measure)(values, codes, codebook, block_size)


def in_code_space(flat, rounded, of_each):
    of_each = torch.where(of_each == 0, 1, of_each)
    return (flat / of_each - rounded / of_each).norm() / (flat / of_each).norm()


def in_place(values, codes, codebook, block_size):
    constants, error = reference(values, codes, codebook, block_size)
    values -= (codebook[codes.long()] * constants.repeat_interleave(block_size)[: values.numel()]).view(values.shape)
    return constants, error


def lora_edu_(values, codes, codebook, block_size):
    rounded = quantize(values, codebook, block_size).dequantize()
    return block_absmax(values.flatten(), block_size), relative_error(values, rounded)
