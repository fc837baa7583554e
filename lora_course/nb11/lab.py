"""The variants of LoRA, each at many learning rates: how much of a ranking is the rate? (notebook 11)

All put adapters on the same matrices, all linear layers of the blocks, and train on the same batches for 100 steps, as
in notebook 09, whose stored runs of LoRA and of full fine-tuning count here too. The rates are swept with seed 0. The
best of each is run with two more seeds. Of DoRA minus LoRA three seeds said "perhaps": both have three more. A step of
DoRA takes longer, so LoRA has six longer runs, too: as many steps as fit in DoRA's time.

"LoRA, another A" is a variant that changes nothing: LoRA again, with another draw of A. What it gains is chance.
"""

import statistics
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

from lora_course.nb09 import lab as nb09
from lora_course.running.finetune import loss_on
from lora_course.running.sweeps import SEEDS, Runs, arms_of, stored_runs, sweep_arms
from lora_course.running.timing import alternating_times
from lora_edu.lora import lora_layers
from lora_edu.models.base import load_base
from lora_edu.texts import Text, batches, load_text
from lora_edu.training import learning_rate_factor, trainable_parameters, training_step
from lora_edu.variants import add_variant, lora_plus_groups

STEPS, BATCH = 100, 4
WARMUP, FINAL, BETAS = 10, 0.1, (0.9, 0.95)  # as `train` has them

CHANGES_NOTHING = "LoRA, another A"
# name: the kind of layer, its rank, and alpha
KINDS = {
    "LoRA": ("LoRA", 8, 16),
    CHANGES_NOTHING: ("LoRA", 8, 16),
    "LoRA, rank 16": ("LoRA", 16, 32),
    "rsLoRA": ("rsLoRA", 8, 16),
    "LoRA+": ("LoRA", 8, 16),
    "DoRA": ("DoRA", 8, 16),
    "PiSSA": ("PiSSA", 8, 16),
}
# What does DoRA win? LoRA beside one plain gain a row, or the bias of each row: as many numbers as DoRA.
ONE_A_ROW = {"gains": ("gains", 8, 16), "biases": ("LoRA", 8, 16)}


def prepared(name: str, seed: int = 0, alpha: float | None = None) -> nn.Module:
    """The base with the adapters of this variant, ready to be trained. alpha: None takes that of KINDS."""
    model = load_base("laptop", device="cpu")
    kind, rank, usual = (KINDS | ONE_A_ROW)[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1000 * (name == CHANGES_NOTHING))  # A is drawn at random
        add_variant(model, kind, rank, usual if alpha is None else alpha)
    if name == "biases":
        for layer in lora_layers(model).values():
            layer.base.bias.requires_grad_(True)
    return model


def groups_of(name: str, model: nn.Module, lr: float, own: float = 1.0) -> list[dict]:
    """What the optimizer is given. The rate of LoRA+ is that of A; B learns 16 times as fast.

    own: how many times as fast numbers of rows learn, such as gains and DoRA's lengths.
    """
    if name == "LoRA+":
        return lora_plus_groups(model, lr)
    sorts = [[p for p in trainable_parameters(model) if (p.ndim == 1) is rows] for rows in (False, True)]
    return [{"params": some, "lr": rate} for some, rate in zip(sorts, (lr, own * lr), strict=True) if some]


def train_groups(model: nn.Module, data: Text, groups: list[dict], steps: int, seed: int, batch_size=BATCH) -> list:
    """As `lora_edu.train`, where each group of parameters has a rate of its own. Returns the loss of each step."""
    optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
    peaks = [group["lr"] for group in groups]
    draw = batches(data.train, batch_size, 256, torch.Generator().manual_seed(seed))
    losses = []
    model.train()
    for done in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(done, steps, WARMUP, FINAL)
        losses.append(training_step(model, *next(draw), optimizer))
        if losses[-1] != losses[-1]:
            break  # not a number
    model.eval()
    return losses


def variant_loss(name: str, lr: float, steps: int = STEPS, *, own: float = 1.0, seed: int = 0) -> dict:
    """Train one variant at one rate and measure it. own: as for `groups_of`.

    Returns the losses on held-out plays and addresses (nats a byte, as notebook 09 measures them), and the mean
    training loss of the last 20 steps.
    """
    model = prepared(name, seed)
    losses = train_groups(model, load_text("shakespeare"), groups_of(name, model, lr, own), steps, seed)
    if len(losses) < steps or losses[-1] > 10:
        return {"diverged": True}
    training = round(statistics.mean(losses[-20:]), 5)
    return {"loss": loss_on(model, "shakespeare"), "addresses": loss_on(model, "speeches"), "training": training}


# --- the arms --------------------------------------------------------------------------------------------------------

SHARED_RATES = (3e-3, 1e-2)  # with one rate for all; 3e-3 is what `train` takes if nobody says otherwise
# The rates that each is tried with beside these, with seed 0: a grid, moved to where its valley is. Then the rate with
# the lowest loss in the sweep: a test holds it against the stored results.
RATES: dict[str, tuple[tuple[float, ...], float]] = {
    CHANGES_NOTHING: ((), 1e-2),
    "LoRA, rank 16": ((6e-3, 2e-2), 1e-2),
    "rsLoRA": ((6e-3,), 6e-3),
    "LoRA+": ((1e-3, 2e-3, 6e-3), 2e-3),
    "DoRA": ((2e-2,), 1e-2),
    "PiSSA": ((6e-3, 4.5e-3), 4.5e-3),
}
SIX_SEEDS, MORE_SEEDS = ("LoRA", "DoRA"), (3, 4, 5)  # the best rate of both is 1e-2

VARIANT_ARMS = arms_of("LoRA", SHARED_RATES, name="LoRA")  # the other rates and seeds are notebook 09's
for _name, (_more, _best) in RATES.items():
    VARIANT_ARMS |= sweep_arms(_name, (*SHARED_RATES, *_more), _best, name=_name)
for _name in SIX_SEEDS:
    VARIANT_ARMS |= arms_of(_name, (1e-2,), MORE_SEEDS, name=_name)
# About as many steps as LoRA takes in the time of DoRA's 100 (a test holds it against the stored times).
DORAS_TIME = 112
VARIANT_ARMS |= arms_of("LoRA", (1e-2,), (*SEEDS, *MORE_SEEDS), name="LoRA", steps=DORAS_TIME)
VARIANT_ARMS["gains, 20 steps"] = {"name": "gains", "lr": 1e-2, "steps": 20}  # the notebook runs it again
# One number a row learns at a multiple of A's and B's rate, 1e-2: Adam moves a length as far as a gain, but lengths are
# 0.6 to 2.2. The multiple is swept with seed 0, to where the loss rises again; then more seeds at the best one.
ROW_SEEDS, MULTIPLES = range(5), (1, 3, 10)
BEST_MULTIPLE = {"gains": 3, "DoRA": 3}  # a test holds it against the stored results
for _name in ONE_A_ROW:  # and at one rate for all, as DoRA
    VARIANT_ARMS |= arms_of(_name, (1e-2,), ROW_SEEDS, name=_name)
for _name, _best in BEST_MULTIPLE.items():
    for _own in MULTIPLES:
        _way, _how = (_name, {}) if _own == 1 else (f"{_name}, own rate x{_own}", {"own": _own})
        VARIANT_ARMS |= arms_of(_way, (1e-2,), ROW_SEEDS if _own == _best else (0,), name=_name, **_how)


def all_runs() -> Runs:
    """The stored runs of 100 steps by `name` of the variant, those of notebook 09 with LoRA among them.

    Where both ran LoRA, this notebook's come last.
    """
    found = {}
    for run in nb09.quality_runs().where(text="all plays", rank=8, method="lora"):
        found["LoRA", run.lr, run.seed] = SimpleNamespace(**vars(run) | {"name": "LoRA"})
    found |= {(run.name, run.lr, run.seed): run for run in stored_runs("variants", "loss").where(steps=STEPS, own=None)}
    return Runs(found.values())


# --- time ------------------------------------------------------------------------------------------------------------


def step_times(rounds: int = 21, *, seed: int = 0) -> dict:
    """The processor's seconds of a training step of LoRA, DoRA and gains: all take a step in turn, `rounds` times."""

    def steps_of(name: str) -> Callable:
        model = prepared(name).train()
        optimizer = torch.optim.AdamW(groups_of(name, model, 1e-4))
        draw = batches(load_text("shakespeare").train, BATCH, 256, torch.Generator().manual_seed(seed))
        return lambda: training_step(model, *next(draw), optimizer)

    ways = {name: steps_of(name) for name in ("LoRA", "DoRA", "gains")}
    times = alternating_times(ways, rounds + 1)  # two rounds to warm up
    seconds = {name: [round(value, 5) for value in values[1:]] for name, values in times.items()}
    return {"seconds": seconds, "threads": torch.get_num_threads()}


TIME_ARMS: dict[str, dict] = {"gains, 21 rounds": {}}

# --- what the notebook computes --------------------------------------------------------------------------------------


def moved(model: nn.Module, size: float = 0.05) -> nn.Module:
    """Give all that is trained other numbers, as training does. In place; returns the model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def losses_of(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: float) -> list[float]:
    """The training losses of some steps on two windows of 64 bytes of plays, the same ones each time."""
    draw = batches(load_text("shakespeare").train, 2, 64, torch.Generator().manual_seed(0))
    model.train()
    return [training_step(model, *next(draw), optimizer, max_grad_norm=clip) for _ in range(steps)]
