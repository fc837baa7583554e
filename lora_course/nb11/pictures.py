"""The pictures of notebook 11: the ranking of the variants at one rate and at their own, and one number a row.

`ranking_view` is the slider of the first screen. What the stored runs say is in `lora_course.nb11.lab_runs`.
"""

import math
import statistics

import matplotlib.pyplot as plt

from lora_course.drawing.looks import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED, SKY
from lora_course.drawing.style import Drawn, listed, panels, picture, slider, stage, styled, ticks
from lora_course.nb11 import lab_runs as records
from lora_course.nb11.lab import MORE_SEEDS, MULTIPLES, SHARED_RATES
from lora_course.nb11.lab_runs import OWN, RANKED
from lora_course.running.sweeps import Runs, interval

RATES = (*SHARED_RATES, OWN)
LOOKS = dict(zip(RANKED, zip((ORANGE, GRAY, SKY, GREEN, BLUE, PURPLE, RED), "sxD^vPX", strict=True), strict=True))


# --- the ranking: the slider of the first screen ---------------------------------------------------------------------

RANKING_ALT = (
    "A row for each variant, the best on top, and a dot at its loss on held-out plays after 100 steps; a dashed line "
    "at LoRA's loss. The gray dot is LoRA once more, with another draw of A."
)
LOW, HIGH = 1.72, 1.92  # the axis; what lies beyond stands at its end, with its number


@slider
def ranking_view(runs: Runs):
    """One control, rate (one of RATES): one learning rate for all, or OWN."""
    figure, axes = stage(9.6, 3.9, (0.19, 0.15, 0.72, 0.74))
    axes.set(xlim=(LOW, HIGH), ylim=(len(RANKED) - 0.4, -0.6), yticks=[])
    axes.set_xlabel("loss on held-out plays after 100 steps, nats a byte (smaller is better)")
    axes.spines["left"].set_visible(False)
    line = axes.axvline(LOW, color=GRAY, ls="--", lw=1.4, animated=True)
    rows = {}  # name -> stem, dot, label and number
    for name, (color, marker) in LOOKS.items():
        (stem,) = axes.plot([], [], color=color, lw=3, alpha=0.45, animated=True)
        (dot,) = axes.plot([], [], marker, color=color, ms=9, animated=True, zorder=2.1)
        label = axes.text(LOW - 0.003, 0, "", ha="right", va="center", animated=True)
        rows[name] = stem, dot, label, axes.text(0, 0, "", va="center", animated=True)
    title = axes.text(LOW, -0.95, "", fontsize=11, animated=True)

    def values(rate: float | str) -> dict:
        losses = records.losses_at(runs, rate)
        names = {name: f"{name}, {records.best_rate(runs, name):g}" if rate == OWN else name for name in losses}
        there = [loss for loss in losses.values() if loss < math.inf]
        span = max(there) - min(there)
        what = "each its own rate" if rate == OWN else f"one rate for all, {rate:g}"
        return {
            "losses": losses,
            "labels": names,
            "title": f"{what}: best to worst {span:.3f} nats",
            "readout": f"{what}: {listed(losses)}. From best to worst {span:.3f}.",
        }

    def draw(now: dict) -> None:
        losses = now["losses"]
        lora = min(losses["LoRA"], HIGH)
        line.set_xdata([lora, lora])
        title.set_text(now["title"])
        for name, row in rows.items():
            for artist in row:
                artist.set_visible(name in losses)
        for place, (name, loss) in enumerate(losses.items()):
            stem, dot, label, number = rows[name]
            end = min(loss, HIGH - 0.012)
            stem.set_data([lora, end], [place, place])
            dot.set_data([end], [place])
            label.set(text=now["labels"][name], position=(LOW - 0.003, place))
            text = f"{loss:.3f}" if loss <= HIGH else "diverged →" if loss == math.inf else f"{loss:.2f} →"
            number.set(text=text, position=(max(end, lora) + 0.004, place))

    return figure, values, draw, {"rate": OWN}


# --- rates, seeds ----------------------------------------------------------------------------------------------------


@styled
def sweeps_figure(runs: Runs) -> Drawn:
    """Loss against rate: a panel for each variant, its own curve in color, those of the others behind it in gray."""
    figure, frames = plt.subplots(2, 4, figsize=(10.6, 4.8), sharex=True, sharey=True)
    frames.flat[-1].axis("off")  # there are seven
    for axes, name in zip(frames.flat, RANKED, strict=False):
        for other in RANKED:
            axes.plot(*_points(runs, other), color="#C9C9C9", lw=1)
        color, marker = LOOKS[name]
        axes.plot(*_points(runs, name), color=color, marker=marker, ms=5)
        best = records.best_rate(runs, name)
        axes.plot(best, runs.where(name=name).sweep()[best], "o", ms=13, mfc="none", mec=color)
        axes.set(xscale="log", ylim=(LOW, 2.1))
        axes.set_title(f"{name}: {best:g}")
    figure.supxlabel("learning rate")
    figure.supylabel("loss, nats a byte")
    rates = {name: records.best_rate(runs, name) for name in RANKED}
    finding = f"The best rates (ringed) lie a factor of {max(rates.values()) / min(rates.values()):.0f} apart"
    figure.suptitle(finding, x=0.01, ha="left")
    shown = "A panel for each variant: loss against rate, the other variants in gray."
    return figure, f"{finding}: {listed(rates, 'g')}. {shown}"


def _points(runs: Runs, name: str) -> tuple[list[float], list[float]]:
    losses = runs.where(name=name).sweep()
    return list(losses), [min(loss, 2.3) for loss in losses.values()]


@picture
def pairs_figure(runs: Runs) -> Drawn:
    """Each variant minus LoRA at its own best rate: a mark a seed, and the 95% interval of the mean of three."""
    figure, (axes,) = panels(1, 8.6, 3.7)
    names = sorted((n for n in RANKED if n != "LoRA"), key=lambda n: statistics.mean(records.paired(runs, n)))
    for place, name in enumerate(names):
        differences = records.paired(runs, name)
        _differences(axes, place, name, differences, {1: 6, len(names): 1.5})
        axes.text(1.01, place, records.verdict(differences), va="center", transform=axes.get_yaxis_transform())
    later = records.paired(runs, "DoRA", seeds=MORE_SEEDS)
    _differences(axes, names.index("DoRA") + 0.35, "DoRA", later, {1: 3}, mfc="none")
    axes.axvline(0, color=GRAY, ls="--", lw=1.4)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("loss minus LoRA's, same batches, each at its own rate (left is better)")
    mean, half = interval(later)
    told = [name for name in names if records.verdict(records.paired(runs, name)) in ("better", "worse")]
    means = {n: "{:+.3f} ± {:.3f}".format(*interval(records.paired(runs, n), len(names))) for n in names}
    said = "; ".join(f"{n} {means[n]}, {records.verdict(records.paired(runs, n))}" for n in names)
    return figure, (
        f"Of {len(names)} differences, three seeds can tell {len(told)}. Means ± the interval of all six: {said}. A "
        "row each: three marks, a bar for its 95% interval, a line for that of six. Hollow: DoRA, seeds 3 to 5, "
        f"{mean:+.4f} ± {half:.4f}."
    )


def _differences(axes, place: float, name: str, differences: list[float], widths: dict[int, float], **looks) -> None:
    """A mark for each difference, and bars. widths: of how many intervals together -> how wide this bar is drawn."""
    color, marker = LOOKS[name]
    for comparisons, width in widths.items():
        mean, half = interval(differences, comparisons)
        bar = {"lw": width, "alpha": 0.35, "solid_capstyle": "butt"}
        axes.plot([mean - half, mean + half], [place, place], color=color, **bar)
    axes.plot(differences, [place] * len(differences), marker, color=color, ms=7, **looks)


# --- one number a row ------------------------------------------------------------------------------------------------

ROWS = {"gains": (RED, "*"), "DoRA": LOOKS["DoRA"]}


@picture
def rows_figure() -> Drawn:
    """LoRA with one more number a row, minus LoRA: over the number's own rate, and at the best one, a mark a seed."""
    figure, (sweep, best) = panels(2, 9.6, 3.2)
    for place, (name, (color, marker)) in enumerate(ROWS.items()):
        losses = [records.row_gaps(name, multiple=multiple)[0] for multiple in MULTIPLES]
        gaps = records.row_gaps(name)
        sweep.plot(MULTIPLES, losses, color=color, marker=marker, ms=7, label=name)
        best.plot(gaps, [place] * len(gaps), marker, color=color, ms=8)
        best.plot([statistics.mean(gaps)] * 2, [place - 0.3, place + 0.3], color=color, lw=2)
    sweep.axhline(0, color=GRAY, ls="--", lw=1.4)
    sweep.set(xscale="log", xlabel="its rate, times A's", ylabel="loss minus LoRA's, seed 0")
    ticks(sweep.xaxis, MULTIPLES)
    sweep.legend()
    for pair in zip(*map(records.row_gaps, ROWS), strict=True):
        best.plot(pair, range(len(ROWS)), color=GRAY, lw=0.8, zorder=1)
    best.axvline(0, color=GRAY, ls="--", lw=1.4)
    best.locator_params(axis="x", nbins=5)
    best.set(yticks=range(len(ROWS)), yticklabels=ROWS, ylim=(len(ROWS) - 0.5, -0.5))
    best.set_xlabel("at its best rate: loss minus LoRA's, a mark a seed")
    means = {name: statistics.mean(records.row_gaps(name)) for name in ROWS}
    return figure, (
        f"Each at its best rate, gains win as much as DoRA. Means, minus LoRA: {listed(means, '+.4f')}. Left: "
        "one seed, the gains or lengths at several rates. Right: five seeds at the best, joined by lines, a bar "
        "at their mean. The dashed line is LoRA."
    )
