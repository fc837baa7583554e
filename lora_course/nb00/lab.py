"""The shipped adapter at nine strengths, and a shuffled one: what it gains on plays, what it costs on addresses.

The layer computes y = base(x) + strength * s * B A x: at strength 0 the adapter is off, at 1 as it was trained.
"""

import torch

from lora_course.running.finetune import both_losses
from lora_course.running.shuffling import shuffle_adapter
from lora_edu import GPT, files, load_adapter, load_base
from lora_edu.lora import lora_layers
from lora_edu.observing import surprise
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE

STRENGTHS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)
LINES = {"play line": PLAY_LINE, "address line": ADDRESS_LINE}
PROMPT = "My lord, "
SAMPLING = {"max_new_tokens": 240, "temperature": 0.7, "top_k": 20}


def adapter_at(strength: float, shuffle: int | None = None, *, seed: int = 0) -> dict:
    """Measure the shipped base with the shipped adapter at one strength, on 64 windows of each held-out text.

    shuffle: a seed to shuffle each adapter matrix with, or None. Then only the losses are measured.
    Returns what `looked_at` does, with a sample drawn with `seed`.
    """
    model = load_adapter(load_base("laptop", device="cpu"), files.data_file("shakespeare-adapter"))
    if shuffle is not None:
        shuffle_adapter(model, shuffle)
    set_strength(model, strength)
    return looked_at(model, seed) if shuffle is None else both_losses(model)


def looked_at(model: GPT, seed: int, digits: int = 4) -> dict:
    """Both losses, the surprise at each byte of the two painted lines, and a sample of text."""
    lines = {name: [round(float(loss), digits) for loss in surprise(model, text)] for name, text in LINES.items()}
    sample = model.generate(PROMPT, **SAMPLING, generator=torch.Generator().manual_seed(seed))
    return both_losses(model) | lines | {"sample": sample}


def set_strength(model: GPT, strength: float) -> None:
    """Let every adapter of a model count `strength` times as much as it was trained to."""
    for layer in lora_layers(model).values():
        layer.scaling = strength * layer.alpha / layer.rank


def arm_name(strength: float, shuffle: int | None = None) -> str:
    """The name of an arm, for example `strength 0.5` or `strength 1, shuffled 0`."""
    return f"strength {strength:g}" + ("" if shuffle is None else f", shuffled {shuffle}")


DIAL_ARMS = {arm_name(strength): {"strength": strength} for strength in STRENGTHS} | {
    arm_name(strength, draw): {"strength": strength, "shuffle": draw}
    for strength, draws in ((0.5, 3), (1, 3), (1.5, 1), (2, 1))
    for draw in range(draws)
}
