"""What the stored results of `qlora-quality` say: which rate is whose best, and the figures of notebook 09.

`arms` is everywhere the part of that name of the stored results: the name of an arm -> its losses.
"""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lora_edu.plots import BLUE, GREEN, ORANGE
from lora_edu.quality_experiments import SEEDS, TEXT_SIZES, arm_name, rates

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


def sweep_figure(arms: dict) -> Figure:
    """Loss against the learning rate, one panel for each amount of text; a ring marks each method's best rate."""
    figure, panels = _two_panels(sharey=False)
    for axes, text in zip(panels, TEXT_SIZES, strict=True):
        for method, (color, marker, line) in LOOKS.items():
            losses, best = sweep(arms, method, text), best_rate(arms, method, text)
            axes.plot(*zip(*losses.items(), strict=True), line, color=color, marker=marker, label=NAMES[method])
            axes.plot(best, losses[best], "o", ms=15, mfc="none", mec=color)
        axes.set(xscale="log", xlabel="learning rate", title=text)
    panels[0].set_ylabel("loss after training, nats per byte")
    panels[1].legend(frameon=False, fontsize=9)
    return figure


def seeds_figure(arms: dict) -> Figure:
    """One dot for each seed, each method at its own best rate; one panel for each amount of text."""
    figure, panels = _two_panels(sharey=False)
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


def _two_panels(sharey: bool) -> tuple[Figure, list]:
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=sharey)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels
