"""What the stored results of `qlora-quality` say: which rate is whose best, and the figures of notebook 09.

`arms` is everywhere the part of that name of the stored results: the name of an arm -> its losses.
"""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lora_edu.experiments.nb09 import SEEDS, TEXT_SIZES, arm_name, rates
from lora_edu.figures.plots import BLUE, GRAY, GREEN, ORANGE, plain_axes

NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
LOOKS = {"full": (GREEN, "^", ":"), "lora": (ORANGE, "s", "--"), "qlora": (BLUE, "o", "-")}  # color, marker, line


def sweep(arms: dict, method: str, text: str) -> dict[float, float]:
    """Rate -> loss after training with seed 0. Rates at which training diverged are left out."""
    results = {lr: arms[arm_name(method, text, lr, 0)] for lr in rates(method, text)}
    return {lr: result["after"] for lr, result in results.items() if "after" in result}


def best_rate(arms: dict, method: str, text: str) -> float:
    """The rate with the lowest loss in the sweep."""
    losses = sweep(arms, method, text)
    return min(losses, key=losses.get)


def at_best(arms: dict, method: str, text: str, which: str = "after") -> list[float]:
    """The losses of a method at its own best rate, one for each seed. which: before, after, addresses or training."""
    rate = best_rate(arms, method, text)
    return [arms[arm_name(method, text, rate, seed)][which] for seed in SEEDS]


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


def sweep_figure(arms: dict) -> Figure:
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
    panels[0].set_ylabel("loss after training, nats per byte")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def seeds_figure(arms: dict) -> Figure:
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
    panels[0].set_ylabel("loss after training, nats per byte")
    return figure


def recovery_figure(rises: dict[str, tuple[float, list[float]]]) -> Figure:
    """What `recovery` returns, one row for each change: a ring before training, a diamond for each seed after it."""
    figure, axes = plain_axes(height=1.2 + 0.5 * len(rises))
    for row, (before, after) in enumerate(rises.values()):
        axes.plot(before, row, "o", ms=10, mfc="none", color=ORANGE, label="before training" if row == 0 else None)
        axes.plot(after, [row] * len(after), "D", color=BLUE, label="after training" if row == 0 else None)
    axes.axvline(0, color=GRAY, lw=1)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(yticks=range(len(rises)), yticklabels=rises, xlabel="rise of the loss, nats per byte")
    axes.set_xlim(right=2 * max(before for before, _ in rises.values()))
    axes.margins(y=0.12)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=9)
    return figure


def _two_panels() -> tuple[Figure, list]:
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
