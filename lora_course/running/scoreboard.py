"""The scoreboard of notebooks 05 to 07: what a format costs and what it keeps, each row by one protocol on one base.

The protocol: the shipped base in float32 on the CPU; the weight of every linear layer in its blocks goes to the format
and back; the loss is that of 128 windows of held-out speeches. Beside it KL(unrounded || rounded) and the share of
flips, on 64 windows of speeches and of plays. Each notebook adds its formats to `ROWS`; what it shows is
`lora_course.drawing.score_table`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_edu import GPT, evaluate, load_base, load_text
from lora_edu.measures import kl_and_flips
from lora_edu.observing import block_linears, layer_inputs
from lora_edu.quantization import DoubleQuant, quantize
from lora_edu.rounding import best_length, rescale, round_clipped, total_bits

WINDOWS = 128
Change = Callable[[Tensor], Tensor]  # from a weight (d_out, d_in) to what takes its place
ONE_CONSTANT = 2**18  # as a block size: no layer of the shipped base has more weights
# bits of a constant -> how it is rounded, in blocks of 256
SECOND_LEVEL: dict[int, bool | DoubleQuant] = {32: False, 8: DoubleQuant(), 4: DoubleQuant("nf4")}

# notebook -> format -> the arguments of `score`
ROWS: dict[str, dict[str, dict]] = {
    "05": {
        "as shipped": {"codebook": None},
        "int4, one constant a layer": {"codebook": "int4", "block_size": ONE_CONSTANT},
        "int4, one constant, clipped": {"codebook": "int4", "block_size": ONE_CONSTANT, "clipped": True},
        "int4, blocks of 64": {"codebook": "int4"},
    },
    "06": {
        "fp4-e2m1, blocks of 64": {"codebook": "fp4-e2m1"},
        "nf4, blocks of 64": {"codebook": "nf4"},
    },
    "07": {
        "nf4, constants in 16 bits": {"codebook": "nf4", "constant_bits": 16},
        "nf4, double quantization": {"codebook": "nf4", "constant_bits": 8},
        "nf4, blocks of 32, double quantization": {"codebook": "nf4", "block_size": 32, "constant_bits": 8},
    },
}
SCOREBOARD_ARMS = {name: settings for rows in ROWS.values() for name, settings in rows.items()}


def score(
    codebook: str | None, block_size: int = 64, constant_bits: int = 32, clipped: bool = False, *, windows=WINDOWS
) -> dict:
    """One row: bits a weight of the block linears, the errors of weights and outputs, the loss, KL and flips.

    codebook: of a 4-bit format; None leaves the weights as they are, in bfloat16. clipped: the ruler of int4 ends where
    the weights err least. Nothing is drawn by lot.
    """
    bits, change = 16.0, None
    if codebook is not None:
        bits = round(total_bits(block_size, constant_bits, 256 if constant_bits < 16 else 0), 5)
        change = lambda weight: rounded(weight, codebook, block_size, constant_bits)  # noqa: E731
    if clipped:
        change = lambda weight: round_clipped(weight, 4, best_length(weight, 4))  # noqa: E731
    texts = {"addresses": "speeches", "plays": "shakespeare"}
    moved = {name: fidelity(change or torch.clone, text, windows // 2) for name, text in texts.items()}
    return {"bits": bits} | measured(change, windows=windows) | moved


def fidelity(change: Change, text: str = "speeches", windows: int = WINDOWS // 2) -> dict[str, float]:
    """KL(unrounded || changed) and flips on so many windows of a held-out text, as changed by `measured`."""
    model, base = load_base("laptop", device="cpu"), load_base("laptop", device="cpu")
    for layer in block_linears(model).values():
        layer.weight.data = change(layer.weight.detach())
    found = kl_and_flips(model, base, load_text(text).validation, max_windows=windows)
    return {"kl": round(found.kl, 5), "flips": round(found.flips, 4)}


def measured(change: Change | None, text: str = "speeches", windows: int = WINDOWS, digits: int = 5) -> dict:
    """Put change(weight) in place of the weight of every linear layer in the blocks of the shipped base.

    None changes nothing. Returns the errors of weights and outputs, and the loss on so many windows of a held-out text.
    """
    model, tokens = load_base("laptop", device="cpu"), load_text(text).validation  # a GPU has other last digits
    result = {"weight_error": 0.0, "output_error": 0.0}
    if change is not None:
        result = change_linears(model, change, layer_inputs(model, tokens))
    result["loss"] = evaluate(model, tokens, max_windows=windows)
    return {name: round(value, digits) for name, value in result.items()}


def begun_later(change: Change, shift: int) -> Change:
    """The same change of the flattened weight, its first block begun `shift` weights later: another draw of errors."""
    return lambda weight: change(weight.flatten().roll(shift)).roll(-shift).view_as(weight)


def permuted(change: Change, seed: int) -> Change:
    """The same change while the columns are in an order of this seed: other blocks, and so other errors."""

    def changed(weight: Tensor) -> Tensor:
        order = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(seed)).to(weight.device)
        return change(weight[:, order].contiguous())[:, order.argsort()]

    return changed


def rounded(weight: Tensor, codebook: str | Tensor, block_size: int = 64, constant_bits: int = 32) -> Tensor:
    """A weight (d_out, d_in) to a format and back; the constants of its blocks in 32, 16, 8 or 4 bits."""
    if constant_bits == 16:
        exact = quantize(weight, codebook, block_size)
        flat = exact.dequantize().flatten()
        return rescale(flat, exact.absmax, exact.absmax.half().float(), block_size).view_as(weight)
    return quantize(weight, codebook, block_size, SECOND_LEVEL[constant_bits]).dequantize()


def change_linears(model: GPT, change: Change, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Put change(weight) in place of the weight of every linear layer in the blocks.

    Returns the relative error of all weights together, and the mean over the layers of that of the outputs y = W x.
    """
    lost, total, outputs = 0.0, 0.0, []
    for path, layer in block_linears(model).items():
        weight, x = layer.weight.detach(), inputs[path]
        changed = change(weight)
        off = changed - weight
        lost, total = lost + off.square().sum().item(), total + weight.square().sum().item()
        outputs.append(((x @ off.T).norm() / (x @ weight.T).norm()).item())
        layer.weight.data = changed
    return {"weight_error": (lost / total) ** 0.5, "output_error": sum(outputs) / len(outputs)}
