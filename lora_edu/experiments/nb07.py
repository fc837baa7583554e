"""Double quantization, measured: where the error comes from, layer by layer, and what it does to a model's loss."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_edu.files import model_folder
from lora_edu.measures import block_linears, layer_inputs, relative_error, rescale
from lora_edu.models.pretrain import load_base
from lora_edu.quantization import DoubleQuant, quantize
from lora_edu.texts import load_text
from lora_edu.training import evaluate

SECOND_CODES = ("dynamic", "int8", "e4m3", "e5m2")
SENTENCE = "the people of the small town read the old letter and it was as long as a winter night on the sea"


def error_by_source(weight: Tensor, block_size: int = 64, how: DoubleQuant = DoubleQuant()) -> dict[str, float]:  # noqa: B008
    """The relative error of NF4 taken apart: from the codes alone, from the constants alone, and from both."""
    flat = weight.detach().flatten()
    single, double = quantize(flat, "nf4", block_size), quantize(flat, "nf4", block_size, how)
    constants = rescale(flat, single.absmax, double.block_scales(), block_size)  # not rounded to codes
    changed = {"codes": single.dequantize(), "constants": constants, "both": double.dequantize()}
    return {source: relative_error(flat.double(), result.double()) for source, result in changed.items()}


def normal_weights(count: int, seed: int = 0) -> Tensor:
    """Numbers from the normal distribution (count,) float32, the same on every machine."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count).astype(np.float32))


def gpt_layers(model: nn.Module, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """For each linear layer in the blocks of a GPT: weight (d_out, d_in) and inputs (n, d_in), for tokens (1, n)."""
    inputs = layer_inputs(model, tokens[0], length=tokens.shape[1])
    return {f"blocks.{path}": (layer.weight.detach(), inputs[path]) for path, layer in block_linears(model).items()}


def minilm_layers(sentence: str = SENTENCE) -> dict[str, tuple[Tensor, Tensor]]:
    """The same for the six layers of MiniLM, a sentence encoder in float32, which is fetched if it is not there.

    sentence: words that are all in its vocabulary. Raises DownloadError if the model is not to be had.
    """
    folder = model_folder("minilm")
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = torch.tensor([words.index(word) for word in ["[CLS]", *sentence.split(), "[SEP]"]])
    return bert_layers(load_file(folder / "model.safetensors"), ids)


def bert_layers(tensors: dict[str, Tensor], ids: Tensor, n_heads: int = 12) -> dict[str, tuple[Tensor, Tensor]]:
    """Run a BERT encoder on ids (n,) and keep each linear layer's weight and inputs, by its path."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def linear(path: str, x: Tensor) -> Tensor:
        seen[path] = (tensors[f"{path}.weight"], x)
        return F.linear(x, tensors[f"{path}.weight"], tensors[f"{path}.bias"])

    def norm(path: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{path}.weight"], tensors[f"{path}.bias"], eps=1e-12)

    def table(name: str) -> Tensor:
        return tensors[f"embeddings.{name}_embeddings.weight"]

    x = norm("embeddings.LayerNorm", table("word")[ids] + table("position")[: len(ids)] + table("token_type")[0])
    n_layers = sum(name.endswith("intermediate.dense.weight") for name in tensors)
    for path in (f"encoder.layer.{i}" for i in range(n_layers)):
        heads = [linear(f"{path}.attention.self.{name}", x) for name in ("query", "key", "value")]
        q, k, v = (h.view(len(ids), n_heads, -1).transpose(0, 1) for h in heads)  # (heads, n, d / heads)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        x = norm(f"{path}.attention.output.LayerNorm", x + linear(f"{path}.attention.output.dense", mixed))
        inner = F.gelu(linear(f"{path}.intermediate.dense", x))
        x = norm(f"{path}.output.LayerNorm", x + linear(f"{path}.output.dense", inner))
    return seen


# --- double-quantization: what does it do to the loss? ---------------------------------------------------------------


def double_quant_loss(
    change: str,
    *,
    code: str = "dynamic",
    subtract_mean: bool = True,
    block_size: int = 64,
    windows: int = 256,
    noise_seed: int = 0,
    seed: int = 0,
    folder=None,
    progress: bool = True,
) -> dict:
    """The loss of the shipped base on held-out speeches, with the weights of its blocks changed in one way.

    change: "none"; "single" for NF4 with exact constants; "double" for NF4 with quantized constants; "noise" for
    constants that are off at random, as much as those of "double"; "no offset" for a mean that is not added back;
    "fp16" for constants kept as float16. Returns the loss in nats per byte and the relative error of all weights.
    """
    model = load_base("laptop", device="cpu")  # in float32: bfloat16 on a GPU would hide what is measured here
    changed = copy.deepcopy(model)
    how = DoubleQuant(code, subtract_mean=subtract_mean)
    generator = torch.Generator().manual_seed(1000 * seed + noise_seed)
    squares = np.zeros(2)  # of the error, of the weights
    for layer, target in zip(block_linears(model).values(), block_linears(changed).values(), strict=True):
        weight = layer.weight.detach()
        target.weight.data = changed_weight(weight, change, block_size, how, generator)
        error = (weight - target.weight.detach()).double()
        squares += [error.square().sum().item(), weight.double().square().sum().item()]
    loss = evaluate(changed, load_text("speeches").validation, max_windows=windows)
    return {"loss": round(loss, 6), "error": float(f"{np.sqrt(squares[0] / squares[1]):.5g}")}


def changed_weight(weight: Tensor, change: str, block_size: int, how: DoubleQuant, generator=None) -> Tensor:
    """One weight (d_out, d_in) after one of the changes that `double_quant_loss` names."""
    if change not in CHANGES:
        raise ValueError(f"unknown change {change!r}: choose one of {', '.join(CHANGES)}")
    if change == "none":
        return weight.clone()
    single = quantize(weight.flatten(), "nf4", block_size)
    scales = CHANGES[change](single.absmax, how, generator)
    return rescale(single.dequantize(), single.absmax, scales, block_size).view_as(weight)


def double_scales(absmax: Tensor, how: DoubleQuant, _generator=None) -> Tensor:
    """What is left of absmax (n_blocks,) after double quantization."""
    offset = absmax.mean() if how.subtract_mean else torch.zeros(())
    return quantize(absmax - offset, how.code, how.block_size).dequantize() + offset


def _noisy_scales(absmax: Tensor, how: DoubleQuant, generator) -> Tensor:
    error = (double_scales(absmax, how) - absmax).square().mean().sqrt()
    return absmax + error * torch.randn(absmax.shape, generator=generator)


def _scales_without_offset(absmax: Tensor, how: DoubleQuant, _generator=None) -> Tensor:
    return double_scales(absmax, how) - absmax.mean()


CHANGES = {
    "none": None,
    "single": lambda absmax, how, generator: absmax,
    "double": double_scales,
    "noise": _noisy_scales,
    "no offset": _scales_without_offset,
    "fp16": lambda absmax, how, generator: absmax.half().float(),
}

DOUBLE_QUANT_ARMS = {
    "float32": {"change": "none"},
    "single": {"change": "single"},
    "double": {"change": "double"},
    "double, 32 windows": {"change": "double", "windows": 32},  # notebook 07 runs this one again
    "fp16 constants": {"change": "fp16"},
    "offset not added back": {"change": "no offset"},
    **{f"noise {i}": {"change": "noise", "noise_seed": i} for i in range(8)},
    **{
        f"{code}{'' if mean else ', no mean'}": {"change": "double", "code": code, "subtract_mean": mean}
        for code in SECOND_CODES
        for mean in (True, False)
        if (code, mean) != ("dynamic", True)
    },
    **{
        f"{change}, blocks of {size}": {"change": change, "block_size": size}
        for size in (32, 128, 256)
        for change in ("single", "double")
    },
}
