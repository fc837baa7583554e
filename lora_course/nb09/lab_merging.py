"""A merge into 4 bits that survives: only the codes and constants of W′ and an adapter are there (notebook 09).

W′ + s B A has to be rounded again, and every weight of W′ lies on its level: the nearest level is nearly always the
old one. Each way below chooses levels otherwise. The codes stay as many and as wide, and the constants as they are,
unless the way says "new constants".

What might pass for the adapter's gain: rounding anew, or fitting to the calibration text. So each way also merges an
update of size zero, and a random one as large as the adapter's. Calibration and measurement read different plays.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from lora_course.nb04.lab import RANK, RATE, STEPS, empty_adapter, train_adapter
from lora_course.nb06.lab import inputs_of
from lora_course.running.finetune import loss_on
from lora_course.running.stored import load_results
from lora_edu import GPT, files, load_adapter, load_base, load_text, nf_codebook, quantize_linears
from lora_edu.lora import lora_layers
from lora_edu.observing import block_linears
from lora_edu.quantization import nearest_code, quantize, stochastic_code
from lora_edu.variants import loftq_start

NF4 = nf_codebook(4)
CALIBRATION_WINDOWS, WINDOWS = 16, 32  # of 256 bytes: to calibrate with, and to measure on
Choose = Callable[[Tensor, Tensor], Tensor]  # scaled weights and the codebook -> codes: the nearest, or by lot


@lru_cache
def trained(adapter: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """W′, the constant of each of its weights, and s B A, for each matrix by its path in the blocks.

    adapter: `shipped`; `trained`, on plays for 50 steps with this seed; `random`, as large as the shipped one.
    """
    model = quantize_linears(load_base("laptop", device="cpu"), double_quant=True)
    generator = torch.Generator().manual_seed(seed)
    if adapter == "trained":
        train_adapter(empty_adapter(RANK, seed, model), load_text("shakespeare"), STEPS, RATE, seed)
    else:
        load_adapter(model, files.data_file("shakespeare-adapter"))
    found: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
    for path, layer in lora_layers(model).items():
        update = layer.delta_weight().detach()
        if adapter == "random":
            sizes = (len(update), RANK), (RANK, update.shape[1])
            drawn = torch.mm(*(torch.randn(*size, generator=generator) for size in sizes))
            update = drawn * update.norm() / drawn.norm()
        constants = layer.base.quantized.block_scales().repeat_interleave(64).view_as(update)
        for kept, matrix in zip(found, (layer.base.dequantize(), constants, update), strict=True):
            kept[path.removeprefix("blocks.")] = matrix
    return found


def with_weights(weights: dict[str, Tensor]) -> GPT:
    """The course's GPT with these matrices in its blocks."""
    model = load_base("laptop", device="cpu").requires_grad_(False)
    for path, layer in block_linears(model).items():
        layer.weight.data = weights[path].clone()
    return model


# --- the ways: (W′ + s B A, constants, W′) -> levels, all (d_out, d_in) -----------------------------------------------


def rounded(values: Tensor, constants: Tensor, choose: Choose = nearest_code) -> Tensor:
    """Each value to a level of its block. Any shape."""
    scaled = (values / constants.clamp(min=1e-38)).clamp(-1, 1)
    return NF4[choose(scaled.flatten(), NF4).long()].view_as(values) * constants


def border_moved(values: Tensor, constants: Tensor, old: Tensor) -> Tensor:
    """Step to the next level where the push is the largest part of the way, until it has arrived in sum."""
    push = values - old
    ends = torch.stack([rounded(values, constants, partial(beside, upper=upper)) for upper in (0, 1)])
    near, far = torch.where(push == 0, old, torch.where(push < 0, ends.flip(0), ends))
    way = far - near
    order = ((values - near) / torch.where(way == 0, 1, way)).flatten().argsort(descending=True)
    arrived = (way * push).flatten()[order].cumsum(0)
    steps = order[: int((arrived < ((values - near) * push).sum()).sum())]
    merged = near.flatten().clone()
    merged[steps] += way.flatten()[steps]
    return merged.view_as(values)


def beside(scaled: Tensor, codebook: Tensor, upper: int) -> Tensor:
    """The code below each value, or the one above it. All (n,)."""
    return torch.bucketize(scaled, codebook).clamp(1, len(codebook) - 1) - 1 + upper


def compensated(values: Tensor, constants: Tensor, inputs: Tensor, choose: Choose = nearest_code) -> Tensor:
    """Column by column, later columns take back what rounding one does to the outputs: GPTQ, notebook 06."""
    U = torch.linalg.cholesky(torch.linalg.inv(products(inputs)), upper=True)
    left, merged = values.clone(), torch.empty_like(values)
    for j in range(values.shape[1]):
        merged[:, j] = rounded(left[:, j], constants[:, j], choose)
        left[:, j:] -= ((left[:, j] - merged[:, j]) / U[j, j])[:, None] * U[j, j:]
    return merged


def searched(values: Tensor, constants: Tensor, inputs: Tensor, merged: Tensor, rounds: int = 2) -> Tensor:
    """Coordinate search: each weight in turn goes to the level at which the outputs err least, given all others."""
    H, merged = products(inputs), merged.clone()
    slope = (merged - values) @ H
    for j in list(range(values.shape[1])) * rounds:
        better = rounded(merged[:, j] - slope[:, j] / H[j, j], constants[:, j])
        slope += (better - merged[:, j])[:, None] * H[j]
        merged[:, j] = better
    return merged


def products(inputs: Tensor) -> Tensor:
    """X^T X of inputs (n, d_in), a hundredth of its mean diagonal added: (d_in, d_in)."""
    H = inputs.T @ inputs
    return H + 0.01 * H.diagonal().mean() * torch.eye(len(H))


def all_ways(values: Tensor, constants: Tensor, old: Tensor, inputs: Tensor, seed: int) -> dict[str, Tensor]:
    """What each way leaves of one matrix: way -> (d_out, d_in)."""
    again = quantize(values, "nf4", 64, double_quant=True)
    new = again.block_scales().repeat_interleave(64).view_as(values)
    lot = partial(stochastic_code, generator=torch.Generator().manual_seed(seed))
    error_kept_small = compensated(values, constants, inputs)
    Q, B, A = loftq_start(values, RANK, "nf4")
    return {
        "nearest": rounded(values, constants),
        "nearest, new constants": again.dequantize(),
        "border moved": border_moved(values, constants, old),
        "compensated": error_kept_small,
        "searched": searched(values, constants, inputs, error_kept_small),
        "by lot": rounded(values, constants, lot),
        "by lot, new constants": rounded(values, new, lot),
        "by lot, compensated": compensated(values, constants, inputs, lot),
        "LoftQ, an adapter left over": Q + B @ A,
    }


@torch.no_grad()
def merged_again(adapter: str, times: float, *, seed: int = 0) -> dict:
    """The loss on held-out plays of W′, of W′ with `times` this adapter's update beside it, and merged in each way.

    "onto W": the update added to the unrounded weights, and these rounded. seed: of the lot, of the calibration text
    and of an adapter that is trained or random; calibration inputs are the adapted model's own.
    """
    with torch.enable_grad():
        old, constants, updates = trained(adapter, 0 if adapter == "shipped" else seed)
    wanted = {path: W + times * updates[path] for path, W in old.items()}
    W = {path: layer.weight for path, layer in block_linears(load_base("laptop", device="cpu")).items()}
    start = seed * 100_000  # another part of the training text
    inputs = inputs_of(with_weights(wanted), load_text("shakespeare").train[start:], CALIBRATION_WINDOWS)
    result: dict[str, dict[str, Tensor]] = {"W′": old, "apart": wanted}
    for path, values in wanted.items():
        for way, merged in all_ways(values, constants[path], old[path], inputs[path], seed).items():
            result.setdefault(way, {})[path] = merged
    result["onto W"] = {p: quantize(W[p] + times * updates[p], "nf4", 64, double_quant=True).dequantize() for p in W}
    return {way: loss_on(with_weights(weights), "shakespeare", WINDOWS) for way, weights in result.items()}


def kept(arm: dict, way: str) -> float:
    """The share of the adapter's gain that is left."""
    return (arm["W′"] - arm[way]) / (arm["W′"] - arm["apart"])


def left(adapter: str, times: float, ways: tuple[str, ...]) -> dict[str, list[float]]:
    """The same as it is stored, way -> one share a draw."""
    arms = load_results("merge-again")["arms"]
    return {way: [round(kept(arms[arm_name(adapter, times, draw)], way), 2) for draw in DRAWS] for way in ways}


# --- the arms --------------------------------------------------------------------------------------------------------

DRAWS = range(3)


def arm_name(adapter: str, times: float, draw: int) -> str:
    """For example `shipped x 0.1, draw 0`."""
    return f"{adapter} x {times:g}, draw {draw}"


MERGE_ARMS = {
    arm_name(adapter, times, draw): {"adapter": adapter, "times": times, "repeat": draw}
    for adapter, times in (("shipped", 0.1), ("trained", 0.1), ("random", 0.1), ("shipped", 1))
    for draw in DRAWS
} | {arm_name("shipped", 0, 0): {"adapter": "shipped", "times": 0.0}}
