"""What the stored results of `qlora-quality` say: the figures of notebook 09, section 8.

`runs` is everywhere what `lora_course.nb09.lab.quality_runs` returns.
"""

from collections.abc import Mapping, Sequence
from statistics import mean

from lora_course.drawing.looks import GRAY, MARKS, METHODS, NAMES
from lora_course.drawing.style import Drawn, listed, panels, picture
from lora_course.nb09.lab import TEXT_SIZES, of
from lora_course.running.sweeps import Runs


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
    rates = {text: listed({NAMES[m]: of(runs, m, text).best_rate() for m in NAMES}, "g") for text in TEXT_SIZES}
    return figure, (
        "Adapters want a larger rate than full fine-tuning. Loss against learning rate, a panel for each amount of "
        "text, each curve with its lowest point ringed; those of LoRA and QLoRA lie on one another. Best rates, "
        f"{'; '.join(f'{text}: {said}' for text, said in rates.items())}."
    )


@picture
def pairs_figure(gaps: Mapping[tuple[str, str], Sequence[float]], draws: Mapping[str, Sequence[float]]) -> Drawn:
    """QLoRA minus LoRA, a mark a run, beside what NF4 alone costs before any training: a band from draw to draw.

    gaps: as of `lora_course.nb09.lab`; draws: {"plays" or "addresses": (n,), the rise of the loss in each draw}.
    """
    figure, (axes,) = panels(1, height=4)
    for place, ((measured, _), some) in enumerate(gaps.items()):
        low, high = min(draws[measured]), max(draws[measured])
        axes.fill_betweenx([place - 0.35, place + 0.35], low, high, color=GRAY, alpha=0.3, lw=0)
        axes.plot(some, [place + 0.15 * (run - 1) for run in range(len(some))], **METHODS["qlora"] | MARKS)
    axes.axvline(0, color=METHODS["lora"]["color"])
    axes.set(yticks=range(len(gaps)), yticklabels=[f"on {measured},\ntrained on {text}" for measured, text in gaps])
    axes.set(xlabel="QLoRA minus LoRA after 100 steps, nats per byte; gray: eight draws of NF4 before training")
    axes.invert_yaxis()
    said = "; ".join(f"{measured}, {text} {mean(some):+.4f}" for (measured, text), some in gaps.items())
    return figure, (
        "On all plays draws of NF4 moved the gap more than seeds did. QLoRA minus LoRA, a mark a run, by seed or by "
        f"draw. Means, measured on and trained on: {said}. Bands: plays {min(draws['plays']):+.4f} to "
        f"{max(draws['plays']):+.4f}, addresses {min(draws['addresses']):+.4f} to {max(draws['addresses']):+.4f}."
    )
