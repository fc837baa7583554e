"""Exercise 3.6, better constants for the same codes: the reference, other right answers, and wrong ones."""

import numpy as np
import torch
from a3_cheats import cheats

from lora_edu.analysis import relative_error
from lora_edu.classroom.solutions import Solutions, Wrong
from lora_edu.quantization import block_absmax, quantize

BLOCKS = "notebook 05, section 4"
ERROR = "notebook 05, section 1"
LEVELS = "notebook 06, section 3"


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


def _relative(flat, rounded, constants):
    return (flat - rounded).norm() / flat.norm()


def _refit(fit=None, error=_relative, look_up=None):
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


def _absmax(w, q):
    return w.abs().max()


def _signed(w, q):
    return w[w.abs().argmax()]


def _mean_ratio(w, q):
    used = q != 0
    return (w[used] / q[used]).mean() if used.any() else torch.tensor(0.0)


def _ratio_of_sums(w, q):
    return w.sum() / q.sum() if q.sum() != 0 else torch.tensor(0.0)


def _ratio_of_norms(w, q):
    return w.norm() / q.norm().clamp(min=1e-30) * (w * q).sum().sign()


def _other_way_round(w, q):
    return (w * q).sum() / (w * w).sum()


def _best_and_unchecked(w, q):
    return (w * q).sum() / (q * q).sum()


def _padded_with_code_0(values, codes, codebook, block_size):
    missing = -values.numel() % block_size
    w = torch.nn.functional.pad(values.flatten(), (0, missing)).view(-1, block_size)
    q = codebook[torch.nn.functional.pad(codes, (0, missing)).long()].view(-1, block_size)
    constants = (w * q).sum(dim=1) / (q * q).sum(dim=1).clamp(min=1e-30)
    return constants, (w - q * constants[:, None]).norm() / w.norm()


def _one_for_all(values, codes, codebook, block_size):
    constants, error = reference(values, codes, codebook, values.numel())
    return constants.expand(-(-values.numel() // block_size)).clone(), error


def _wrong_axis(values, codes, codebook, block_size):
    return reference(values, codes, codebook, values.shape[-1])


def _whole_blocks_only(values, codes, codebook, block_size):
    whole = values.numel() // block_size * block_size
    return reference(values.flatten()[:whole], codes[:whole], codebook, block_size)


def _nearest_again(flat, codes, codebook, block_size):
    """Throws the codes away and takes the nearest ones for the signed constant of each block."""
    constants = torch.stack([_signed(block, None) for block in flat.split(block_size)])
    scaled = flat / constants.repeat_interleave(block_size)[: len(flat)]
    return codebook[(scaled[:, None] - codebook).abs().argmin(dim=1)]


def _mean_of_block_errors(flat, rounded, of_each, block_size):
    pairs = zip(flat.split(block_size), rounded.split(block_size), strict=True)
    return torch.stack([(w - r).norm() / w.norm() for w, r in pairs]).mean()


def _with_mean_of_block_errors(values, codes, codebook, block_size):
    measure = lambda *of_all: _mean_of_block_errors(*of_all, block_size)  # noqa: E731
    return _refit(error=measure)(values, codes, codebook, block_size)


def _in_code_space(flat, rounded, of_each):
    of_each = torch.where(of_each == 0, 1, of_each)
    return (flat / of_each - rounded / of_each).norm() / (flat / of_each).norm()


def _in_place(values, codes, codebook, block_size):
    constants, error = reference(values, codes, codebook, block_size)
    values -= (codebook[codes.long()] * constants.repeat_interleave(block_size)[: values.numel()]).view(values.shape)
    return constants, error


def _float64(values, codes, codebook, block_size):
    levels = codebook[codes.long()].double()
    pairs = zip(values.flatten().split(block_size), levels.split(block_size), strict=True)
    constants = torch.stack([w @ q / (q @ q).clamp(min=1e-30) for w, q in pairs])
    return constants, (values.flatten() - levels * constants.repeat_interleave(block_size)).norm() / values.norm()


def _lora_edu(values, codes, codebook, block_size):
    rounded = quantize(values, codebook, block_size).dequantize()
    return block_absmax(values.flatten(), block_size), relative_error(values, rounded)


def _bitsandbytes(values, codes, codebook, block_size):
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(values, blocksize=64, quant_type="nf4")
    return state.absmax, relative_error(values, bnb.dequantize_4bit(packed, state))


WRONG = [
    Wrong(
        "the absmax",
        lambda c: _refit(_absmax),
        keeps=0,
        sentence="these constants are the absmax of each block. The question is which constant makes the squared error "
        "of the block smallest, for the codes that are given.",
        see=BLOCKS,
    ),
    Wrong(
        "the signed constant of 3.1",
        lambda c: _refit(_signed),
        keeps=0,
        sentence="these are the constants of exercise 3.1. They make one value of each block exact; the question is "
        "which constant makes the squared error of the whole block smallest.",
        see=BLOCKS,
    ),
    Wrong(
        "the mean of the ratios",
        lambda c: _refit(_mean_ratio),
        keeps=0,
        sentence="this is the mean of the ratios w / q. It lets small levels count as much as large ones: write the "
        "squared error as a function of the constant, and set its derivative to 0.",
        see=ERROR,
    ),
    Wrong(
        "the ratio of the sums",
        lambda c: _refit(_ratio_of_sums),
        keeps=0,
        sentence="this is the sum of w over the sum of q, where values of both signs cancel. Multiply by q before "
        "summing: the derivative of (w - s q)^2 is -2 q (w - s q).",
        see=ERROR,
    ),
    Wrong(
        "the ratio of the norms",
        lambda c: _refit(_ratio_of_norms),
        keeps=0,
        sentence="this is the ratio of two norms. It gives the rounded block the *length* of the block, which is not "
        "where it comes closest.",
        see=ERROR,
    ),
    Wrong(
        "the other way round",
        lambda c: _refit(_other_way_round),
        keeps=0,
        sentence="this divides by the sum of w * w. That is the best factor from the weights to the levels; the "
        "question is the one from the levels to the weights.",
        see=ERROR,
    ),
    Wrong(
        "the codes taken for levels",
        lambda c: _refit(look_up=lambda flat, codes, codebook, block_size: codes.float()),
        keeps=0,
        sentence="the codes themselves are fitted to the weights. A code is an index: look its level up in the "
        "codebook.",
        see=LEVELS,
    ),
    Wrong(
        "the nearest codes are looked for again",
        lambda c: _refit(look_up=_nearest_again),
        keeps=0,
        sentence="the weights are quantized again, and the codes that you are given are not used. They stay, whatever "
        "they are: only the constants are new.",
        see=LEVELS,
    ),
    Wrong(
        "0 / 0",
        lambda c: _refit(_best_and_unchecked),
        keeps=0,
    ),
    Wrong(
        "the last block is padded with code 0",
        lambda c: _padded_with_code_0,
        keeps=0,
        sentence="the short last block is filled up with code 0, which stands for the lowest level and not for the "
        "level 0: its padding takes part in the fit.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: _one_for_all,
        keeps=0,
        sentence="this is the best single constant for the whole tensor. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong("a row is a block", lambda c: _wrong_axis, keeps=0),
    Wrong(
        "the short last block is dropped",
        lambda c: _whole_blocks_only,
        keeps=0,
        sentence="the short last block is missing, in the constants and in the error.",
        see=BLOCKS,
    ),
    Wrong(
        "the largest error",
        lambda c: _refit(error=lambda flat, rounded, k: (flat - rounded).abs().max() / flat.abs().max()),
        keeps=3,
        sentence="the constants are right. The error is that of the worst weight; take norms over all of them: ||W - "
        "W'|| / ||W||.",
        see=ERROR,
    ),
    Wrong(
        "the error squared",
        lambda c: _refit(error=lambda *of_all: _relative(*of_all) ** 2),
        keeps=3,
        sentence="the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.",
        see=ERROR,
    ),
    Wrong(
        "the mean squared error",
        lambda c: _refit(error=lambda flat, rounded, k: (flat - rounded).square().mean()),
        keeps=3,
        sentence="the constants are right. The error is the mean squared error, which changes with the unit of the "
        "weights; divide norms: ||W - W'|| / ||W||.",
        see=ERROR,
    ),
    Wrong(
        "the norm of the error",
        lambda c: _refit(error=lambda flat, rounded, k: (flat - rounded).norm()),
        keeps=3,
        sentence="the constants are right. The error is not divided by the norm of the weights.",
        see=ERROR,
    ),
    Wrong(
        "divided by the rounded norm",
        lambda c: _refit(error=lambda flat, rounded, k: (flat - rounded).norm() / rounded.norm()),
        keeps=3,
        sentence="the constants are right. The error is divided by the norm of the rounded weights; the weights "
        "themselves are what we compare with.",
        see=ERROR,
    ),
    Wrong(
        "the mean of the blocks' errors",
        lambda c: _with_mean_of_block_errors,
        keeps=3,
        sentence="the constants are right. The error is the mean of the blocks' relative errors; take one norm over "
        "all weights.",
        see=ERROR,
    ),
    Wrong(
        "the error in code space",
        lambda c: _refit(error=_in_code_space),
        keeps=3,
        sentence="the constants are right. The error is measured between scaled weights and levels, where a block of "
        "tiny weights counts as much as one of large weights: multiply by the constants first.",
        see="notebook 06, section 6",
    ),
    Wrong(
        "the mean of absolute errors",
        lambda c: _refit(error=lambda flat, rounded, k: (flat - rounded).abs().sum() / flat.abs().sum()),
        keeps=3,
        sentence="the constants are right. The error adds magnitudes; a Frobenius norm is the root of the sum of "
        "squares.",
        see=ERROR,
    ),
    Wrong(
        "the error in percent",
        lambda c: _refit(error=lambda *of_all: 100 * _relative(*of_all)),
        keeps=3,
        sentence="the constants are right. The error is in percent; the ratio itself is asked for.",
        see=ERROR,
    ),
    Wrong(
        "the weights are changed",
        lambda c: _in_place,
        keeps=4,
        sentence="constants and error are right, but the weights that you were given are changed: what is left of them "
        "is the error. Subtract into a new tensor.",
        see=ERROR,
    ),
    Wrong("only the constants", lambda c: lambda *case: reference(*case)[0], keeps=0),
    Wrong("block size 64, whatever is asked", lambda c: lambda v, codes, book, size: reference(v, codes, book, 64), 0),
    Wrong("float64 is assumed", lambda c: _float64, keeps=0),
    Wrong("lora_edu", lambda c: _lora_edu, keeps=0),
    Wrong("bitsandbytes", lambda c: _bitsandbytes, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: reference,
    right={
        "broadcasting, einsum": lambda c: broadcast,
        "NumPy, float64, least squares": lambda c: in_numpy,
        "one weight at a time, an extra keyword": lambda c: one_by_one,
    },
    wrong=[*WRONG, *cheats("3.6", reference)],
)
