"""Can a branch of low rank hold the error of rounding? LoftQ, QERA and EoRA, on the shipped base (notebook 06).

Each way rounds every linear layer of the blocks to NF4 in blocks of 64 and adds a branch of rank 8. The inputs and the
the draws are those of GPTQ in `lab`: 16 windows of training addresses, and orders of the columns.

SVD: the nearest matrix of rank 8 to the error. LoftQ (Li et al. 2023, arXiv 2310.08659): round what the branch leaves
over, and fit the branch again, five times. Weighted: the branch that brings the *outputs* nearest, as in QERA (Zhang
et al. 2024, arXiv 2410.06040) and EoRA (Liu et al. 2024, arXiv 2410.21271).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_course.nb06.lab import arm_name, inputs_of
from lora_course.running.scoreboard import rounded
from lora_edu import load_base, load_text
from lora_edu.measures import kl_and_flips
from lora_edu.observing import block_linears

RANK = 8
ROUNDS = 5  # of LoftQ
WINDOWS = 16  # of 256 bytes: 4,096 inputs of each layer


def nearest_of_rank(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of this rank: the first `rank` parts of the singular value decomposition."""
    U, S, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vt[:rank]


def output_branch(error: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """The matrix of this rank that takes most of an error off the outputs.

    error: W - W' (d_out, d_in), inputs: (n, d_in) -> L (d_out, d_in) with the smallest ||(error - L) inputs^T||. With
    H = R^T R that norm is the plain one of (error - L) R^T, for which the singular values know the answer.
    """
    H = inputs.T @ inputs
    H += 0.01 * H.diagonal().mean() * torch.eye(len(H))
    R = torch.linalg.cholesky(H, upper=True)
    seen = nearest_of_rank(error @ R.T, rank)
    return seen @ torch.linalg.inv(R.T)


# --- the ways: a weight (d_out, d_in), its inputs (n, d_in), a source of random numbers -> what takes its place ------

Way = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def nf4_alone(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    return rounded(weight, "nf4")


def with_svd(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    nf4 = rounded(weight, "nf4")
    return nf4 + nearest_of_rank(weight - nf4, RANK)


def with_loftq(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    branch = torch.zeros_like(weight)
    for _ in range(ROUNDS):
        nf4 = rounded(weight - branch, "nf4")
        branch = nearest_of_rank(weight - nf4, RANK)
    return nf4 + branch


def with_inputs(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    nf4 = rounded(weight, "nf4")
    return nf4 + output_branch(weight - nf4, inputs, RANK)


def with_shuffled_inputs(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Control: each column of the inputs is given to another weight."""
    order = torch.randperm(inputs.shape[1], generator=generator)
    return with_inputs(weight, inputs[:, order], generator)


def with_random(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Control: a branch of rank 8 at random, of the norm that the weighted one has."""
    nf4 = rounded(weight, "nf4")
    norm = output_branch(weight - nf4, inputs, RANK).norm()
    B = torch.randn(weight.shape[0], RANK, generator=generator)
    A = torch.randn(RANK, weight.shape[1], generator=generator)
    branch = B @ A
    return nf4 + branch * (norm / branch.norm())


def small_blocks(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Control: no branch, its bits in blocks of 8 with constants of 8 bits."""
    return rounded(weight, "nf4", 8, 8)


def longer_codes(weight: Tensor, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Control: no branch, its bits in codes of 5 bits, with constants of 8 bits."""
    return rounded(weight, "nf5", 64, 8)


WAYS: dict[str, Way] = {
    "no branch": nf4_alone,
    "SVD of the error": with_svd,
    "LoftQ": with_loftq,
    "weighted with inputs": with_inputs,
    "weighted, shuffled": with_shuffled_inputs,
    "random": with_random,
    "blocks of 8": small_blocks,
    "NF5": longer_codes,
}
DRAWS = range(4)
REPAIR_ARMS = {arm_name(way, draw): {"way": way, "draw": draw} for draw in DRAWS for way in WAYS}


def branch_bits(rank: int = RANK) -> float:
    """What a branch adds to the bits of a weight, over all layers of the blocks, in 16 bits a number."""
    shapes = [layer.weight.shape for layer in block_linears(load_base("laptop", device="cpu")).values()]
    numbers = sum(rank * (d_out + d_in) for d_out, d_in in shapes)
    weights = sum(d_out * d_in for d_out, d_in in shapes)
    return 16 * numbers / weights


def repaired_loss(way: str, draw: int, *, windows: int = 32) -> dict[str, float]:
    """Put one way's weights into the shipped base, its columns meanwhile in the order of a draw.

    Returns the relative error of all weights together, and how far the guesses moved on so many windows of held-out
    addresses: KL in nats per byte, and flips. On half as many of plays, the KL.
    """
    base = load_base("laptop", device="cpu")
    changed = load_base("laptop", device="cpu")
    generator = torch.Generator().manual_seed(draw)
    inputs = inputs_of(base, load_text("speeches").train, windows=WINDOWS)
    lost, total = 0.0, 0.0
    for path, layer in block_linears(changed).items():
        weight = layer.weight.detach()
        order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(draw))  # as in `permuted`
        ordered = WAYS[way](weight[:, order].contiguous(), inputs[path][:, order], generator)
        new = ordered[:, order.argsort()]
        lost += (new - weight).square().sum().item()
        total += weight.square().sum().item()
        layer.weight.data = new
    addresses = kl_and_flips(changed, base, load_text("speeches").validation, max_windows=windows)
    plays = kl_and_flips(changed, base, load_text("shakespeare").validation, max_windows=windows // 2)
    return {
        "weight_error": round((lost / total) ** 0.5, 5),
        "kl": round(addresses.kl, 6),
        "flips": round(addresses.flips, 4),
        "plays_kl": round(plays.kl, 6),
    }
