"""The shipped GPT with its weights rounded to one format after another: what happens to its loss (notebook 06).

Each arm rounds every linear layer of the blocks to one codebook, puts the rounded weights back in full precision, and
measures the loss on held-out speeches beside three errors. Where the blocks begin is a matter of chance: `shift` moves
the begin of the first one, which gives another draw of the rounding errors, and so an idea of the spread.
"""

from statistics import NormalDist

import torch
from torch import Tensor

from lora_edu.calibration import one_temperature
from lora_edu.codebooks import get_codebook, nf_codebook
from lora_edu.experiments.scoreboard import Change, begun_later, measured
from lora_edu.gpt import GPT
from lora_edu.models.pretrain import load_base
from lora_edu.observing import block_linears, layer_inputs
from lora_edu.quantization import quantize
from lora_edu.rounding import compensated, lloyd_max
from lora_edu.texts import load_text

# AF4-64, as bitsandbytes ships it (`get_4bit_type("af4")`). Source: Yoshida 2023, arXiv 2306.06965.
AF4 = (
    -1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0,
    0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0,
)  # fmt: skip
FOUR_BITS = ("nf4", "af4", "lloyd-max", "fp4-e2m1", "int4", "fp4-bnb", "fp4-e3m0")
OTHER_BITS = ("nf2", "nf3", "nf5", "nf6", "nf7", "nf8")
RIVALS = ("bin-middles", "nf4-offset-0.94")  # two 4-bit codes with a smaller error than NF4's on normal weights


def arm_name(codebook: str, block_size: int = 64, shift: int = 0) -> str:
    """The name of an arm, for example `nf4, block 64, shift 0`."""
    return f"{codebook}, block {block_size}, shift {shift}"


def shifts(block_size: int) -> tuple[int, ...]:
    """Where the first block begins in each of the four draws: quarters of a block apart."""
    return tuple(range(0, block_size, block_size // 4))


FORMAT_ARMS = {"full precision": {"codebook": None}} | {
    arm_name(name, block_size, shift): {"codebook": name, "block_size": block_size, "shift": shift}
    for names, block_size in ((FOUR_BITS + OTHER_BITS + RIVALS, 64), (FOUR_BITS, 1024))
    for name in names
    for shift in shifts(block_size)
}

FORMAT_ARMS |= {"full precision, plays": {"codebook": None, "plays": True}} | {
    f"{arm_name(name, 64, shift)}, plays": {"codebook": name, "shift": shift, "plays": True}
    for name in FOUR_BITS
    if name not in ("af4", "lloyd-max")
    for shift in shifts(64)
}
CALIBRATIONS = ("nearest", "addresses", "plays", "shuffled")
COMPENSATION_ARMS = {
    f"{calibration}, shift {shift}": {"calibration": calibration, "shift": shift}
    for calibration in CALIBRATIONS
    for shift in shifts(64)
}


def format_codebook(name: str) -> Tensor:
    """The codebook behind a name: `af4`, `lloyd-max`, one of RIVALS, or any name that `quantize` knows."""
    if name == "af4":
        return torch.tensor(AF4)
    if name == "lloyd-max":
        values = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
        return lloyd_max(values, nf_codebook(4))
    if name == "bin-middles":
        return bin_middles()
    if name.startswith("nf4-offset-"):
        return nf_codebook(4, offset=float(name.removeprefix("nf4-offset-")))
    return get_codebook(name)


def without_zero(offset: float = 0.9677083) -> Tensor:
    """NF4's ends without its zero: 16 quantiles, equal steps of probability from 1 - offset to offset, symmetric."""
    above = torch.tensor([NormalDist().inv_cdf(0.5 + (offset - 0.5) * (2 * i + 1) / 15) for i in range(8)])
    return torch.cat([-above.flip(0), above]) / above[-1]


def bin_middles() -> Tensor:
    """The middles of 16 equally likely bins of the normal distribution, over the largest: symmetric, without a zero."""
    return without_zero(offset=31 / 32)


def inside_out(codebook: Tensor) -> Tensor:
    """The same gaps in the opposite order on each side of the zero: dense at the ends, wide in the middle."""
    gaps, zero = codebook.diff(), int((codebook == 0).nonzero())
    below, above = gaps[:zero].cumsum(0), gaps[zero:].flip(0).cumsum(0)
    return torch.cat([-below.flip(0), codebook.new_zeros(1), above])


def format_loss(
    codebook: str | None, block_size: int = 64, shift: int = 0, plays: bool = False, *, windows: int = 128
) -> dict:
    """Round all linear layers in the blocks of the shipped base to a format; None leaves them as they are.

    Returns the loss on so many `windows` of held-out speeches (nats per byte), and the relative errors of the weights
    and of the layers' outputs; or, on plays, what `tempered_loss` does. Nothing is drawn by lot.
    """
    change = None if codebook is None else rounding(shift, format_codebook(codebook), block_size)
    return tempered_loss(change, windows) if plays else measured(change, windows=windows)


def tempered_loss(change: Change | None, windows: int) -> dict:
    """One temperature, fitted to the first half of held-out plays; on the other half the loss without and with it."""
    model = load_base("laptop", device="cpu")
    for layer in block_linears(model).values():
        layer.weight.data = change(layer.weight.detach()) if change else layer.weight.data
    temperature, without, loss = one_temperature(model, load_text("shakespeare").validation, max_windows=windows // 2)
    return {"temperature": temperature, "without": round(without, 5), "loss": round(loss, 5)}


def rounding(shift: int, *how) -> Change:
    """Quantizes a weight and decodes it, its first block begun `shift` weights later. how: as for `quantize`."""
    return begun_later(lambda flat: quantize(flat, *how).dequantize(), shift)


def compensated_loss(calibration: str, shift: int) -> dict:
    """Round the base to NF4 as GPTQ does, after a look at a text. Returns what `format_loss` does.

    calibration: `addresses` or `plays`, of the training part; `shuffled` gives each input to another column, and
    `nearest` compensates nothing. shift: of the columns of each layer, and so of blocks and of the order.
    """
    model = load_base("laptop", device="cpu")
    inputs = inputs_of(model, load_text("shakespeare" if calibration == "plays" else "speeches").train, windows=16)
    rounded, generator = [], torch.Generator().manual_seed(shift)
    for path, layer in block_linears(model).items():
        weight, x = layer.weight.detach().roll(shift, 1), inputs[path].roll(shift, 1)
        if calibration == "shuffled":
            x = x[:, torch.randperm(x.shape[1], generator=generator)]
        nearest = calibration == "nearest"
        found = quantize(weight, "nf4").dequantize() if nearest else compensated(weight, x, nf_codebook(4))
        rounded.append(found.roll(-shift, 1))
    changed = iter(rounded)  # the layers come in the same order
    return measured(lambda _: next(changed))


def inputs_of(model: GPT, tokens: Tensor, windows: int) -> dict[str, Tensor]:
    """What each linear layer of the blocks is given for so many windows of 256 tokens: path -> (n, d_in)."""
    stride = len(tokens) // windows
    seen = [layer_inputs(model, tokens[i * stride :]) for i in range(windows)]
    return {path: torch.cat([inputs[path] for inputs in seen]) for path in seen[0]}
