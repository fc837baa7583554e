"""One table of formats, for any model: how far its guesses move when its weights are rounded (notebook 06)."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lora_course.nb06.lab import changes
from lora_course.running.scoreboard import Change, permuted
from lora_edu import load_text
from lora_edu.measures import Moved, kl_and_flips
from lora_edu.models.pretrained import load_pretrained, tokenize


@torch.no_grad()
def compared(
    model: nn.Module, tokens: Tensor, formats: dict[str, Change], draws: Iterable[int] = (0,), **windows
) -> dict[str, list[Moved]]:
    """Format -> KL and flips of each draw on a held-out text. The model is put back as it was.

    formats: name -> what it does to a weight. All linear layers are rounded, a head named `lm_head` excepted. A draw is
    an order of the columns. windows: what `evaluate` takes, such as max_windows.
    """
    reference = copy.deepcopy(model)
    layers = [
        (layer, reference.get_submodule(path).weight)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and path != "lm_head"
    ]
    found: dict[str, list[Moved]] = {name: [] for name in formats}
    for name, change in formats.items():
        for draw in draws:
            for layer, weight in layers:
                layer.weight.copy_(permuted(change, draw)(weight))
            found[name].append(kl_and_flips(model, reference, tokens, **windows))
    for layer, weight in layers:
        layer.weight.copy_(weight)
    return found


def on_smollm2(name: str, draws: int = 2) -> dict:
    """KL (nats a token) and flips of SmolLM2-135M in a format, on four windows of addresses: a list each, by draw."""
    model, tokenizer = load_pretrained("smollm2", device="cpu")
    tokens, how = tokenize(tokenizer, load_text("speeches").validation), {"max_windows": 4, "batch_size": 1}
    found = compared(model, tokens, {name: changes(name)}, range(draws), **how)[name]
    return {"kl": [round(one.kl, 5) for one in found], "flips": [round(one.flips, 4) for one in found]}


# Q4_K's 256 are not to be had: a row here has 576 weights.
SMOLLM2_ARMS = {
    name: {"name": name} for name in ("nf4", "four over six", "nvfp4", "mxfp4", "mxfp4, nearest", "int4", "fp4-bnb")
}
