"""Exercise 3.3, better constants for the same codes: right and wrong answers."""

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong


def relative(flat, rounded, constants):
    return (flat - rounded).norm() / flat.norm()


def best(w, q):
    return (w * q).sum() / (q * q).sum().clamp(min=1e-30)


def fitting(fit=best, error=relative, look_up=None):
    """The right answer, or one with another step: fitting a block, measuring the error, decoding the codes."""

    def answer(values, codes, codebook, block_size):
        flat = values.flatten()
        levels = codebook[codes.long()] if look_up is None else look_up(flat, codes, codebook, block_size)
        constants = torch.stack(list(map(fit, flat.split(block_size), levels.split(block_size))))
        of_each = constants.repeat_interleave(block_size)[: len(flat)]
        return constants, error(flat, levels * of_each, of_each)

    return answer


reference = fitting()


# --- right -----------------------------------------------------------------------------------------------------------


def broadcast(values, codes, codebook, block_size):
    pad = (0, -values.numel() % block_size)
    w = torch.nn.functional.pad(values.flatten(), pad).view(-1, block_size)  # (n_blocks, block_size)
    q = torch.nn.functional.pad(codebook[codes.long()], pad).view(-1, block_size)
    squares = torch.einsum("bi,bi->b", q, q)
    constants = torch.einsum("bi,bi->b", w, q) / torch.where(squares == 0, 1, squares)
    return constants, (torch.linalg.norm(w - q * constants[:, None]) / torch.linalg.norm(w)).item()


def in_numpy(values, codes, codebook, block_size):
    flat, levels = values.double().flatten().numpy(), codebook.double().numpy()[codes.numpy()]
    constants, rounded = [], np.zeros_like(flat)
    for start in range(0, len(flat), block_size):
        block = slice(start, start + block_size)
        constant, *_ = np.linalg.lstsq(levels[block, None], flat[block], rcond=None)
        constants.append(constant[0])
        rounded[block] = constant[0] * levels[block]
    return np.array(constants), np.linalg.norm(flat - rounded) / np.linalg.norm(flat)


# --- wrong -----------------------------------------------------------------------------------------------------------


def signed(w, q):
    return w[w.abs().argmax()]


def mean_ratio(w, q):
    used = q != 0
    return (w[used] / q[used]).mean() if used.any() else torch.tensor(0.0)


def ratio_of_sums(w, q):
    return w.sum() / q.sum() if q.sum() != 0 else torch.tensor(0.0)


def ratio_of_norms(w, q):
    return w.norm() / q.norm().clamp(min=1e-30) * (w * q).sum().sign()


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


def with_mean_of_block_errors(values, codes, codebook, block_size):
    def measure(flat, rounded, of_each):
        pairs = zip(flat.split(block_size), rounded.split(block_size), strict=True)
        return torch.stack([(w - r).norm() / w.norm() for w, r in pairs]).mean()

    return fitting(error=measure)(values, codes, codebook, block_size)


def in_code_space(flat, rounded, of_each):
    of_each = torch.where(of_each == 0, 1, of_each)
    return (flat / of_each - rounded / of_each).norm() / (flat / of_each).norm()


def in_place(values, codes, codebook, block_size):
    constants, error = reference(values, codes, codebook, block_size)
    values -= (codebook[codes.long()] * constants.repeat_interleave(block_size)[: values.numel()]).view(values.shape)
    return constants, error


BLOCKS = "notebook 05, section 4"
ERROR = "notebook 05, section 1"
LEVELS = "notebook 06, section 3"
TEXT = "exercise 3.3"

WRONG = [
    Wrong("the absmax", lambda c: fitting(lambda w, q: w.abs().max()), 0,
          "these constants are the absmax of each block. The question is which constant makes the squared error "
          "of the block smallest, for the codes that are given.", BLOCKS),
    Wrong("the constant with its sign", lambda c: fitting(signed), 0,
          "these are the values of the largest magnitude. They make one value of each block exact; the question is "
          "which constant makes the squared error of the whole block smallest.", BLOCKS),
    Wrong("the mean of the ratios", lambda c: fitting(mean_ratio), 0,
          "this is the mean of the ratios w / q. It lets small levels count as much as large ones: write the "
          "squared error as a function of the constant, and set its derivative to 0.", TEXT),
    Wrong("the ratio of the sums", lambda c: fitting(ratio_of_sums), 0,
          "this is the sum of w over the sum of q, where values of both signs cancel. Multiply by q before "
          "summing: the derivative of (w - s q)^2 is -2 q (w - s q).", TEXT),
    Wrong("the ratio of the norms", lambda c: fitting(ratio_of_norms), 0,
          "this is the ratio of two norms. It gives the rounded block the *length* of the block, which is not "
          "where it comes closest.", TEXT),
    Wrong("the other way round", lambda c: fitting(lambda w, q: (w * q).sum() / (w * w).sum()), 0,
          "this divides by the sum of w * w. That is the best factor from the weights to the levels; the "
          "question is the one from the levels to the weights.", TEXT),
    Wrong("the codes taken for levels",
          lambda c: fitting(look_up=lambda flat, codes, codebook, block_size: codes.float()), 0,
          "the codes themselves are fitted to the weights. A code is an index: look its level up in the codebook.",
          LEVELS),
    Wrong("the nearest codes are looked for again", lambda c: fitting(look_up=looked_up_again), 0,
          "the weights are quantized again, and the codes that you are given are not used. They stay, whatever "
          "they are: only the constants are new.", LEVELS),
    Wrong("0 / 0", lambda c: fitting(lambda w, q: (w * q).sum() / (q * q).sum()), 0,
          "in a block with no level but 0 the constant is 0 / 0, which is NaN (not a number), and so is the "
          "error. Take 0 there.", BLOCKS),
    Wrong("the last block is padded with code 0", lambda c: padded_with_code_0, 0,
          "the short last block is filled up with code 0, which stands for the lowest level and not for the "
          "level 0: its padding takes part in the fit.", BLOCKS),
    Wrong("one constant for all", lambda c: one_for_all, 0,
          "this is the best single constant for the whole tensor. Each block has its own.", "notebook 05, section 3"),
    Wrong("the short last block is dropped", lambda c: whole_blocks_only, 0,
          "the short last block is missing, in the constants and in the error.", BLOCKS),
    Wrong("the largest error",
          lambda c: fitting(error=lambda flat, rounded, k: (flat - rounded).abs().max() / flat.abs().max()), 6,
          "the constants are right. The error is that of the worst weight; take norms over all of them: ||W - "
          "W'|| / ||W||.", ERROR),
    Wrong("the error squared", lambda c: fitting(error=lambda *of_all: relative(*of_all) ** 2), 6,
          "the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.", ERROR),
    Wrong("the mean squared error",
          lambda c: fitting(error=lambda flat, rounded, k: (flat - rounded).square().mean()), 6,
          "the constants are right. The error is the mean squared error, which changes with the unit of the "
          "weights; divide norms: ||W - W'|| / ||W||.", ERROR),
    Wrong("the norm of the error", lambda c: fitting(error=lambda flat, rounded, k: (flat - rounded).norm()), 6,
          "the constants are right. The error is not divided by the norm of the weights.", ERROR),
    Wrong("divided by the rounded norm",
          lambda c: fitting(error=lambda flat, rounded, k: (flat - rounded).norm() / rounded.norm()), 6,
          "the constants are right. The error is divided by the norm of the rounded weights; the weights "
          "themselves are what we compare with.", ERROR),
    Wrong("the mean of the blocks' errors", lambda c: with_mean_of_block_errors, 6,
          "the constants are right. The error is the mean of the blocks' relative errors; take one norm over "
          "all weights.", ERROR),
    Wrong("the error in code space", lambda c: fitting(error=in_code_space), 6,
          "the constants are right. The error is measured between scaled weights and levels, where a block of tiny "
          "weights counts as much as one of large weights: multiply by the constants first.", "notebook 06, section 7"),
    Wrong("the mean of absolute errors",
          lambda c: fitting(error=lambda flat, rounded, k: (flat - rounded).abs().sum() / flat.abs().sum()), 6,
          "the constants are right. The error adds magnitudes; a Frobenius norm is the root of the sum of squares.",
          ERROR),
    Wrong("the error in percent", lambda c: fitting(error=lambda *of_all: 100 * relative(*of_all)), 6,
          "the constants are right. The error is in percent; the ratio itself is asked for.", ERROR),
    Wrong("the weights are changed", lambda c: in_place, 8,
          "constants and error are right, but the weights that you were given are changed: what is left of them "
          "is the error. Subtract into a new tensor.", TEXT),
]  # fmt: skip

RIGHT = {"broadcasting, einsum": lambda c: broadcast, "NumPy, float64, least squares": lambda c: in_numpy}
SOLUTIONS = Solutions(lambda c: reference, RIGHT, WRONG)
