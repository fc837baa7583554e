"""What is seen of a model at work: what its layers are given, what surprises it, what style its text has."""

import re
from contextlib import ExitStack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.gpt import GPT, encode
from lora_edu.layers import evaluating

SPEAKER_LINE = re.compile(r"\*\*[A-Z][A-Z .,'-]*\*\*")


def block_linears(model: GPT) -> dict[str, nn.Linear]:
    """The linear layers in the blocks, by path: those that QLoRA quantizes."""
    return {path: module for path, module in model.blocks.named_modules() if isinstance(module, nn.Linear)}


def layer_inputs(model: GPT, tokens: Tensor, length: int = 256) -> dict[str, Tensor]:
    """What each linear layer of the blocks is given for the first `length` tokens: path -> (length, d_in)."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as hooks:  # they are taken off again, after an error too
        for path, layer in block_linears(model).items():
            hook = layer.register_forward_hook(lambda _, x, y, path=path: seen.__setitem__(path, x[0][0]))
            hooks.callback(hook.remove)
        model(tokens[None, :length].long().to(next(model.parameters()).device))
    return seen


@torch.no_grad()
def surprise(model: nn.Module, text: str, before: str = "\n") -> np.ndarray:
    """The surprise in nats at each byte of a text, (n_bytes,), given the bytes before it: -ln of its probability.

    before: what the model has read before the first byte; by default a line end, and so nothing about the text.
    """
    tokens, given = encode(before + text).long(), len(encode(before))
    if not given:
        raise ValueError("before must hold at least one byte: the model predicts nothing from nothing")
    device = next(model.parameters()).device
    with evaluating(model):
        logits = model(tokens[None, :-1].to(device))[0][0].float().cpu()  # (n - 1, vocab_size)
    return F.cross_entropy(logits, tokens[1:], reduction="none")[given - 1 :].numpy()


def speaker_share(text: str) -> float:
    """The share of the non-empty lines that are `**SPEAKER**` lines, the mark of the plays' Markdown."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return sum(bool(SPEAKER_LINE.fullmatch(line)) for line in lines) / len(lines) if lines else 0.0
