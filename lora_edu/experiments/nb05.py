"""One ruler or many: the shipped base in int4, its constants shared in four ways (notebook 05).

Each way is drawn four times. Rows and blocks begin a quarter of themselves later; one ruler for a whole layer has no
begin, so it is up to 3% longer or shorter. What a clipped ruler cuts is also measured alone, without any rounding,
beside errors of the same sizes with other signs, or at other weights.
"""

import torch
from torch import Tensor

from lora_edu.experiments.scoreboard import begun_later, measured
from lora_edu.rounding import best_length, round_clipped, round_in_blocks

WAYS = ("one absmax a layer", "one, clipped", "an absmax a row", "blocks of 64")
DRAWS = (0.97, 0.99, 1.01, 1.03)  # the ruler's length, over the one that is meant
LONGER = (1.25, 1.5, 2.0)  # a clipped ruler that costs more error and cuts fewer weights
SHARED_ARMS = {f"{way}, draw {draw}": {"way": way, "draw": draw} for way in WAYS for draw in range(4)} | {
    f"one, clipped, {longer} times as long": {"way": "one, clipped", "longer": longer} for longer in LONGER
}
CUTS = ("cut", "flipped", "elsewhere")  # see cut_only
SHARED_ARMS |= {"cut": {"way": "cut"}}
SHARED_ARMS |= {f"{way}, draw {draw}": {"way": way, "draw": draw} for way in CUTS[1:] for draw in range(2)}


def shared_loss(way: str, draw: int | None = None, longer: float = 1.0) -> dict:
    """Round the linear layers in the blocks to int4, or only cut them.

    way: one of WAYS says who shares a constant, one of CUTS what is cut; draw: 0 to 3, of a cut 0 or 1;
    longer: stretches the clipped ruler, to the largest weight at most.
    Returns the errors of weights and outputs, and the loss in nats per byte on held-out speeches.
    """

    def change(weight: Tensor) -> Tensor:
        if way in CUTS:
            return cut_only(weight, way, draw)
        if way == "one, clipped":
            longest = min(longer * best_length(weight, 4), 1)
            return round_clipped(weight, 4, longest * (1 if draw is None else DRAWS[draw]))
        if way == "one absmax a layer":
            return round_clipped(weight, 4, DRAWS[draw])
        size = weight.shape[1] if way == "an absmax a row" else 64
        return begun_later(lambda flat: round_in_blocks(flat, 4, size), draw * size // 4)(weight)

    return measured(change)


def cut_only(weight: Tensor, way: str, draw: int | None = None) -> Tensor:
    """A weight (d_out, d_in) that lost what the best clipped ruler cuts off, and is not rounded.

    "flipped": the same weights are off by as much, each with a random sign.
    "elsewhere": as many weights, drawn by lot, are off by as much, each toward zero (as a cut is).
    """
    end = best_length(weight, 4) * weight.abs().max()
    off = weight.clamp(-end, end) - weight
    generator = torch.Generator().manual_seed(draw or 0)
    if way == "flipped":
        off = off * (2 * torch.randint(2, off.shape, generator=generator) - 1)
    if way == "elsewhere":
        order = torch.randperm(off.numel(), generator=generator)
        off = -weight.sign() * off.abs().flatten()[order].view_as(weight)
    return weight + off
