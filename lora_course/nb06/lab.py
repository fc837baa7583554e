"""The shipped GPT with its weights rounded to one format after another: what happens to its loss (notebook 06).

Each arm rounds every linear layer of the blocks to one format and puts the rounded weights back in full precision. It
measures two errors, the loss on held-out speeches, and how far the guesses moved. Which weights share a block is a
matter of chance: the six draws of a format, and of GPTQ, permute the columns. `lab_table` does it to any model.
"""

from functools import partial
from itertools import cycle
from statistics import NormalDist

import torch
from torch import Tensor

from lora_course.nb06.lab_floats import affine, four_over_six, mxfp4, nvfp4, q4_k
from lora_course.running.scoreboard import Change, begun_later, fidelity, measured, permuted, rounded
from lora_edu import GPT, load_base, load_text, quantize
from lora_edu.codebooks import get_codebook, nf_codebook
from lora_edu.observing import block_linears, layer_inputs
from lora_edu.rounding import compensated, lloyd_max

FORMATS = ("nf4", "fp4-e2m1", "int4", "fp4-bnb", "fp4-e3m0")
CODES = ("nf4-offset-0.94", "lloyd-max, free")  # less error than NF4's on normal weights
OTHERS: dict[str, Change] = {  # with blocks and constants of their own
    "nvfp4": nvfp4,
    "four over six": four_over_six,
    "mxfp4": mxfp4,
    "mxfp4, nearest": partial(mxfp4, nearest=True),
    "int4, affine": affine,
    "q4_k": q4_k,
    "nf4, blocks of 32": partial(rounded, codebook="nf4", block_size=32, constant_bits=8),  # as 07 has it
}
BITS = {"mxfp4": 4.25, "mxfp4, nearest": 4.25, "nf4, blocks of 32": 4.254}  # a weight; the others have 4.5
TABLE = ("nf4", "fp4-e2m1", "fp4-bnb", "int4", *OTHERS, "gptq")  # the rows of the page's picture
DRAWS = range(6)


def arm_name(name: str, draw: int) -> str:
    """The name of an arm, for example `nf4, draw 0`."""
    return f"{name}, draw {draw}"


FORMAT_ARMS = {"full precision": {"name": None}} | {
    arm_name(name, draw): {"name": name, "draw": draw} for name in (*FORMATS, *OTHERS, *CODES) for draw in DRAWS
}
CALIBRATIONS = ("addresses", "plays", "random bytes", "shuffled", "unpaired")
COMPENSATED = {name: {"calibration": name} for name in CALIBRATIONS} | {
    "addresses, fp4-bnb": {"calibration": "addresses", "codebook": "fp4-bnb"}  # the worst table, codes chosen as well
}
COMPENSATION_ARMS = {arm_name(name, draw): how | {"draw": draw} for name, how in COMPENSATED.items() for draw in DRAWS}


def format_codebook(name: str) -> Tensor:
    """The codebook behind a name: one of CODES, or any name that `quantize` knows."""
    if name == "lloyd-max, free":
        values = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
        return lloyd_max(values, nf_codebook(4), held=())
    if name.startswith("nf4-offset-"):
        return nf_codebook(4, offset=float(name.removeprefix("nf4-offset-")))
    return get_codebook(name)


def without_zero(offset: float = 0.9677083) -> Tensor:
    """NF4's ends without its zero: 16 quantiles, equal steps of probability from 1 - offset to offset, symmetric."""
    above = torch.tensor([NormalDist().inv_cdf(0.5 + (offset - 0.5) * (2 * i + 1) / 15) for i in range(8)])
    return torch.cat([-above.flip(0), above]) / above[-1]


def inside_out(codebook: Tensor) -> Tensor:
    """The same gaps in the opposite order on each side of the zero: dense at the ends, wide in the middle."""
    gaps, zero = codebook.diff(), int((codebook == 0).nonzero())
    below, above = gaps[:zero].cumsum(0), gaps[zero:].flip(0).cumsum(0)
    return torch.cat([-below.flip(0), codebook.new_zeros(1), above])


def format_loss(name: str | None, draw: int = 0, *, windows: int = 32) -> dict:
    """Round all linear layers in the blocks of the shipped base to a format; None leaves them as they are.

    draw: the seed of an order that the columns have meanwhile. Returns the relative errors of the weights and of the
    layers' outputs, the loss on so many windows of held-out speeches (nats per byte), and KL and flips there.
    """
    if name is None:
        return measured(None, windows=windows)
    change = permuted(changes(name), draw)
    return measured(change, windows=windows) | fidelity(change, windows=windows)


def changes(name: str) -> Change:
    """What a format does to a weight: round it, and decode it."""
    return OTHERS.get(name) or partial(rounded, codebook=format_codebook(name))


def rounding(shift: int, *how) -> Change:
    """Quantizes a weight and decodes it, its first block begun `shift` weights later. how: as for `quantize`."""
    return begun_later(lambda flat: quantize(flat, *how).dequantize(), shift)


def compensated_loss(calibration: str, draw: int, *, codebook: str = "nf4", windows: int = 32) -> dict:
    """Round the base as GPTQ does, after a look at a text. Draws, and what it returns, as for `format_loss`.

    calibration: `addresses` or `plays`, of the training part, or `random bytes`; `shuffled` gives each input to another
    column, and `unpaired` shuffles each column by itself.
    """
    model, generator = load_base("laptop", device="cpu"), torch.Generator().manual_seed(draw)
    text = load_text("shakespeare" if calibration == "plays" else "speeches").train
    if calibration == "random bytes":
        text = torch.randint(0, 256, (16 * 256,), generator=generator)
    inputs, found = inputs_of(model, text, windows=16), []
    # A weight with its 4,096 inputs below it: one order of columns for both.
    change: Change = lambda both: compensated(both[: -16 * 256], both[-16 * 256 :], get_codebook(codebook))  # noqa: E731
    for path, layer in block_linears(model).items():
        x = inputs[path]
        if calibration == "shuffled":
            x = x[:, torch.randperm(x.shape[1], generator=generator)]
        if calibration == "unpaired":
            x = x.gather(0, torch.rand(x.shape, generator=generator).argsort(0))
        found.append(permuted(change, draw)(torch.cat([layer.weight.detach(), x])))
    changed = cycle(found)  # the layers come in the same order, once for the loss and once for KL
    return measured(lambda _: next(changed), windows=windows) | fidelity(lambda _: next(changed), windows=windows)


def inputs_of(model: GPT, tokens: Tensor, windows: int) -> dict[str, Tensor]:
    """What each linear layer of the blocks is given for so many windows of 256 tokens: path -> (n, d_in)."""
    stride = len(tokens) // windows
    seen = [layer_inputs(model, tokens[i * stride :]) for i in range(windows)]
    return {path: torch.cat([inputs[path] for inputs in seen]) for path in seen[0]}
