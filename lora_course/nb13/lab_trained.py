"""What notebook 13 says of stored runs: numbers that luck moves, each with the interval in which it lies.

As in `nb13_measured`, each function returns {setting: number}. Nothing is written down here: another result of an
experiment gives another number.
"""

import copy
import time
from functools import cache
from operator import truediv
from statistics import mean, quantiles, stdev

import numpy as np
import torch

from lora_course.nb09 import lab as nb09
from lora_course.nb13.lab import ASKED, MID, VERBS
from lora_course.nb13.lab_measured import Interval, Numbers, results
from lora_course.running.finetune import shipped as base
from lora_course.running.sweeps import paired
from lora_course.running.timing import alternating_times
from lora_edu import GPTConfig, quantize_linears
from lora_edu.memory.shapes import BASE, CONSTANTS, predicted_bytes

STUDENT = {3: 4.303, 6: 2.571}  # how many standard errors luck alone passes once in twenty, by the number of seeds
Seeds = dict[str, list[float]]  # setting -> a number for each seed


def interval(values: list[float]) -> Interval:
    """Where the mean over all seeds lies, by these few, 95 times in 100."""
    half = STUDENT[len(values)] * stdev(values) / len(values) ** 0.5
    return Interval(mean(values) - half, mean(values) + half)


def intervals(found: Seeds) -> Numbers:
    return {setting: interval(values) for setting, values in found.items()}


# --- as good as another method: seed by seed, since seeds share their batches ----------------------------------------


def rounding_alone(text: str) -> list[float]:
    """What NF4 costs the base before any training, in nats a byte: one number a draw. text: `plays` or `addresses`."""
    return nb09.rises(results("nf4-draws"), text)


# How far apart two draws of one rounding lie on a text, in nats a byte: less is no difference.
TOLERANCE = {text: stdev(rounding_alone(text)) for text in ("plays", "addresses")}


def gaps(one: str, other: str, text: str, which: str = "loss", rank: int = 8) -> list[float]:
    """The loss of one method minus the other's, seed by seed. text: that is learned; rank: of the first."""
    runs = nb09.quality_runs()
    return paired(nb09.of(runs, one, text, rank), nb09.of(runs, other, text), which)


def lora_gaps() -> Seeds:
    """LoRA minus full fine-tuning, on plays, each at its own rate, in nats a byte."""
    found = {f"{size}, rank 8": gaps("lora", "full", size) for size in nb09.TEXT_SIZES}
    for other, name in (("full", "everything"), ("blocks", "the same matrices")):
        found[f"all plays, rank 64 against {name}"] = gaps("lora", other, "all plays", rank=64)
    return found


def lora_behind_full() -> Seeds:
    """The same in tolerances of plays."""
    return {setting: [gap / TOLERANCE["plays"] for gap in found] for setting, found in lora_gaps().items()}


def qlora_behind_lora() -> Seeds:
    """QLoRA minus LoRA, in tolerances of the text that is asked: the plays that were learned, or the addresses."""
    return {
        f"learned {size}, asked {text}": [
            gap / TOLERANCE[text] for gap in gaps("qlora", "lora", size, {"plays": "loss"}.get(text, text))
        ]
        for size in nb09.TEXT_SIZES
        for text in TOLERANCE
    }


def two_that_match() -> Numbers:
    """The same measure where two methods do end alike."""
    return {"QLoRA against LoRA, all plays": interval(qlora_behind_lora()["learned all plays, asked plays"])}


# --- which verb goes with which pronoun? -----------------------------------------------------------------------------


def right(arm: str, order: str) -> np.ndarray:
    """(pairs,) of 0 and 1: which pairs of this order an arm got right. order: one of ASKED."""
    return np.array([int(digit) for digit in results("agreement")[arm][order]])


def shares(method: str, order: str) -> list[float]:
    """The share of pairs that were right, one number a seed; of a base that was not trained there is one."""
    arms = [arm for arm in results("agreement") if arm == method or arm.rpartition(", seed ")[0] == method]
    return [float(right(arm, order).mean()) for arm in arms]


def luck(one: str, other: str, order: str, seed: int) -> float:
    """By how many standard errors one way got more pairs right than the other: what exercise 13.1 asks for."""
    first, second = (right(f"{way}, seed {seed}", order) for way in (one, other))
    b, c = int((first > second).sum()), int((second > first).sum())
    return (b - c) / (b + c) ** 0.5 if b + c else 0.0


def luck_by_verb(one: str, other: str, order: str, seed: int) -> float:
    """The same of five verbs instead of 500 pairs: the mean gap of a verb, in standard errors over the verbs."""
    first, second = (right(f"{way}, seed {seed}", order).reshape(-1, len(VERBS)).mean(0) for way in (one, other))
    gaps = (first - second).tolist()
    return mean(gaps) / stdev(gaps) * len(gaps) ** 0.5


def right_answers() -> Numbers:
    """The share of pairs that LoRA gets right."""
    return {name: interval(shares("lora", order)) for order, name in ASKED.items() if order != f"statement{MID}"}


def counted_answers() -> Numbers:
    """The same of a rival that did learn it from the same bytes."""
    return {"questions, by counts, capitals folded": interval(shares("counted", "question"))}


# --- times: half of the rounds lie in such an interval ----------------------------------------------------------------


def time_of_a_branch() -> Numbers:
    """The time of a model whose adapters stay apart, over that of the merged one; stored, of one processor."""
    arms = results("serving-times")
    return {"merged": 1.0} | {name: Interval(arm["apart, from"], arm["apart, to"]) for name, arm in arms.items()}


@cache
def on_a_small_device(rounds: int = 25) -> Numbers:
    """QLoRA over the 32-bit way: bytes of the model, peak of a step over that of LoRA, and the time for one byte."""
    full, qlora = predicted_bytes(GPTConfig()), predicted_bytes(GPTConfig(), rank=8, nf4=True)
    films, four_bits = results("step-films"), quantize_linears(copy.deepcopy(base()), double_quant=True)
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode():
        tasks = {"float32": lambda: base()(one), "NF4": lambda: four_bits(one)}
        times = alternating_times(tasks, rounds, time.process_time)
    low, _, high = quantiles(map(truediv, times["NF4"], times["float32"]), n=4)
    return {
        "bytes of the model": (qlora[BASE] + qlora[CONSTANTS]) / full[BASE],
        "peak memory of a training step, over LoRA": films["freeze, four_bits"]["peak"] / films["freeze"]["peak"],
        "time to write one byte, half of the rounds": Interval(low, high),
    }
