"""Train twice: an adapter has read plays, and verses come next. Go on, stack, or merge first? (questions.md)

The second half is the same for all plans: as many steps on verses, each at rates of its own. The controls stand in
notebook 04's runs: the base, and an adapter that never saw plays.
"""

import copy
import functools

import torch

from lora_course.nb04.lab import ALPHA, RANK, RATE, STEPS, TEXTS, empty_adapter, losses_on_both
from lora_course.nb18.lab import adam, loop
from lora_course.running.sweeps import arms_of, sweep_arms
from lora_edu import GPT, LoRALinear, load_text, merge
from lora_edu.layers import replace_layers
from lora_edu.lora import lora_layers, unload
from lora_edu.texts import batches
from lora_edu.training import trainable_parameters

RATES = (2.5e-3, 5e-3, 1e-2)


def read(model: GPT, lr: float, text: str, seed: int) -> dict[str, float]:
    """Train on one of TEXTS. Returns the losses on both."""
    draw = batches(load_text(TEXTS[text]).train, 8, 128, torch.Generator().manual_seed(seed))
    loop(model, adam(trainable_parameters(model), lr), STEPS, draw)
    return {name: round(loss, 4) for name, loss in losses_on_both(model).items()}


@functools.lru_cache(maxsize=2)
def after_plays(seed: int) -> tuple[GPT, dict[str, float]]:
    """The first half: a model with its adapter, and both losses. Trained once."""
    model = empty_adapter(RANK, seed)
    return model, read(model, RATE, "plays", seed)


def stacked(model: GPT, seed: int) -> GPT:
    """The model with a second adapter on top of each, and the first frozen."""
    torch.manual_seed(seed)
    layers = lora_layers(model).items()
    return replace_layers(model, ((path, LoRALinear(layer, RANK, ALPHA)) for path, layer in layers))


def twice(plan: str, lr: float, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """The losses on both texts after the first half and after the second. plan: "merge", "stack" or "go on"."""
    model, first = copy.deepcopy(after_plays(seed))
    if plan == "merge":
        model = empty_adapter(RANK, 100 + seed, unload(merge(model)))
    elif plan == "stack":
        model = stacked(model, 100 + seed)
    return {"first": first, "then": read(model, lr, "verses", 100 + seed)}


TWICE_ARMS = sweep_arms("merge", RATES, RATE, plan="merge") | sweep_arms("go on", RATES, RATE, plan="go on")
TWICE_ARMS |= arms_of("stack", (RATE,), plan="stack")
