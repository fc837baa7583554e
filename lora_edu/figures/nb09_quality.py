"""What the stored results of `qlora-quality` say: the figures of notebook 09, section 8.

`runs` is everywhere what `lora_edu.experiments.nb09.quality_runs` returns.
"""

from statistics import mean

from lora_edu.experiments.nb09 import TEXT_SIZES, of
from lora_edu.experiments.sweeps import SEEDS, Runs
from lora_edu.figures.drawing import Drawn, listed, panels, picture
from lora_edu.figures.looks import MARKS, METHODS

NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}


@picture
def sweep_figure(runs: Runs) -> Drawn:
    """Loss against the learning rate, one panel for each amount of text; a ring marks each method's best rate.

    Each panel begins a little below its lowest loss and is 0.45 nats high: what lies far above is cut off.
    """
    figure, frames = panels(2)
    for axes, text in zip(frames, TEXT_SIZES, strict=True):
        sweeps = {method: of(runs, method, text).sweep() for method in NAMES}
        for method, name in NAMES.items():
            best = of(runs, method, text).best_rate()
            axes.plot(*zip(*sweeps[method].items(), strict=True), label=name, **METHODS[method])
            axes.plot(best, sweeps[method][best], "o", ms=15, mfc="none", mec=METHODS[method]["color"])
        lowest = min(min(losses.values()) for losses in sweeps.values())
        axes.set(xscale="log", xlabel="learning rate", title=text, ylim=(lowest - 0.03, lowest + 0.42))
    frames[0].set_ylabel("loss after 100 steps, nats per byte")
    frames[0].legend(loc="upper left")
    best = {text: listed({NAMES[m]: of(runs, m, text).best_rate() for m in NAMES}, "g") for text in TEXT_SIZES}
    return figure, (
        "Adapters want a larger rate than full fine-tuning. Loss against learning rate, a panel for each amount of "
        "text, each curve with its lowest point ringed; those of LoRA and QLoRA lie on one another. Best rates, "
        f"{_joined(best)}."
    )


@picture
def seeds_figure(runs: Runs) -> Drawn:
    """One dot for each seed, each method at its own best rate; one panel for each amount of text."""
    figure, frames = panels(2)
    for axes, text in zip(frames, TEXT_SIZES, strict=True):
        for place, method in enumerate(NAMES):
            losses = of(runs, method, text).at_best()
            axes.plot([place + 0.12 * (seed - 1) for seed in SEEDS], losses, **METHODS[method] | MARKS)
            axes.hlines(mean(losses), place - 0.3, place + 0.3, color=METHODS[method]["color"])
        labels = [f"{NAMES[method]}\n{of(runs, method, text).best_rate():g}" for method in NAMES]
        axes.set(xticks=range(3), xticklabels=labels, title=text, xlim=(-0.5, 2.5), xlabel="and its best learning rate")
    frames[0].set_ylabel("loss after 100 steps, nats per byte")
    means = {text: listed({NAMES[m]: mean(of(runs, m, text).at_best()) for m in NAMES}) for text in TEXT_SIZES}
    return figure, (
        "In 100 steps: LoRA and QLoRA end together, above full fine-tuning. A mark for each of three seeds, a line at "
        f"the mean, two panels. Means, {_joined(means)}."
    )


def _joined(parts: dict[str, str]) -> str:
    return "; ".join(f"{text}: {said}" for text, said in parts.items())
