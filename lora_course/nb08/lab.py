"""The film of one training step in each of twelve ways: what is alive after each operation (notebook 08).

The course's GPT with random weights, since a weight's value takes no memory, on four sequences of 256 tokens. Training
weights of 4 bits themselves is not one of the ways: their steps are larger than any update.
"""

import copy
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from operator import sub

import torch
from torch import Tensor

from lora_course.nb08.lab_film import film_step, scenes
from lora_course.running.timing import alternating_times
from lora_edu import GPT, GPTConfig, NF4Linear, add_lora, quantize_linears
from lora_edu.training import trainable_parameters, training_step

BATCH, LENGTH, RANK, ALPHA = 4, 256, 8, 16
TECHNIQUES = ("freeze", "four_bits", "checkpointing", "paging")
MOST = {"forward": 90, "backward": 150, "optimizer": 30}  # pictures of each phase


def film_name(freeze: bool, four_bits: bool, checkpointing: bool, paging: bool) -> str:
    """The name of an arm: "freeze, four_bits"; "none" for full fine-tuning as it comes."""
    chosen = zip(TECHNIQUES, (freeze, four_bits, checkpointing, paging), strict=True)
    return ", ".join(name for name, on in chosen if on) or "none"


def film_model(freeze: bool, four_bits: bool, checkpointing: bool) -> GPT:
    """The GPT, made ready for one way of training."""
    model = GPT(GPTConfig(), checkpointing="non-reentrant" if checkpointing else "none")
    if four_bits:
        quantize_linears(model, double_quant=True)
    return (add_lora(model, RANK, ALPHA, "all-linear") if freeze else model).train()


def film_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and targets, (B, S) int64 each."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, (BATCH, LENGTH), generator=generator) for _ in range(2))


def step_film(freeze: bool, four_bits: bool, checkpointing: bool, paging: bool, *, seed: int = 0) -> dict:
    """Film one step. Returns what stays by kind, the peak, and the pictures of each phase: bytes of gradients and of
    activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        film = film_step(film_model(freeze, four_bits, checkpointing), *film_batch(seed), paged=paging)
    return {"resident": film.resident, "peak": film.peak, "phases": scenes(film, MOST)}


FILM_ARMS = {
    film_name(*way): dict(zip(TECHNIQUES, way, strict=True))
    for way in product((False, True), repeat=4)
    if way[0] or not way[1]  # 4 bits only with a frozen base
}


# --- why is QLoRA slower? --------------------------------------------------------------------------------------------


def stepper(model: GPT, n_tokens: int) -> Callable[[], float]:
    """A function that takes one training step on so many tokens, in sequences of at most 256, to be timed."""
    tokens, targets = torch.randint(0, 256, (2, max(1, n_tokens // LENGTH), min(n_tokens, LENGTH)))
    optimizer = torch.optim.AdamW(trainable_parameters(model))
    return lambda: training_step(model, tokens, targets, optimizer)


def decoded_before(model: GPT) -> GPT:
    """A copy whose 4-bit layers were decoded in advance, into float32: a step on it decodes nothing."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            W = layer.dequantize()
            layer.quantized.decoded = lambda dtype, W=W: nullcontext(W)
    return model


def decoding_share(qlora: GPT, n_tokens: int, rounds: int) -> float:
    """Which share of a QLoRA step is decoding the weights: the step, less one on weights decoded in advance.

    So it is timed inside the step, where caches hold other things. Medians of processor time, which a busy machine
    disturbs less than time on the wall; differences round by round.
    """
    models = {"decoded before": decoded_before(qlora), "QLoRA": qlora}
    tasks = {name: stepper(model, n_tokens) for name, model in models.items()}
    before, whole = alternating_times(tasks, rounds).values()
    return statistics.median(map(sub, whole, before)) / statistics.median(whole)
