"""A merge into 4 bits that survives: only the codes and constants of W′ and an adapter are there (notebook 09).

W′ + s B A has to be rounded again, and every weight of W′ lies on its level: the nearest level is nearly always the
old one. By lot, a weight goes to one of the two levels beside it, the nearer one likelier. Codes stay as many and as
wide, and constants as they are.

What might pass for the adapter's gain is rounding anew. So an update of size zero is merged, too, and a random one as
large as the adapter's.
"""

from functools import lru_cache, partial

import torch
from torch import Tensor

from lora_course.nb04.lab import RANK, RATE, STEPS, empty_adapter, train_adapter
from lora_course.running.finetune import loss_on
from lora_course.running.stored import load_results
from lora_edu import GPT, files, load_adapter, load_base, load_text, nf_codebook, quantize_linears
from lora_edu.lora import lora_layers
from lora_edu.observing import block_linears
from lora_edu.quantization import nearest_code, stochastic_code

NF4 = nf_codebook(4)
WINDOWS = 32  # of 256 bytes, to measure on


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


def rounded(values: Tensor, constants: Tensor, choose=nearest_code) -> Tensor:
    """Each value to a level of its block. Any shape. choose: scaled weights and the codebook -> codes."""
    scaled = (values / constants.clamp(min=1e-38)).clamp(-1, 1)
    return NF4[choose(scaled.flatten(), NF4).long()].view_as(values) * constants


@torch.no_grad()
def merged_again(adapter: str, times: float, *, seed: int = 0) -> dict:
    """The loss on held-out plays of W′, of W′ with `times` this adapter's update beside it, and merged in each way.

    seed: of the lot, and of an adapter that is trained or random.
    """
    with torch.enable_grad():
        old, constants, updates = trained(adapter, 0 if adapter == "shipped" else seed)
    result: dict[str, dict[str, Tensor]] = {"W′": old, "apart": {}, "nearest": {}, "by lot": {}}
    for path, W in old.items():
        lot = partial(stochastic_code, generator=torch.Generator().manual_seed(seed))
        wanted = result["apart"][path] = W + times * updates[path]
        result["nearest"][path] = rounded(wanted, constants[path])
        result["by lot"][path] = rounded(wanted, constants[path], lot)
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
