"""What the verdicts of notebook 13 are computed from where training or timing is needed: mostly stored results.

As in `nb13_measured`, each function returns {setting: number}. Nothing is written down here: another result of an
experiment gives another number.
"""

import copy
from functools import cache
from operator import truediv
from statistics import mean, quantiles, stdev
from typing import NamedTuple

import numpy as np
import torch

from lora_edu.experiments import nb09, nb10_runs
from lora_edu.experiments.nb02 import best_rates as digit_rates
from lora_edu.experiments.nb08 import alternating_times
from lora_edu.experiments.nb10_sizes import gains_of, kept
from lora_edu.experiments.nb13 import ORDERS
from lora_edu.experiments.nb13_measured import Numbers, base, results
from lora_edu.experiments.nb13_products import LAYER_TOKENS, STEP_TOKENS, product_name
from lora_edu.experiments.stored import load_results
from lora_edu.experiments.sweeps import Runs, interval, paired
from lora_edu.gpt import GPTConfig
from lora_edu.memory.shapes import BASE, CONSTANTS, predicted_bytes
from lora_edu.qlora import quantize_linears

# How far apart two draws of the same rounding lie, in nats a byte: one standard deviation of NF4's draws on plays.
TOLERANCE = round(stdev(nb09.rises(load_results("nf4-draws")["arms"], "plays")), 4)
Gaps = dict[str, list[float]]  # setting -> one difference a seed, in nats a byte; above 0: the first is worse


class Interval(NamedTuple):
    """Where a mean difference lies, by three seeds, 95 times in 100."""

    low: float
    high: float


Intervals = dict[str, Interval]


# --- as good as another method: seed by seed, since seeds share their batches ----------------------------------------


def intervals(found: Gaps) -> Intervals:
    """The interval of each setting: 4.3 standard errors to both sides of the mean of its three differences."""
    halves = {name: interval(ds) for name, ds in found.items()}
    return {name: Interval(middle - half, middle + half) for name, (middle, half) in halves.items()}


def deviation(ds: list[float]) -> float:
    """A mean difference in standard errors of its own seeds; with three, luck alone passes 4.3 once in twenty."""
    return mean(ds) / (stdev(ds) / len(ds) ** 0.5)


@cache
def quality() -> Runs:
    return nb09.quality_runs()


def gaps(one: str, other: str, text: str, which: str = "loss", rank: int = 8) -> list[float]:
    """The loss of one method minus the other's, seed by seed. rank: of the first."""
    return paired(nb09.of(quality(), one, text, rank), nb09.of(quality(), other, text), which)


def lora_gaps() -> Gaps:
    """LoRA minus full fine-tuning, on plays, each at its own rate."""
    found = {f"{text}, rank 8": gaps("lora", "full", text) for text in nb09.TEXT_SIZES}
    for other, name in (("full", "everything"), ("blocks", "the same matrices")):
        found[f"all plays, rank 64 against {name}"] = gaps("lora", other, "all plays", rank=64)
    return found


def qlora_gaps() -> Gaps:
    """QLoRA minus LoRA: on the text that was learned, and on the addresses that the base knew."""
    which = {"learned": "loss", "kept": "addresses"}
    return {f"{t}, {name}": gaps("qlora", "lora", t, loss) for t in nb09.TEXT_SIZES for name, loss in which.items()}


def lora_against_full() -> Intervals:
    return intervals(lora_gaps())


def two_that_match() -> Intervals:
    """The same measure where two methods do end alike: QLoRA and LoRA, on plays."""
    return intervals({"QLoRA against LoRA, all plays": qlora_gaps()["all plays, learned"]})


def qlora_against_lora() -> Intervals:
    return intervals(qlora_gaps())


def two_bits_left() -> Intervals:
    """The loss that a base in 2 bits still costs after training, in nats a byte, against the whole base."""
    return intervals({"NF2": nb09.recovery(quality())["NF2"][1]})


def rounding_alone(text: str) -> list[float]:
    """What NF4 costs the base before any training, in nats a byte: one number a draw. text: `plays` or `addresses`."""
    return nb09.rises(results("nf4-draws"), text)


# --- which verb goes with which pronoun? -----------------------------------------------------------------------------


def right(arm: str, order: str) -> np.ndarray:
    """(pairs,) of 0 and 1: which pairs of this order an arm got right. order: `statement` or `question`."""
    return np.array([int(digit) for digit in results("agreement")[arm][order]])


def shares(method: str, order: str) -> list[float]:
    """The share of pairs that were right, one number a seed; of a base that was not trained there is one."""
    arms = [arm for arm in results("agreement") if arm == method or arm.rpartition(", seed ")[0] == method]
    return [float(right(arm, order).mean()) for arm in arms]


def luck(one: str, other: str, order: str, seed: int) -> tuple[int, int, float]:
    """The pairs that only one of two ways got right, those that only the other did, and what exercise 13.1 asks for."""
    first, second = (right(f"{way}, seed {seed}", order) for way in (one, other))
    b, c = int((first > second).sum()), int((second > first).sum())
    return b, c, (b - c) / (b + c) ** 0.5 if b + c else 0.0


def above_rivals() -> Numbers:
    """LoRA's share of right pairs above a rival's, in the worst of three seeds: one half, and counts of word pairs."""
    found = {}
    for order in ORDERS:
        lora, counted = shares("lora", order), shares("counted", order)
        found[f"{order}s, above one half"] = min(lora) - 0.5
        found[f"{order}s, above counts of word pairs"] = min(a - b for a, b in zip(lora, counted, strict=True))
    return found


def counted_above_half() -> Numbers:
    return {"counts of word pairs, questions, above one half": min(shares("counted", "question")) - 0.5}


# --- rank and size ---------------------------------------------------------------------------------------------------


def lost_in_the_larger() -> Numbers:
    """How much more of a larger rank's gain a rank loses in the larger model (135M) than in the smaller one (3.4M).

    Of which larger rank? The sign depends on it, so each is a setting. One rate, and means over seeds.
    """
    return {
        f"rank {rank} against rank {of}": kept("gpt", rank, of)[0] - kept("smollm2", rank, of)[0]
        for rank, of in ((1, 8), (1, 64), (8, 64))
    }


def lost_at_a_lower_rate(times: float = 0.33) -> Numbers:
    """The same difference within one model, between its rate and a third of it: nothing but the rate is another."""
    small, large = ([gains_of("gpt", rank, times=t, seed=0)[0] for t in (1.0, times)] for rank in (1, 64))
    return {"rank 1 against rank 64, one model, two rates": small[0] / large[0] - small[1] / large[1]}


# --- learning rates --------------------------------------------------------------------------------------------------


def best_rate_moves() -> Numbers:
    """With alpha = 2r: the best rate at the largest rank over that at the smallest. A step of the grids is about 2."""
    stored, found = load_results("digit-rates"), {}
    for optimizer in ("plain descent", "Adam"):
        name = f"{optimizer}, alpha = 2r"
        best = digit_rates(stored["arms"][name], stored["settings"][name]["rates"])
        found[f"digits, {optimizer}, ranks 2 to 8"] = best[8] / best[2]
    best = nb10_runs.best_rates(nb10_runs.all_runs())["alpha = 2r"]
    return found | {"our GPT, Adam, ranks 1 to 64": best[64] / best[1]}


def rate_over_full() -> Numbers:
    """LoRA's best rate over full fine-tuning's, with alpha = 2r."""
    runs = nb10_runs.all_runs()
    few = [nb09.of(quality(), method, "20 kB").best_rate() for method in ("lora", "full")]
    full, by_rank = nb10_runs.best_rate(runs, "full"), nb10_runs.best_rates(runs)["alpha = 2r"]
    return {f"all plays, rank {rank}": lr / full for rank, lr in sorted(by_rank.items())} | {
        "20 kB, rank 8": few[0] / few[1]
    }


# --- times -----------------------------------------------------------------------------------------------------------


def products_over_float32(kind: str = "NF4") -> Numbers:
    """The time of a layer, and of a training step, over that in float32; stored, of one processor."""
    arms = results("product-times")
    names = [product_name("layer", n) for n in LAYER_TOKENS] + [product_name("step", n) for n in STEP_TOKENS]
    return {f"{name}, {kind}": arms[name][kind] for name in names if kind in arms[name]}


def integers_over_float32() -> Numbers:
    """The same of a product that really is of 8-bit integers, the rounding of its input included."""
    name = product_name("layer", LAYER_TOKENS[1])
    return {f"{name}, int8": results("product-times")[name]["int8"]}


# --- a small device --------------------------------------------------------------------------------------------------


@cache
def on_a_small_device() -> Numbers:
    """QLoRA over the 32-bit way: bytes of the model, peak of a training step, and the time for one byte.

    That time is noisy on a busy machine, so its name says between which multiples half of the rounds lie.
    """
    full, qlora = predicted_bytes(GPTConfig()), predicted_bytes(GPTConfig(), rank=8, nf4=True)
    films, four_bits = results("step-films"), quantize_linears(copy.deepcopy(base()), double_quant=True)
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode():
        times = alternating_times({"float32": lambda: base()(one), "NF4": lambda: four_bits(one)}, rounds=25)
    low, middle, high = quantiles(map(truediv, times["NF4"], times["float32"]), n=4)
    return {
        "bytes of the model": (qlora[BASE] + qlora[CONSTANTS]) / full[BASE],
        "peak memory of a training step": films["freeze, four_bits"]["peak"] / films["none"]["peak"],
        f"time to write one byte (half of 25 rounds: {low:.1f} to {high:.1f})": middle,
    }
