"""What the stored results of `qlora-quality` say: which rate is whose best, and the figures of notebook 09, section 8.

`arms` is everywhere the part of that name of the stored results: the name of an arm -> its losses.
"""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lora_edu.experiments.nb09 import (
    BLOCK_RATES,
    RANK_RATES,
    RANK_SEEDS,
    SEEDS,
    TEXT_SIZES,
    arm_name,
    rank_name,
    rates,
)
from lora_edu.figures.plots import BLUE, GREEN, ORANGE

Drawn = tuple[Figure, str]  # a figure and its words
NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
LOOKS = {"full": (GREEN, "^", ":"), "lora": (ORANGE, "s", "--"), "qlora": (BLUE, "o", "-")}  # color, marker, line


def sweep(arms: dict, method: str, text: str, tried: tuple[float, ...] = ()) -> dict[float, float]:
    """Rate -> loss after training with seed 0. Rates at which training diverged are left out."""
    results = {lr: arms[arm_name(method, text, lr, 0)] for lr in tried or rates(method, text)}
    return {lr: result["after"] for lr, result in results.items() if "after" in result}


def best_rate(arms: dict, method: str, text: str) -> float:
    """The rate with the lowest loss in the sweep."""
    losses = sweep(arms, method, text)
    return min(losses, key=losses.get)


def at_best(arms: dict, method: str, text: str, which: str = "after") -> list[float]:
    """The losses of a method at its own best rate, one for each seed. which: before, after, addresses or training."""
    rate = best_rate(arms, method, text)
    return [arms[arm_name(method, text, rate, seed)][which] for seed in SEEDS]


def by_rank(arms: dict) -> dict[str, list[float]]:
    """Loss on plays in 100 steps on all plays, one for each seed: LoRA at each rank, the block matrices, everything.

    Each at the best of the rates that were tried for it with seed 0.
    """
    losses = {"LoRA, rank 8": at_best(arms, "lora", "all plays")}
    for rank, tried in RANK_RATES.items():
        losses[f"LoRA, rank {rank}"] = _at_best_of(arms, rank_name(rank), tried, RANK_SEEDS[rank])
    losses["the same matrices, in full"] = _at_best_of(arms, "blocks", BLOCK_RATES, SEEDS)
    losses["everything"] = at_best(arms, "full", "all plays")
    return losses


def _at_best_of(arms: dict, name: str, tried: tuple[float, ...], seeds: tuple[int, ...]) -> list[float]:
    losses = sweep(arms, name, "all plays", tried)
    rate = min(losses, key=losses.get)
    return [arms[arm_name(name, "all plays", rate, seed)]["after"] for seed in seeds]


def recovery(arms: dict, text: str = "all plays") -> dict[str, tuple[float, list[float]]]:
    """What a changed base costs: label -> (rise of the loss on plays before training, rises after it, one a seed).

    A rise is measured against LoRA on the unchanged base, with the same rate and the same seed.
    """
    rate, rises = best_rate(arms, "qlora", text), {}
    for label, name in {"NF4": "qlora", "noise": "noise", "4 x noise": "noise x4", "NF2": "nf2"}.items():
        seeds = [seed for seed in SEEDS if arm_name(name, text, rate, seed) in arms]
        changed, whole = ([arms[arm_name(who, text, rate, seed)] for seed in seeds] for who in (name, "lora"))
        before, after = (
            [c[which] - w[which] for c, w in zip(changed, whole, strict=True)] for which in ("before", "after")
        )
        rises[label] = sum(before) / len(before), after
    return rises


def sweep_figure(arms: dict) -> Drawn:
    """Loss against the learning rate, one panel for each amount of text; a ring marks each method's best rate.

    Each panel begins a little below its lowest loss and is 0.45 nats high: what lies far above is cut off.
    """
    figure, panels = _two_panels()
    for axes, text in zip(panels, TEXT_SIZES, strict=True):
        for method, (color, marker, line) in LOOKS.items():
            losses, best = sweep(arms, method, text), best_rate(arms, method, text)
            axes.plot(*zip(*losses.items(), strict=True), line, color=color, marker=marker, label=NAMES[method])
            axes.plot(best, losses[best], "o", ms=15, mfc="none", mec=color)
        lowest = min(min(sweep(arms, method, text).values()) for method in LOOKS)
        axes.set(xscale="log", xlabel="learning rate", title=text, ylim=(lowest - 0.03, lowest + 0.42))
    panels[0].set_ylabel("loss after 100 steps, nats per byte")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    finding = "Adapters want a larger rate than full fine-tuning"
    figure.suptitle(finding, x=0.01, ha="left", fontsize=12)
    best = "; ".join(
        f"{text}: {', '.join(f'{NAMES[method]} {best_rate(arms, method, text):g}' for method in LOOKS)}"
        for text in TEXT_SIZES
    )
    return figure, (
        f"{finding}. Loss against learning rate, a panel for each amount of text, each curve with its lowest point "
        f"ringed; those of LoRA and QLoRA lie on one another. Best rates, {best}."
    )


def seeds_figure(arms: dict) -> Drawn:
    """One dot for each seed, each method at its own best rate; one panel for each amount of text."""
    figure, panels = _two_panels()
    for axes, text in zip(panels, TEXT_SIZES, strict=True):
        for place, (method, (color, marker, _)) in enumerate(LOOKS.items()):
            losses = at_best(arms, method, text)
            across = [place + 0.12 * (seed - 1) for seed in SEEDS]
            axes.plot(across, losses, marker, color=color)
            axes.hlines(sum(losses) / len(losses), place - 0.3, place + 0.3, color=color)
        labels = [f"{NAMES[method]}\n{best_rate(arms, method, text):g}" for method in LOOKS]
        axes.set(xticks=range(3), xticklabels=labels, title=text, xlim=(-0.5, 2.5), xlabel="and its best learning rate")
    panels[0].set_ylabel("loss after 100 steps, nats per byte")
    finding = "In 100 steps: LoRA and QLoRA end together, above full fine-tuning"
    figure.suptitle(finding, x=0.01, ha="left", fontsize=12)
    means = "; ".join(
        f"{text}: {', '.join(f'{NAMES[m]} {sum(at_best(arms, m, text)) / len(SEEDS):.3f}' for m in LOOKS)}"
        for text in TEXT_SIZES
    )
    return figure, f"{finding}. A mark for each of three seeds, a line at the mean, two panels. Means, {means}."


def _two_panels() -> tuple[Figure, list]:
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
