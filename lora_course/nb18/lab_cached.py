"""Whose keys and values? An adapter is switched on behind what the base has read, or off (questions.md).

A place's key and value follow from what stands there and before it. So the base's cache, with the adapter behind it, is
one pass in which the adapter counts nothing up to a place: no cache is needed to measure it.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lora_course.nb17 import lab as nb17
from lora_course.nb17.lab import SKIP
from lora_course.nb18.lab import adam, loop
from lora_course.running.finetune import prepared
from lora_course.running.sweeps import seeded
from lora_edu import data_file, load_adapter, load_base, load_text
from lora_edu.lora import lora_layers
from lora_edu.models.pretrained import next_token_loss
from lora_edu.texts import spread_windows
from lora_edu.training import LossFn, model_loss, trainable_parameters

LETTERS, STEPS, RATE = 4, 100, 1e-2  # of a made-up word; of the training on such words
Batch = tuple[Tensor, Tensor]

# How much the adapter counts at each place, from `behind`, (batch, seq): whether an answer is asked for there.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "base": torch.zeros_like,
    "adapter": torch.ones_like,
    "base's cache": lambda behind: behind,
    "adapter's cache": lambda behind: ~behind,
}


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor, way: str, loss_fn: LossFn = model_loss) -> Tensor:
    """The mean loss of what is asked, all targets but -100. The switch is where the first answer is asked for."""
    first = (targets != SKIP).int().argmax(dim=1, keepdim=True)  # (batch, 1)
    counts = WAYS[way](torch.arange(inputs.shape[1]) >= first).float()[..., None]  # (batch, seq, 1)
    for layer in lora_layers(model).values():
        layer.scaling = layer.alpha / layer.rank * counts
    return loss_fn(model, inputs, targets)


@torch.no_grad()
def in_each_way(model: nn.Module, asked: list[Batch], loss_fn: LossFn = model_loss) -> dict[str, float]:
    """The loss on these batches in each of WAYS, in nats a target."""
    sizes = torch.tensor([float((targets != SKIP).sum()) for _, targets in asked])
    losses = {way: torch.stack([loss_of(model, *batch, way, loss_fn) for batch in asked]) for way in WAYS}
    return {way: round(float(each @ sizes / sizes.sum()), 4) for way, each in losses.items()}


def halves() -> list[Batch]:
    """Held-out windows of plays; what is asked is the second half of each."""
    windows = spread_windows(load_text("shakespeare").validation, 256, 32)
    targets = windows[:, 1:].masked_fill(torch.arange(256) < 128, SKIP)
    return list(zip(windows[:, :-1].split(8), targets.split(8), strict=True))


def words(seed: int) -> Iterator[Batch]:
    """Batches without end: a word of random letters, a line break, the word again, which is what is asked."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        word = torch.randint(ord("a"), ord("z") + 1, (32, LETTERS), generator=generator)
        rows = torch.cat([word, torch.full((32, 1), ord("\n")), word], dim=1)
        yield rows[:, :-1], rows[:, 1:].masked_fill(torch.arange(2 * LETTERS) < LETTERS, SKIP)


def cached(text: str, trained: str = "adapter", *, seed: int = 0, progress: bool = True) -> dict[str, float]:
    """The loss on one kind of text in each of WAYS. trained: which of them the adapter was trained in, for words."""
    if text == "plays":
        model = load_adapter(load_base("laptop", device="cpu"), data_file("shakespeare-adapter"))
        return in_each_way(model, halves())
    if text == "words":
        model = prepared(load_base("laptop", device="cpu"), "lora", seed=seed)
        asked = functools.partial(loss_of, way=trained)
        loop(model, adam(trainable_parameters(model), RATE), STEPS, words(seed), asked)
        unseen = words(10**6)
        return in_each_way(model, [next(unseen) for _ in range(8)])
    model, tokenizer = nb17.loaded()
    nb17.taught(model, tokenizer, nb17.drawn(64, seed), seed, progress=progress)
    rows = [nb17.encoded(tokenizer, *pair) for pair in nb17.pairs()[1][:24]]
    return in_each_way(model.eval(), [nb17.batch_of(rows[i : i + 8]) for i in range(0, 24, 8)], next_token_loss)


CACHE_ARMS = {
    **seeded("plays", seeds=(0,), text="plays"),
    **seeded("words", text="words"),
    **seeded("words, switched", text="words", trained="base's cache"),
    **seeded("telegrams", seeds=(0, 1), text="telegrams"),
}
