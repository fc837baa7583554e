"""What the verdicts of notebook 13 are computed from: for each sentence, a number in several settings.

Each function returns {setting: number}. Nothing is written down: the numbers are computed here, in a second or less, or
come out of the stored results of an experiment. What a number must be for the sentence to hold stands beside the
sentence, in `nb13_claims`.
"""

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lora_edu import files
from lora_edu.codebooks import get_codebook
from lora_edu.experiments.stored import load_results
from lora_edu.gpt import GPTConfig
from lora_edu.lora import LoRALinear, add_lora, lora_layers
from lora_edu.measures import cosine, relative_error
from lora_edu.memory.activations import predicted_activation_bytes
from lora_edu.memory.calculator import training_bytes
from lora_edu.memory.shapes import ADAPTERS, ARCHITECTURES, BASE, CONSTANTS, GRADIENTS, OPTIMIZER, predicted_bytes
from lora_edu.models.pretrain import load_base
from lora_edu.observing import block_linears, layer_inputs
from lora_edu.peft_io import load_adapter
from lora_edu.qlora import NF4Linear, quantize_linears
from lora_edu.quantization import quantize
from lora_edu.texts import load_text

Numbers = dict[str, float]


@cache
def base() -> nn.Module:
    """The shipped GPT, loaded once. Nobody changes it: what changes a model copies it first."""
    return load_base("laptop", device="cpu").requires_grad_(False)


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
    """LoRA's operations as a share of full training's."""
    (f, b), (full_f, full_b) = operations(adapted(square(), rank)), operations(square())
    return {"forward": f / full_f, "backward": b / full_b, "both together": (f + b) / (full_f + full_b)}


def operations_of_nf4() -> Numbers:
    """The same of a frozen layer in NF4, against a frozen one in float32."""
    plain = square().requires_grad_(False)
    (f, b), (full_f, full_b) = operations(NF4Linear.from_linear(square())), operations(plain)
    return {"forward": f / full_f, "backward": b / full_b}


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


def operand_bits() -> Numbers:
    """The bits of what an NF4 layer multiplies, in the widest of its products."""
    layer, found = adapted(NF4Linear.from_linear(square())), {}
    for name, sixteen in (("float32", False), ("16 bits asked for", True)):
        with torch.no_grad(), Operands() as seen, torch.autocast("cpu", torch.bfloat16, sixteen):
            layer(torch.ones(32, 512))
        found[name] = float(max(seen.bits))
    return found


# --- sizes -----------------------------------------------------------------------------------------------------------


def times_fewer_trained() -> Numbers:
    """How many times fewer numbers LoRA trains than there are."""
    gpt3 = {f"GPT-3, r = {r} on q, v": 175_255.8e6 / (96 * 2 * r * (12288 + 12288)) for r in (1, 4, 8)}
    llama, course = ARCHITECTURES["LLaMA 7B"], ARCHITECTURES["LLaMA 7B"].of_gpt(GPTConfig())
    return gpt3 | {
        "LLaMA 7B, r = 64, all linears": llama.n_parameters / llama.adapter_numbers(64, tuple(llama.linears)),
        "the course's GPT, r = 8": course.n_parameters / course.adapter_numbers(8, tuple(course.linears)),
    }


def all_trained() -> Numbers:
    """The same of full fine-tuning."""
    whole = base()
    n = sum(p.numel() for p in whole.parameters())
    return {
        "every parameter trained": n / sum(p.numel() for p in copy.deepcopy(whole).requires_grad_(True).parameters())
    }


def times_less_memory() -> Numbers:
    """By which factor each kind of memory shrinks, and the whole of a step."""
    full, lora = (predicted_bytes(GPTConfig(), rank=rank) for rank in (None, 8))
    qlora, films = predicted_bytes(GPTConfig(), rank=8, nf4=True), results("step-films")
    kept = [predicted_activation_bytes(GPTConfig(), 4, 256, rank=rank) for rank in (None, 8)]
    llama = ARCHITECTURES["LLaMA 7B"]
    ways = ({}, {"rank": 64}, {"rank": 64, "bits": 4})  # full, LoRA, QLoRA: all with checkpointing
    seven = [sum(training_bytes(llama, checkpointing=True, **how).values()) for how in ways]
    trained = (GRADIENTS, OPTIMIZER)
    return {
        "weights, LoRA": full[BASE] / (lora[BASE] + lora[ADAPTERS]),
        "weights, QLoRA": full[BASE] / (qlora[BASE] + qlora[CONSTANTS] + qlora[ADAPTERS]),
        "gradients and AdamW": sum(full[k] for k in trained) / sum(lora[k] for k in trained),
        "activations": kept[0] / kept[1],
        "a step of our GPT, LoRA": films["none"]["peak"] / films["freeze"]["peak"],
        "a step of our GPT, QLoRA": films["none"]["peak"] / films["freeze, four_bits"]["peak"],
        "LLaMA 7B, LoRA": seven[0] / seven[1],
        "LLaMA 7B, QLoRA": seven[0] / seven[2],
    }


def nothing_changed() -> Numbers:
    """The film of one step of full fine-tuning, against itself."""
    film = results("step-films")["none"]["peak"]
    return {"full fine-tuning against itself": film / film}


# --- rounding --------------------------------------------------------------------------------------------------------


def unequal_gaps(names: tuple[str, ...] = ("nf4", "fp4-e2m1")) -> Numbers:
    """The largest distance between two neighboring levels of a code, over the smallest."""
    gaps = {name: get_codebook(name).diff() for name in names}
    return {name: (gap.max() / gap.min()).item() for name, gap in gaps.items()}


@cache
def gradients() -> dict[str, Tensor]:
    """dL/dW of the block linears, on 256 bytes of an address."""
    model = copy.deepcopy(base()).requires_grad_(True)
    tokens = load_text("speeches").validation[None, :257].long()
    model(tokens[:, :-1], tokens[:, 1:])[1].backward()
    return {path: layer.weight.grad for path, layer in block_linears(model).items()}


def error_ratio(which: str, scaled: float = 1.0) -> float:
    """The error of the chosen weights in NF4 over that of all, each the root mean square of W - W' of all layers.

    which: `largest` of each block of 64, `next` to it (ranks 2 to 7), or the hundredth with the largest `inputs`
    (columns of W) or `gradients`. scaled: columns of large inputs are multiplied by it before rounding, and divided
    afterwards.
    """
    of_chosen, of_all = [], []
    inputs = layer_inputs(base(), load_text("speeches").validation)
    for path, layer in block_linears(base()).items():
        W = layer.weight.detach()
        size = inputs[path].square().mean(0).sqrt()  # (d_in,) how large each input is
        salient = size >= size.quantile(0.99)
        factor = torch.where(salient, scaled, 1.0)
        error = (quantize(W * factor).dequantize() / factor - W).square()
        order = W.abs().view(-1, 64).argsort(1, descending=True).argsort(1).view_as(W)  # 0: the largest of its block
        gradient = gradients()[path].abs()
        chosen = {
            "largest": order == 0,
            "next": (order > 0) & (order < 7),
            "inputs": salient.expand_as(W),
            "gradients": gradient >= gradient.flatten().kthvalue(int(0.99 * W.numel())).values,
        }[which]
        of_chosen.append(error[chosen])
        of_all.append(error.flatten())
    return (torch.cat(of_chosen).mean() / torch.cat(of_all).mean()).sqrt().item()


def precision_of_important() -> Numbers:
    return {
        "the largest of its block": error_ratio("largest"),
        "the six next to it": error_ratio("next"),
        "1% by size of input": error_ratio("inputs"),
        "1% by size of gradient": error_ratio("gradients"),
    }


def precision_if_scaled() -> Numbers:
    return {"1% by input, doubled before rounding": error_ratio("inputs", scaled=2.0)}


def error_at_start(alphas: tuple[float, ...] = (8, 16, 64)) -> Numbers:
    """||W - (W' + s B A)|| over ||W - W'||: below 1, the adapter repairs what rounding lost."""
    W = base().blocks[0].mlp.up_proj.weight.detach()
    rounded = quantize(W).dequantize()
    lost = (W - rounded).norm()
    found = {}
    for alpha in alphas:
        update = adapted(nn.Linear(W.shape[1], W.shape[0]), 8, alpha).delta_weight().detach()
        found[f"at the start, alpha = {alpha}"] = ((W - rounded - update).norm() / lost).item()
    trained = lora_layers(shipped())["blocks.0.mlp.up_proj"].delta_weight().detach()
    return found | {"after training": ((W - rounded - trained).norm() / lost).item()}


def error_of_repair(rank: int = 8) -> Numbers:
    W = base().blocks[0].mlp.up_proj.weight.detach()
    lost = W - quantize(W).dequantize()
    U, S, Vt = torch.linalg.svd(lost, full_matrices=False)
    return {"B A = the best repair": ((lost - U[:, :rank] * S[:rank] @ Vt[:rank]).norm() / lost.norm()).item()}


@cache
def shipped() -> nn.Module:
    """The shipped adapter on the rounded base that it was trained on."""
    return load_adapter(
        quantize_linears(copy.deepcopy(base()), double_quant=True), files.data_file("shakespeare-adapter")
    )


def kept_in_codes(sizes: tuple[float, ...] = (0.1, 0.03, 0.01), again: bool = True) -> Numbers:
    """The cosine of an update with what arrives when it is merged into W' and rounded again; sizes: of it over W'."""
    layer = lora_layers(shipped())["blocks.2.mlp.up_proj"]
    rounded, update = layer.base.dequantize(), layer.delta_weight().detach()
    own, found = (update.norm() / rounded.norm()).item(), {}
    for size in (own, *sizes):
        push = update * size / own
        merged = quantize(rounded + push, "nf4", 64, double_quant=True).dequantize() if again else rounded + push
        found[f"update of {size:.0%}" + ("" if again else ", not rounded")] = cosine(merged - rounded, push)
    return found


def error_of_merging(size: float, dtype: torch.dtype = torch.bfloat16) -> Numbers:
    layer = adapted(square(), trained=True)
    W, update = layer.base.weight.detach(), layer.delta_weight().detach()
    start, push = W.to(dtype), update * size * W.norm() / update.norm()
    there = (start + push.to(dtype)).double() - start.double()
    return {f"error of an update of {size:.0%}, {str(dtype)[6:]}": relative_error(push.double(), there)}


def merged_in_float32() -> Numbers:
    return error_of_merging(0.01, torch.float32)


def moving_shares(rates: tuple[float, ...] = (2.5e-5, 2e-4, 1e-3), dtype: torch.dtype = torch.bfloat16) -> Numbers:
    """The share of A's entries that a step of Adam, about as long as the rate, moves to another number."""
    torch.manual_seed(0)
    layers = lora_layers(add_lora(copy.deepcopy(base()), 8, 16, "all-linear")).values()
    A = torch.cat([layer.lora_A.detach().flatten() for layer in layers])
    gap = torch.finfo(dtype).eps * 2 ** A.double().abs().log2().floor()
    return {f"{str(dtype)[6:]}, rate {lr:g}": (lr > gap / 2).double().mean().item() for lr in rates}


def moving_in_float32() -> Numbers:
    return moving_shares((2.5e-5,), torch.float32)
