"""Adding updates: two adapters on one base, a dial between them, and an adapter merged onto two bases (notebook 04).

One adapter is trained on plays, one on Bible verses, each for 50 steps. Every arm of `dial` puts both into one model in
some way and measures it on both texts. What it has to be compared with stands in arms of its own: one adapter alone at
half strength, and the averages of the factors beside sums with the same weights.
"""

import copy
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from lora_course.running.sweeps import SEEDS, seeded
from lora_edu import GPT, evaluate, load_base, quantize, quantize_linears
from lora_edu.lora import adapter_state, add_lora, combine, load_adapter_state, lora_layers, merge, unload
from lora_edu.observing import block_linears
from lora_edu.texts import Text, batches, load_text

RANK, ALPHA, STEPS, RATE = 8, 16, 50, 5e-3
TEXTS = {"plays": "shakespeare", "verses": "king-james"}
PROMPT = "And when the king heard this, he said"


def train_adapter(model: GPT, text: Text, steps: int, lr: float, seed: int = 0) -> list[float]:
    """The whole loop of notebook 04: AdamW on what asks for a gradient. Returns the loss of each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr)
    draw = batches(text.train, 8, 128, torch.Generator().manual_seed(seed))
    losses = []
    for _, (inputs, targets) in zip(range(steps), draw):  # noqa: B905 (the windows never end)
        optimizer.zero_grad()  # forget the gradients of the step before
        loss = model(inputs, targets)[1]  # forward
        loss.backward()  # dA and dB of every layer
        optimizer.step()  # move A and B
        losses.append(loss.item())
    return losses


def losses_on_both(model: GPT) -> dict[str, float]:
    """The loss on held-out plays and verses, in nats per byte, over 64 windows of 128 bytes each."""
    held_out = {name: load_text(text).validation for name, text in TEXTS.items()}
    return {name: evaluate(model, tokens, seq_len=128, max_windows=64) for name, tokens in held_out.items()}


def dial(plays: float, verses: float, how: str = "combined", *, one_start: bool = False, seed: int = 0) -> dict:
    """Put both adapters into one model, with a weight for each, and measure it on both texts.

    how: "combined" adds the weighted updates; "rounded" adds them to the weights, and rounds these to NF4. "averaged"
    takes the weighted sums of the As and of the Bs instead, whose product has cross terms, too.
    one_start: both adapters began with the same A.
    Returns the two losses and a sample.
    """
    here, there = 2 * seed, 2 * seed + 1
    states = [trained_state("plays", here), trained_state("verses", there, here if one_start else there)]
    if how == "averaged":
        model = with_state({name: plays * states[0][name] + verses * states[1][name] for name in states[0]}, RANK)
    else:
        model = with_state(combine(states, [plays, verses]), 2 * RANK)
    if how == "rounded":
        model = quantize_linears(unload(merge(model)))
    text = model.generate(PROMPT, 110, temperature=0.6, generator=torch.Generator().manual_seed(0))
    losses = {name: round(value, 4) for name, value in losses_on_both(model).items()}
    return losses | {"sample": text.removeprefix(PROMPT)}


@lru_cache
def trained_state(name: str, seed: int, start: int | None = None) -> dict[str, Tensor]:
    """The adapter for one of TEXTS; the seed draws the batches, and A unless `start` does. Trained once, remembered."""
    model = empty_adapter(RANK, seed if start is None else start)
    train_adapter(model, load_text(TEXTS[name]), STEPS, RATE, seed)
    return adapter_state(model)


def empty_adapter(rank: int, seed: int = 0, base: GPT | None = None) -> GPT:
    """A base with new adapters on all linear layers of the blocks, with the scaling that all of them share here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return add_lora(base or load_base("laptop", device="cpu"), rank, ALPHA / RANK * rank, targets="all-linear")


def with_state(state: dict[str, Tensor], rank: int) -> GPT:
    """The base with these adapters."""
    return load_adapter_state(empty_adapter(rank), state).eval()


# --- merging in 16 bits ----------------------------------------------------------------------------------------------


@torch.no_grad()
def kept_in_bf16(model: GPT, size: float, loss: Callable[[GPT], float]) -> float:
    """The share of an adapter's gain, how far it lowers loss(model), that is left after a merge in bfloat16.

    size: to which ||dW|| / ||W|| each layer's update is brought first. The base is rounded to bfloat16 for all three
    losses, so that nothing but the merge can lose.
    """
    apart = copy.deepcopy(model)
    for layer in lora_layers(apart).values():
        W = layer.base.to(torch.bfloat16).weight.float()
        layer.scaling *= (size * W.norm() / layer.delta_weight().norm()).item()
    merged = unload(merge(copy.deepcopy(apart))).float()  # merged as bfloat16, read as float32
    with_adapter, with_merged = loss(apart.float()), loss(merged)
    for layer in lora_layers(apart).values():
        layer.scaling = 0.0
    base = loss(apart)
    return (base - with_merged) / (base - with_adapter)


# --- onto which base? ------------------------------------------------------------------------------------------------


def onto_which_base(codebook: str, *, seed: int = 0) -> dict:
    """Train an adapter for plays on a base in this format, W′; merge it onto W′ and onto the unrounded W.

    Returns for "W′" and "W" the loss on plays of that base, with the update merged, and rounded again after it; the
    last two also for a tenth of the update.
    """
    bases = {"W′": lambda: in_format(load_base("laptop", device="cpu"), codebook)}
    bases["W"] = lambda: load_base("laptop", device="cpu")
    model = empty_adapter(RANK, seed, bases["W′"]())
    train_adapter(model, load_text("shakespeare"), STEPS, RATE, seed)
    state, plays, result = adapter_state(model), load_text("shakespeare").validation, {}
    for name, base in bases.items():
        models = {"base": base()}
        for what, times in (("", 1), ("a tenth, ", 0.1)):
            models[f"{what}merged"] = merged_onto(base(), state, times)
            models[f"{what}rounded"] = in_format(merged_onto(base(), state, times), codebook)
        losses = {what: evaluate(each, plays, seq_len=128, max_windows=64) for what, each in models.items()}
        result[name] = {what: round(loss, 4) for what, loss in losses.items()}
    return result


def merged_onto(base: GPT, state: dict[str, Tensor], times: float) -> GPT:
    """The base with so many times this adapter's update added to its weights."""
    weighted = {name: times * tensor if name.endswith("lora_B") else tensor for name, tensor in state.items()}
    return unload(merge(load_adapter_state(empty_adapter(RANK, base=base), weighted))).eval()


@torch.no_grad()
def in_format(model: GPT, codebook: str) -> GPT:
    """The model, its weights in the blocks rounded to this codebook, in blocks of 64."""
    for layer in block_linears(model).values():
        layer.weight.copy_(quantize(layer.weight, codebook).dequantize())
    return model


# --- the arms --------------------------------------------------------------------------------------------------------

SETTINGS = tuple(step / 8 for step in range(9))  # the weight of the plays; that of the verses is what is left
MORE_SEEDS = {"combined": (0, 0.5, 1), "averaged": (0.5,), "rounded": ()}  # the settings of the other two seeds
CONTROLS: dict[str, dict] = {
    "base": {"plays": 0.0, "verses": 0.0},
    "half plays alone": {"plays": 0.5, "verses": 0.0},
    "half verses alone": {"plays": 0.0, "verses": 0.5},
    "a quarter of each": {"plays": 0.25, "verses": 0.25},  # what an average has of the two, without its cross terms
    "one start, averaged": {"plays": 0.5, "verses": 0.5, "how": "averaged", "one_start": True},
    "one start, a quarter": {"plays": 0.25, "verses": 0.25, "one_start": True},
    "PEFT's linear": {"plays": 0.5**0.5, "verses": 0.5**0.5, "how": "averaged"},  # half of each, with cross terms
}


def setting_name(weight: float, seed: int = 0, how: str = "combined") -> str:
    """The name of an arm of the dial, for example `plays 0.5, seed 0` or `averaged 0.5, seed 0`."""
    return f"{'plays' if how == 'combined' else how} {weight:g}, seed {seed}"


def _dial_arms() -> dict[str, dict]:
    arms = {}
    for seed in SEEDS:
        repeat = {"repeat": seed} if seed else {}
        for how in ("combined", "averaged", "rounded"):
            for weight in SETTINGS if seed == 0 else MORE_SEEDS[how]:
                arm = {"plays": weight, "verses": 1 - weight} | ({} if how == "combined" else {"how": how})
                arms[setting_name(weight, seed, how)] = arm | repeat
        for name in list(CONTROLS)[seed > 0 :]:  # the base is one for all seeds
            arms[f"{name}, seed {seed}"] = CONTROLS[name] | repeat
    return arms


VOICE_ARMS = _dial_arms()
BASE_ARMS = seeded("nf4", codebook="nf4") | seeded("nf3", codebook="nf3") | seeded("nf2", codebook="nf2")
