"""One table of formats, for any model: how far its guesses move when its weights are rounded (notebook 06)."""

import copy
import itertools

import torch
from torch import Tensor, nn

from lora_course.nb06.lab import changes
from lora_course.running.scoreboard import Change, permuted
from lora_edu import load_text
from lora_edu.measures import kl_and_flips
from lora_edu.models.pretrained import load_pretrained, tokenize


@torch.no_grad()
def compared(model: nn.Module, tokens: Tensor, formats: dict[str, Change], draws=(0,), **windows) -> dict[str, list]:
    """Format -> KL and flips of each draw, on a held-out text (n,): of a rounded copy, beside the model.

    formats: name -> what it does to a weight. All linear layers are rounded, but for a head named `lm_head`. A draw
    orders the columns anew: other blocks, and so other errors. windows: what `evaluate` takes, such as max_windows.
    """
    rounded = copy.deepcopy(model)
    found: dict[str, list] = {name: [] for name in formats}
    for name, draw in itertools.product(formats, draws):
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and path != "lm_head":
                changed = permuted(formats[name], draw)(layer.weight)
                rounded.get_submodule(path).weight.copy_(changed)
        found[name].append(kl_and_flips(rounded, model, tokens, **windows))
    return found


def on_smollm2(name: str, draws: int = 2) -> dict:
    """KL (nats a token) and flips of SmolLM2-135M in a format, on two windows of addresses: a list each, by draw."""
    model, tokenizer = load_pretrained("smollm2", device="cpu")
    tokens, how = tokenize(tokenizer, load_text("speeches").validation), {"max_windows": 2, "batch_size": 1}
    found = compared(model, tokens, {name: changes(name)}, range(draws), **how)[name]
    return {"kl": [round(one.kl, 5) for one in found], "flips": [round(one.flips, 4) for one in found]}


# Q4_K shares constants among 256 weights of a row, and a row here has 576: it is not to be had.
SMOLLM2 = ("nf4", "four over six", "mxfp4", "int4", "nvfp4", "mxfp4, nearest", "fp4-bnb")
SMOLLM2_ARMS = {name: {"name": name} for name in SMOLLM2}
