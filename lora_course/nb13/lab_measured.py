"""What notebook 13 and the page of questions measure in a second or less: a number in several settings.

Each function returns {setting: number}; an `Interval` where a number is left to luck. Nothing is written down: the
numbers are computed here, or come out of the stored results of an experiment. What a number must be for a sentence to
hold stands beside the sentence, in `pictures_claims`.
"""

import copy
from functools import cache

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lora_course.running.finetune import shipped as base
from lora_course.running.stored import load_results
from lora_edu import GPTConfig, NF4Linear, files, load_adapter, quantize, quantize_linears, training_bytes
from lora_edu.codebooks import get_codebook
from lora_edu.lora import LoRALinear, add_lora, lora_layers, merge
from lora_edu.measures import cosine
from lora_edu.memory.shapes import ARCHITECTURES

Interval = tuple[float, float]  # where a number lies, as far as its seeds can tell: low, high
Numbers = dict[str, float | Interval]


@cache
def results(name: str) -> dict:
    return load_results(name)["arms"]


def square(width: int = 512) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(width, width, bias=False)


def adapted(linear: nn.Module, rank: int = 8, alpha: float = 16, trained: bool = False) -> LoRALinear:
    """A layer with an adapter; trained: as if it were, B at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = LoRALinear(linear, rank, alpha)
        if trained:
            nn.init.normal_(layer.lora_B)
        return layer


# --- the form of the update ------------------------------------------------------------------------------------------


def excess_rank(ranks: tuple[int, ...] = (1, 8, 64)) -> Numbers:
    """By how much the rank of an update of shape (192, 256) exceeds r."""
    updates = {r: adapted(nn.Linear(256, 192), r, trained=True).delta_weight().detach() for r in ranks}
    return {f"r = {r}": float(torch.linalg.matrix_rank(update) - r) for r, update in updates.items()}


def full_update_rank(r: int = 8) -> Numbers:
    """The same of an update that is no such product."""
    update = torch.randn(192, 256, generator=torch.Generator().manual_seed(0))
    return {"a random full matrix": float(torch.linalg.matrix_rank(update) - r)}


def random_shares() -> Numbers:
    """The share of numbers that are not zero when an adapter begins, in the emptier of its two factors."""
    layers = lora_layers(add_lora(copy.deepcopy(base()), 8, 16, "all-linear"))
    return {name: emptier(layers[f"blocks.0.{name}"]) for name in ("attention.q_proj", "mlp.up_proj")}


def emptier(layer: LoRALinear) -> float:
    return min((factor.detach() != 0).double().mean().item() for factor in (layer.lora_A, layer.lora_B))


def both_random() -> Numbers:
    return {"A and B drawn": emptier(adapted(nn.Linear(256, 192), trained=True))}


def operations(layer: nn.Module, T: int = 32, width: int = 512) -> tuple[int, int]:
    """The operations of a forward and of a backward pass over T inputs."""
    with FlopCounterMode(display=False) as counter:
        y = layer(torch.ones(T, width, requires_grad=True))
        forward = counter.get_total_flops()
        y.sum().backward()
        return forward, counter.get_total_flops() - forward


def operations_of_lora(rank: int = 8) -> Numbers:
    """The operations of a layer with an adapter as a share of those of the same layer, trained in full."""
    (f, b), (plain_f, plain_b) = operations(adapted(square(), rank)), operations(square())
    return {"forward": f / plain_f, "backward": b / plain_b, "both together": (f + b) / (plain_f + plain_b)}


class Operands(TorchDispatchMode):
    """Notes how many bits the numbers have that are multiplied."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten._int_mm)

    def __init__(self):
        super().__init__()
        self.bits: list[int] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in self.PRODUCTS:
            self.bits += [8 * x.element_size() for x in args[-2:]]
        return operation(*args, **(kwargs or {}))


def multiplied(layer: nn.Module, sixteen: bool = False) -> list[int]:
    """The bits of what a layer multiplies, two numbers for each product. sixteen: whether 16 bits are asked for."""
    with torch.no_grad(), Operands() as seen, torch.autocast("cpu", torch.bfloat16, sixteen):
        layer(torch.ones(32, 512))
    return seen.bits


def operand_bits() -> Numbers:
    """How many bits the numbers have that an NF4 layer multiplies, in the widest of its products."""
    layer, ways = adapted(NF4Linear.from_linear(square())), {"float32": False, "16 bits asked for": True}
    return {name: float(max(multiplied(layer, sixteen))) for name, sixteen in ways.items()}


def products() -> Numbers:
    """How many products a layer makes of its inputs."""
    layers = {"merged": merge(adapted(square(), trained=True)), "apart": adapted(square())}
    return {name: len(multiplied(layer)) / 2 for name, layer in layers.items()}


def integer_bits() -> Numbers:
    """The same of a product that really is of 8-bit integers."""
    x = torch.ones(32, 32, dtype=torch.int8)
    with Operands() as seen:
        torch._int_mm(x, x)
    return {"torch's product of 8-bit integers": float(max(seen.bits))}


# --- sizes -----------------------------------------------------------------------------------------------------------


def times_fewer_trained() -> Numbers:
    """How many times fewer numbers LoRA trains than there are."""
    gpt3: Numbers = {f"GPT-3, r = {r} on q, v": 175_255.8e6 / (96 * 2 * r * (12288 + 12288)) for r in (1, 4, 8)}
    llama, course = ARCHITECTURES["LLaMA 7B"], ARCHITECTURES["LLaMA 7B"].of_gpt(GPTConfig())
    return gpt3 | {
        "LLaMA 7B, r = 64, all linears": llama.n_parameters / llama.adapter_numbers(64, tuple(llama.linears)),
        "the course's GPT, r = 8": course.n_parameters / course.adapter_numbers(8, tuple(course.linears)),
    }


def less_in_a_step() -> Numbers:
    """By which factor LoRA shrinks the memory of a whole step: measured, counted, and as the paper printed it."""
    films, llama = results("step-films"), ARCHITECTURES["LLaMA 7B"]
    full, lora = (sum(training_bytes(llama, checkpointing=True, **how).values()) for how in ({}, {"rank": 64}))
    return {
        "a step of our GPT": films["none"]["peak"] / films["freeze"]["peak"],
        "a step of LLaMA 7B, r = 64, counted": full / lora,
        "GPT-3, as published: 1.2 TB to 350 GB": 1200 / 350,
    }


# --- rounding --------------------------------------------------------------------------------------------------------


def unequal_gaps(names: tuple[str, ...] = ("nf4", "fp4-bnb")) -> Numbers:
    """The largest distance between two neighboring levels of a code, over the smallest; fp4-bnb's two zeros are one."""
    gaps = {name: get_codebook(name).unique().diff() for name in names}
    return {name: (gap.max() / gap.min()).item() for name, gap in gaps.items()}


def kept_in_codes(sizes: tuple[float, ...] = (0.1, 0.03, 0.01)) -> Numbers:
    """The cosine of an update with what arrives when it is merged into W' and rounded again; sizes: of it over W'."""
    four_bits = quantize_linears(copy.deepcopy(base()), double_quant=True)
    layer = lora_layers(load_adapter(four_bits, files.data_file("shakespeare-adapter")))["blocks.2.mlp.up_proj"]
    rounded, update = layer.base.dequantize(), layer.delta_weight().detach()
    own = (update.norm() / rounded.norm()).item()
    found: Numbers = {}
    for size in (own, *sizes):
        push = update * size / own
        merged = quantize(rounded + push, "nf4", 64, double_quant=True).dequantize()
        found[f"update of {size:.0%}"] = cosine(merged - rounded, push)
    return found
