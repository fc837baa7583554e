"""What the verdicts of notebook 13 are computed from where training or timing is needed: mostly stored results.

As in `nb13_measured`, each function returns {setting: number}. Nothing is written down here: another result of an
experiment gives another number.
"""

import copy
from functools import cache
from statistics import mean

import torch

from lora_edu.experiments import load_results
from lora_edu.experiments.nb04 import relative_times
from lora_edu.experiments.nb13 import BEST, RANKS, READING, arm_name, rank_name
from lora_edu.figures import nb09_quality as quality
from lora_edu.figures import nb10
from lora_edu.figures.nb02 import best_rates as digit_rates
from lora_edu.figures.nb13_measured import Numbers, base, results
from lora_edu.gpt import GPTConfig
from lora_edu.memory.shapes import BASE, CONSTANTS, predicted_bytes
from lora_edu.qlora import quantize_linears

SEEDS = range(3)


def spread(values: list[float]) -> float:
    return max(values) - min(values)


def gap_in_spreads(one: list[float], other: list[float]) -> float:
    """The difference of two means over three seeds, in units of how far the other's own seeds lie apart."""
    return (mean(one) - mean(other)) / max(spread(other), 1e-9)


def accuracies(model: str, method: str, which: str = "accuracy") -> list[float]:
    """One for each stored seed, at the method's best rate."""
    arms, rate = results("verses"), BEST.get((model, method), 0.0)
    names = [arm_name(model, method, rate, draw=draw) for draw in SEEDS]
    return [arms[name][which] for name in names if name in arms]


def lora_against_full() -> Numbers:
    """How much worse LoRA ends than full fine-tuning, in spreads of the other's own three seeds.

    Verses are no case: there the head alone does as well as everything, so that the test could not tell.
    """
    arms, found = results("qlora-quality"), {}
    for text in ("20 kB", "all plays"):
        found[f"{text}, rank 8"] = gap_in_spreads(*(quality.at_best(arms, m, text) for m in ("lora", "full")))
    ranks = quality.by_rank(arms)
    for other in ("everything", "the same matrices, in full"):
        found[f"all plays, rank 64 against {other}"] = gap_in_spreads(ranks["LoRA, rank 64"], ranks[other])
    return found


def untrained_against_full() -> Numbers:
    """The same of the base as it is."""
    arms = results("qlora-quality")
    before, full = (quality.at_best(arms, "full", "all plays", which) for which in ("before", "after"))
    return {"not trained": gap_in_spreads(before, full)}


def qlora_against_lora() -> Numbers:
    """How much worse QLoRA ends than LoRA, in spreads of LoRA's own three seeds."""
    arms, found = results("qlora-quality"), {}
    for text in ("20 kB", "all plays"):
        for which, name in (("after", "learned"), ("addresses", "kept")):
            found[f"{text}, {name}"] = gap_in_spreads(
                *(quality.at_best(arms, m, text, which) for m in ("qlora", "lora"))
            )
    return found


def noise_left(kinds: tuple[str, ...] = ("NF4", "noise", "4 x noise", "NF2")) -> Numbers:
    """The loss that a damaged base still costs after training, in spreads of the undamaged base's seeds."""
    arms = results("qlora-quality")
    unit = spread(quality.at_best(arms, "lora", "all plays"))
    return {kind: mean(quality.recovery(arms)[kind][1]) / unit for kind in kinds}


def above_rivals() -> Numbers:
    """LoRA's accuracy above a rival's, in standard errors of one test. Rivals: the larger class, a bag of words."""
    found = {}
    for model in READING:
        n = len(accuracies(model, "lora", "right")[0])
        for rival, bar in (("the larger class", 0.5), ("a bag of words", mean(accuracies(model, "words")))):
            error = (bar * (1 - bar) / n) ** 0.5
            found[f"{model}, above {rival}"] = (mean(accuracies(model, "lora")) - bar) / error
    return found


def words_above_majority() -> Numbers:
    """The same of a bag of words, above the larger class."""
    n = len(accuracies("gpt", "words", "right")[0])
    return {"a bag of words above the larger class": (mean(accuracies("gpt", "words")) - 0.5) / (0.25 / n) ** 0.5}


def gains(model: str, rank: int, own_rate: bool) -> list[float]:
    """The fall of the loss, one for each stored seed; own_rate: at the best of the rates that seed 0 tried."""
    arms = results("rank-and-size")
    found = {
        name: arm["before"] - arm["after"] for name, arm in arms.items() if name.startswith(f"{model}, rank {rank},")
    }
    if own_rate:
        return [max(gain for name, gain in found.items() if name.endswith("seed 0"))]
    names = [rank_name(model, rank, draw=draw) for draw in SEEDS]
    return [found[name] for name in names if name in found]


def kept_share(model: str, rank: int, own_rate: bool = False) -> list[float]:
    """The gain of a rank as a share of the best rank's, for each seed."""
    best = max(RANKS, key=lambda r: mean(gains(model, r, own_rate)))
    pairs = zip(*(gains(model, r, own_rate) for r in (rank, best)), strict=False)
    return [one / most for one, most in pairs]


def searched(model: str) -> bool:
    """Whether each rank was tried at other rates than the first, for seed 0."""
    tried = [name for name in results("rank-and-size") if name.startswith(f"{model}, rank 1,") and "rate x" in name]
    return bool(tried)


def lost_in_the_larger() -> Numbers:
    """How much more of the best rank's gain a rank loses in the larger model (135M) than in the smaller one (3.4M)."""
    ways = {"one rate for all ranks": False} | ({"each its own rate": True} if all(map(searched, READING)) else {})
    return {
        f"rank {rank}, {how}": mean(kept_share("gpt", rank, own)) - mean(kept_share("smollm2", rank, own))
        for how, own in ways.items()
        for rank in RANKS[:-1]
    }


def lost_by_rank() -> Numbers:
    """What rank 1 loses in the smaller model at one rate: the measure does see a rank that is too small."""
    return {"rank 1 against the best, one model": 1 - mean(kept_share("gpt", 1))}


def best_rate_moves(recipe: str = "alpha = 2r") -> Numbers:
    """The best rate at the largest rank over that at the smallest; a step of the grids is a factor of about 2."""
    stored, found = load_results("digit-rates"), {}
    for optimizer in ("plain descent", "Adam"):
        name = f"{optimizer}, {'alpha = 8' if recipe != 'alpha = 2r' else recipe}"
        best = digit_rates(stored["arms"][name], stored["settings"][name]["rates"])
        found[f"digits, {optimizer}, ranks 2 to 8"] = best[8] / best[2]
    best = nb10.best_rates(nb10.all_runs())[recipe]
    return found | {"our GPT, Adam, ranks 1 to 64": best[64] / best[1]}


def rate_over_full() -> Numbers:
    """LoRA's best rate over full fine-tuning's, with alpha = 2r."""
    arms, runs = results("qlora-quality"), nb10.all_runs()
    few = quality.best_rate(arms, "lora", "20 kB") / quality.best_rate(arms, "full", "20 kB")
    full = nb10.best_rate(runs, "full")
    by_rank = nb10.best_rates(runs)["alpha = 2r"]
    return {f"all plays, rank {rank}": lr / full for rank, lr in sorted(by_rank.items())} | {"20 kB, rank 8": few}


def one_rate_for_both() -> Numbers:
    rate = nb10.best_rate(nb10.all_runs(), "full")
    return {"full's own rate": rate / rate}


# --- a small device --------------------------------------------------------------------------------------------------


@cache
def on_a_small_device() -> Numbers:
    """QLoRA over the 32-bit way: bytes of the model, time for one byte, peak of a training step, its time."""
    full, qlora = predicted_bytes(GPTConfig()), predicted_bytes(GPTConfig(), rank=8, nf4=True)
    films, four_bits = results("step-films"), quantize_linears(copy.deepcopy(base()), double_quant=True)
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode():
        times = relative_times({"float32": lambda: base()(one), "NF4": lambda: four_bits(one)}, rounds=25)
    return {
        "bytes of the model": (qlora[BASE] + qlora[CONSTANTS]) / full[BASE],
        "peak memory of a training step": films["freeze, four_bits"]["peak"] / films["none"]["peak"],
        "time to write one byte": times["NF4"],
    }
