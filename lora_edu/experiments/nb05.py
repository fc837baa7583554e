"""One ruler or many: the shipped base in int4, its constants shared in four ways (notebook 05).

Each way is drawn four times. Rows and blocks begin a quarter of themselves later; one ruler for a whole layer has no
begin, so it is up to 3% longer or shorter. What a clipped ruler cuts is also measured alone, without any rounding,
beside errors of the same sizes with other signs or at other weights, and with gains that bring the outputs back.
"""

import torch
from torch import Tensor

from lora_edu.experiments.nb06 import inputs_of
from lora_edu.experiments.scoreboard import begun_later, measured
from lora_edu.models.pretrain import load_base
from lora_edu.observing import block_linears
from lora_edu.rounding import best_length, round_clipped, round_in_blocks
from lora_edu.texts import load_text

WAYS = ("one absmax a layer", "one, clipped", "an absmax a row", "blocks of 64")
DRAWS = (0.97, 0.99, 1.01, 1.03)  # the ruler's length, over the one that is meant
LONGER = (1.25, 1.5, 2.0)  # a clipped ruler that costs more error and cuts fewer weights
SHARED_ARMS = {f"{way}, draw {draw}": {"way": way, "draw": draw} for way in WAYS for draw in range(4)} | {
    f"one, clipped, {longer} times as long": {"way": "one, clipped", "longer": longer} for longer in LONGER
}
CUTS = {  # way -> what takes the weight's place, without any rounding; see cut_layer
    "cut": "cut",
    "flipped": "flipped: the same weights, random signs",
    "elsewhere": "elsewhere: other weights, toward zero",
    "blown up": "blown up: flipped, until outputs are as far off",
    "outward": "outward: the same weights, away from zero",
    "cut, a gain a row": "cut, then a gain a row",
    "blown up, a gain a row": "blown up, then a gain a row",
}
UNDRAWN = ("cut", "outward")  # nothing is left to lot
SHARED_ARMS |= {way: {"way": way} for way in UNDRAWN}
SHARED_ARMS |= {
    f"{way}, draw {draw}": {"way": way, "draw": draw} for way in CUTS if way not in UNDRAWN for draw in range(3)
}


def shared_loss(way: str, draw: int | None = None, longer: float = 1.0) -> dict:
    """Round the linear layers in the blocks to int4, or only cut them.

    way: one of WAYS says who shares a constant, one of CUTS what is cut; draw: 0 to 3, of a cut 0 to 2;
    longer: stretches the clipped ruler, to the largest weight at most.
    Returns the errors of weights and outputs, and the loss in nats per byte on held-out speeches.
    """

    def change(weight: Tensor) -> Tensor:
        if way == "one, clipped":
            longest = min(longer * best_length(weight, 4), 1)
            return round_clipped(weight, 4, longest * (1 if draw is None else DRAWS[draw]))
        if way == "one absmax a layer":
            return round_clipped(weight, 4, DRAWS[draw])
        size = weight.shape[1] if way == "an absmax a row" else 64
        return begun_later(lambda flat: round_in_blocks(flat, 4, size), draw * size // 4)(weight)

    if way not in CUTS:
        return measured(change)
    layers, inputs = block_linears(load_base("laptop", device="cpu")), inputs_seen(draw or 0)
    changed = [cut_layer(layer.weight.detach(), inputs[path], way, draw) for path, layer in layers.items()]
    one_by_one = iter(changed)  # the layers come in the same order
    return measured(lambda _: next(one_by_one))


def inputs_seen(draw: int) -> dict[str, Tensor]:
    """What each linear layer is given in 8 windows of the training speeches, another 8 in each draw: (2048, d_in)."""
    tokens = load_text("speeches").train
    return inputs_of(load_base("laptop", device="cpu"), tokens[draw * len(tokens) // 24 :], windows=8)


def cut_layer(weight: Tensor, inputs: Tensor, way: str, draw: int | None = None) -> Tensor:
    """One way of CUTS. weight: (d_out, d_in), inputs: (n, d_in).

    "blown up": the flipped errors times the number that makes the outputs err by as much as the cut's.
    """
    plain = way.removesuffix(", a gain a row")
    if plain == "blown up":
        cut, flipped = (cut_only(weight, name, draw) - weight for name in ("cut", "flipped"))
        changed = weight + flipped * ((inputs @ cut.T).norm() / (inputs @ flipped.T).norm().clamp(min=1e-12))
    else:
        changed = cut_only(weight, plain, draw)
    return changed if plain == way else with_row_gains(weight, changed, inputs)


def with_row_gains(weight: Tensor, changed: Tensor, inputs: Tensor) -> Tensor:
    """Each row of the changed weight times the number that brings its outputs nearest (least squares).

    weight and changed: (d_out, d_in), inputs: (n, d_in).
    """
    wanted, found = inputs @ weight.T, inputs @ changed.T  # (n, d_out)
    gain = (wanted * found).sum(0) / found.square().sum(0)
    return changed * gain[:, None]


def cut_only(weight: Tensor, way: str, draw: int | None = None) -> Tensor:
    """A weight (d_out, d_in) that lost what the best clipped ruler cuts off, and is not rounded.

    "flipped": the same weights are off by as much, each with a random sign.
    "elsewhere": as many weights, drawn by lot, are off by as much, each toward zero (as a cut is).
    "outward": the same weights are off by as much, each away from zero.
    """
    end = best_length(weight, 4) * weight.abs().max()
    off = weight.clamp(-end, end) - weight
    generator = torch.Generator().manual_seed(draw or 0)
    if way == "flipped":
        off = off * (2 * torch.randint(2, off.shape, generator=generator) - 1)
    if way == "outward":
        off = -off
    if way == "elsewhere":
        order = torch.randperm(off.numel(), generator=generator)
        off = -weight.sign() * off.abs().flatten()[order].view_as(weight)
    return weight + off
