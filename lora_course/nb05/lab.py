"""Rounding errors with other signs: what the loss and the KL say of six roundings that are equally good (notebook 05).

The errors of int4 in blocks of 64 keep their sizes, and each gets a sign at random. A weight is as far off as before,
and so is its layer. What differs from lot to lot is luck.
"""

import torch
from torch import Tensor

from lora_edu import evaluate, load_base, load_text
from lora_edu.measures import kl_and_flips
from lora_edu.observing import block_linears
from lora_edu.rounding import round_in_blocks

TEXTS = {"plays": "shakespeare", "addresses": "speeches"}
SIGN_ARMS = {"as rounded": {"lot": None}} | {f"signs {lot}": {"lot": lot} for lot in range(6)}


def with_signs(error: Tensor, generator: torch.Generator) -> Tensor:
    """The same rounding error, each entry with a sign at random: (d_out, d_in) -> (d_out, d_in)."""
    sign = torch.randint(0, 2, error.shape, generator=generator) * 2 - 1
    return sign * error


def rounded_with_signs(lot: int | None, *, windows: int = 32) -> dict[str, dict]:
    """Round the block layers of the shipped base to int4 in blocks of 64, with the errors' signs of one lot.

    lot: the seed of the signs; None leaves the errors as they fell. Returns for plays and for addresses the loss that
    rounding adds on so many held-out windows (nats per byte), the KL to the unrounded model, and the share of flips.
    """
    model = load_base("laptop", device="cpu")
    changed = load_base("laptop", device="cpu")
    generator = torch.Generator().manual_seed(lot or 0)
    for layer in block_linears(changed).values():
        weight = layer.weight.detach()
        error = round_in_blocks(weight, 4, 64) - weight
        if lot is not None:
            error = with_signs(error, generator)
        layer.weight.data = weight + error
    found = {}
    for name, text in TEXTS.items():
        tokens = load_text(text).validation
        added = evaluate(changed, tokens, max_windows=windows) - evaluate(model, tokens, max_windows=windows)
        moved = kl_and_flips(changed, model, tokens, max_windows=windows)
        found[name] = {"loss_added": round(added, 5), "kl": round(moved.kl, 5), "flips": round(moved.flips, 4)}
    return found
