"""Two adapters on one base, and a dial between them: what is kept, and what of the other voice comes in? (notebook 04)

One adapter is trained on plays, one on Bible verses, each for 50 steps. Every arm puts both into one model in some way
and measures it on both texts. What the dial has to be compared with stands in arms of its own: one adapter alone at
half strength, half of a meaningless one, and the averages of the factors, also at the size of the true sum.
"""

import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from operator import truediv

import torch
from torch import Tensor

from lora_edu.gpt import GPT
from lora_edu.lora import adapter_state, add_lora, combine, load_adapter_state, lora_layers
from lora_edu.models.pretrain import load_base
from lora_edu.texts import Text, batches, load_text
from lora_edu.training import evaluate

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


def alternating_times(tasks: dict[str, Callable], rounds: int, clock=time.perf_counter) -> dict[str, list[float]]:
    """The seconds that each task takes by a clock, one number a round.

    Tasks alternate, so that a slow moment of the machine hits all of them alike. A round before the first warms up.
    """
    times = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return {name: seconds[1:] for name, seconds in times.items()}


def relative_times(tasks: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The time of each task as a multiple of the first one's in the same round: the median over the rounds."""
    times = alternating_times(tasks, rounds)
    first = next(iter(times.values()))
    return {name: statistics.median(map(truediv, seconds, first)) for name, seconds in times.items()}


def losses_on_both(model: GPT) -> dict[str, float]:
    """The loss on held-out plays and verses, in nats per byte, over 64 windows of 128 bytes each."""
    held_out = {name: load_text(text).validation for name, text in TEXTS.items()}
    return {name: evaluate(model, tokens, seq_len=128, max_windows=64) for name, tokens in held_out.items()}


def dial(plays: float, verses: float, how: str = "combined", *, repeat: int = 0, seed: int = 0) -> dict:
    """Put both adapters into one model, with a weight for each, and measure it on both texts.

    how: "combined" adds the weighted updates. "averaged" takes the mean of the As and of the Bs instead; "averaged,
    same size" multiplies each layer's product to the norm of the true sum; "averaged, same start" does it with adapters
    that began with the same A. "quarters, enlarged" lacks the cross terms of the average: its own two terms alone, each
    a quarter, and multiplied as "averaged, same size" is. "shuffled" permutes the inputs of the verses adapter: as
    large, but meaningless.
    Returns the two losses, how far the update is from the weighted sum, and a sample.
    """
    first, second = seed + 2 * repeat, seed + 2 * repeat + (how != "averaged, same start")
    states = [trained_state("plays", first), trained_state("verses", second)]
    wanted = with_state(combine(states, [plays, verses]), 2 * RANK)
    if how == "combined":
        model = wanted
    elif how == "shuffled":
        model = with_state(combine([states[0], shuffled(states[1])], [plays, verses]), 2 * RANK)
    else:
        model = averaged = with_state({name: (states[0][name] + states[1][name]) / 2 for name in states[0]}, RANK)
        if how == "quarters, enlarged":
            model = with_state(combine(states, [plays / 2, verses / 2]), 2 * RANK)
        if how in ("averaged, same size", "quarters, enlarged"):
            enlarge(model, averaged, wanted)
    text = model.generate(PROMPT, 110, temperature=0.6, generator=torch.Generator().manual_seed(seed))
    result = {"error": update_error(model, wanted)} | losses_on_both(model)
    return {name: round(value, 4) for name, value in result.items()} | {"sample": text.removeprefix(PROMPT)}


@lru_cache
def trained_state(name: str, seed: int) -> dict[str, Tensor]:
    """The adapter for one of TEXTS; the seed draws A. Trained once, then remembered."""
    model = empty_adapter(RANK, seed)
    train_adapter(model, load_text(TEXTS[name]), STEPS, RATE, seed)
    return adapter_state(model)


def empty_adapter(rank: int, seed: int = 0) -> GPT:
    """The base with new adapters on all linear layers of the blocks, with the scaling that all of them share here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return add_lora(load_base("laptop", device="cpu"), rank, ALPHA / RANK * rank, targets="all-linear")


def with_state(state: dict[str, Tensor], rank: int) -> GPT:
    """The base with these adapters."""
    return load_adapter_state(empty_adapter(rank), state).eval()


def shuffled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same adapter with the columns of each A permuted: the same norms, applied to the wrong inputs."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor[:, torch.randperm(tensor.shape[1], generator=generator)] if name.endswith("lora_A") else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def enlarge(model: GPT, small: GPT, large: GPT) -> None:
    """Multiply each update by what takes that of `small` to the norm of that of `large`. `small` may be the model."""
    layers = (lora_layers(each).values() for each in (model, small, large))
    for layer, less, more in zip(*layers, strict=True):
        layer.scaling *= (more.delta_weight().norm() / less.delta_weight().norm()).item()


@torch.no_grad()
def update_error(model: GPT, wanted: GPT) -> float:
    """The distance between the updates of two models, over all layers, as a share of the second."""
    pairs = zip(lora_layers(model).values(), lora_layers(wanted).values(), strict=True)
    both = [(layer.delta_weight(), other.delta_weight()) for layer, other in pairs]
    apart = sum((ours - theirs).square().sum() for ours, theirs in both)
    whole = sum(theirs.square().sum() for _, theirs in both)
    return (apart / whole).sqrt().item() if whole else 0.0


# --- the arms --------------------------------------------------------------------------------------------------------

SETTINGS = tuple(step / 8 for step in range(9))  # the weight of the plays; that of the verses is what is left
SEEDS = (0, 1, 2)
CONTROLS = {
    "base": {"plays": 0.0, "verses": 0.0},
    "half plays alone": {"plays": 0.5, "verses": 0.0},
    "half verses alone": {"plays": 0.0, "verses": 0.5},
    "half plays, half shuffled": {"plays": 0.5, "verses": 0.5, "how": "shuffled"},
    "both in full": {"plays": 1.0, "verses": 1.0},
    "verses minus plays": {"plays": -1.0, "verses": 1.0},
    "averaged": {"plays": 0.5, "verses": 0.5, "how": "averaged"},
    "averaged, same size": {"plays": 0.5, "verses": 0.5, "how": "averaged, same size"},
    "a quarter of each": {"plays": 0.25, "verses": 0.25},
    "quarters, enlarged": {"plays": 0.5, "verses": 0.5, "how": "quarters, enlarged"},
    "averaged, same start": {"plays": 0.5, "verses": 0.5, "how": "averaged, same start"},
}


def setting_name(weight: float, seed: int = 0) -> str:
    """The name of an arm of the dial, for example `plays 0.5, seed 0`."""
    return f"plays {weight:g}, seed {seed}"


def _dial_arms() -> dict[str, dict]:
    arms = {setting_name(weight): {"plays": weight, "verses": 1 - weight} for weight in SETTINGS}
    for name, options in CONTROLS.items():
        arms[f"{name}, seed 0"] = options
    for seed in SEEDS[1:]:
        for weight in (0, 0.5, 1):
            arms[setting_name(weight, seed)] = {"plays": weight, "verses": 1 - weight, "repeat": seed}
        for name in list(CONTROLS)[1:]:
            arms[f"{name}, seed {seed}"] = CONTROLS[name] | {"repeat": seed}
    return arms


VOICE_ARMS = _dial_arms()
