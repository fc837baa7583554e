"""The pictures of notebook 11: the ranking of the variants at one rate and at their own, and starts on a rounded base.

`ranking_view` is the slider of the first screen. What the stored runs say is in `lora_edu.experiments.nb11_runs`.
"""

import math
import statistics

import matplotlib.pyplot as plt
from torch import Tensor

from lora_edu.experiments.nb11 import MORE_SEEDS, SHARED_RATES
from lora_edu.experiments.nb11_runs import (
    OWN,
    RANKED,
    SIX,
    at_best,
    at_equal_time,
    best_rate,
    losses_at,
    mean_and_error,
    paired,
    verdict,
)
from lora_edu.experiments.nb11_starts import AT_FOUR_BITS, FROZEN, SIZES
from lora_edu.experiments.sweeps import Runs, interval
from lora_edu.experiments.sweeps import paired as paired_runs
from lora_edu.figures.drawing import Drawn, listed, note, panels, picture, slider, styled
from lora_edu.figures.looks import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED, SKY

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
    figure = plt.figure(figsize=(9.6, 3.9))
    axes = figure.add_axes([0.19, 0.15, 0.72, 0.74])
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
        losses = losses_at(runs, rate)
        names = {name: f"{name}, {best_rate(runs, name):g}" if rate == OWN else name for name in losses}
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
        best = best_rate(runs, name)
        axes.plot(best, runs.where(name=name).sweep()[best], "o", ms=13, mfc="none", mec=color)
        axes.set(xscale="log", ylim=(LOW, 2.1))
        axes.set_title(f"{name}: {best:g}")
    figure.supxlabel("learning rate")
    figure.supylabel("loss, nats a byte")
    rates = {name: best_rate(runs, name) for name in RANKED}
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
    names = sorted((n for n in RANKED if n != "LoRA"), key=lambda n: statistics.mean(paired(runs, n)))
    for place, name in enumerate(names):
        differences = paired(runs, name)
        _differences(axes, place, name, differences, {1: 6, len(names): 1.5})
        axes.text(1.01, place, verdict(differences), va="center", transform=axes.get_yaxis_transform())
    later = paired(runs, "DoRA", seeds=MORE_SEEDS)
    _differences(axes, names.index("DoRA") + 0.35, "DoRA", later, {1: 3}, mfc="none")
    axes.axvline(0, color=GRAY, ls="--", lw=1.4)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("loss minus LoRA's, same batches, each at its own rate (left is better)")
    mean, half = interval(later)
    told = [name for name in names if verdict(paired(runs, name)) in ("better", "worse")]
    said = "; ".join(f"{n} {statistics.mean(paired(runs, n)):+.3f}, {verdict(paired(runs, n))}" for n in names)
    return figure, (
        f"Of {len(names)} differences, three seeds can tell {len(told)}. Means: {said}. A row for each variant: three "
        "marks, a bar for the 95% interval, a line for that of all six together. Hollow: DoRA with seeds 3 to 5, run "
        f"later, {mean:+.4f} ± {half:.4f}."
    )


def _differences(axes, place: float, name: str, differences: list[float], widths: dict[int, float], **looks) -> None:
    """A mark for each difference, and bars. widths: of how many intervals together -> how wide this bar is drawn."""
    color, marker = LOOKS[name]
    for comparisons, width in widths.items():
        mean, half = interval(differences, comparisons)
        bar = {"lw": width, "alpha": 0.35, "solid_capstyle": "butt"}
        axes.plot([mean - half, mean + half], [place, place], color=color, **bar)
    axes.plot(differences, [place] * len(differences), marker, color=color, ms=7, **looks)


def dora_table(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Header and rows: DoRA minus LoRA after as many steps, and after as much time, each with six seeds."""
    rows = []
    for text, which in (("plays", "loss"), ("addresses", "addresses")):
        for equal, found in (
            ("equal steps", paired(runs, "DoRA", which, seeds=SIX)),
            ("equal time", at_equal_time(runs, which)),
        ):
            mean, error = mean_and_error(found)
            lower = f"{sum(gap < 0 for gap in found)} of {len(found)} seeds"
            rows.append([f"{text}, {equal}", f"{mean:+.4f}", f"{error:.4f}", lower])
    return ["DoRA minus LoRA", "mean", "standard error", "DoRA is lower with"], rows


def rivals_table(runs: Runs, times: dict) -> tuple[list[str], list[list]]:
    """Header and rows: what each variant trains, where it ends, what it forgets, how far it moves W, and its time.

    Losses are means of the seeds. The time of a step over LoRA's in the same round: the median and the two quartiles.
    """
    (measured,) = times.values()
    lora = measured["seconds"]["LoRA"]
    rows = []
    for name in sorted(RANKED, key=lambda name: statistics.mean(at_best(runs, name))):
        (run,) = runs.where(name=name, lr=best_rate(runs, name), seed=0)
        ratios = [mine / its for mine, its in zip(measured["seconds"][name], lora, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        loss, forgotten = (statistics.mean(at_best(runs, name, which)) for which in ("loss", "addresses"))
        time = "1" if name == "LoRA" else f"{middle:.2f} ({low:.2f} to {high:.2f})"
        rate, numbers = f"{best_rate(runs, name):g}", [f"{loss:.3f}", f"{forgotten:.3f}", f"{run.update:.2f}"]
        rows.append([name, rate, run.trainable, *numbers, time])
    header = ["variant", "its rate", "numbers trained", "plays", "addresses", "‖ΔW‖/‖W‖, seed 0", "time / LoRA's"]
    return header, rows


# --- starts ----------------------------------------------------------------------------------------------------------

STARTS = {  # color, mark, where the label stands in points from it
    "none": (GRAY, "o", (8, -9)),
    SIZES: (BLUE, "D", (-8, 13)),
    "LoftQ": (GREEN, "s", (9, 0)),
    "QPiSSA": (PURPLE, "P", (9, 0)),
    "QERA": (ORANGE, "^", (9, -5)),
    FROZEN: (SKY, "v", (9, 6)),
    "QPiSSA, QERA": (RED, "X", (-9, 0)),
}


def lead(runs: Runs, start: str, which: str = "loss", bits: int = 2, other: str = "none") -> list[float]:
    """A start minus another, each at its own best rate: one difference a seed."""
    return paired_runs(*(runs.where(start=each, bits=bits) for each in (start, other)), which)


@picture
def starts_figure(runs: Runs) -> Drawn:
    """What each start is ahead of none at 2 bits, after training against before."""
    figure, (axes,) = panels(1, 8.6, 3.8)
    for name, (color, marker, by) in STARTS.items():
        before, (after, half) = statistics.mean(lead(runs, name, "before")), interval(lead(runs, name))
        axes.plot([before] * 2, [after - half, after + half], color=color, lw=4, alpha=0.3)
        axes.plot(before, after, marker, color=color, ms=9)
        note(axes, name, (before, after), by, "right" if by[0] < 0 else "left")
    axes.plot([-0.4, 0.03], [-0.4, 0.03], color=GRAY, ls=":", lw=1.4, zorder=0)
    axes.axhline(0, color=GRAY, lw=0.8, ls="--", zorder=0)
    note(axes, "all of a lead left", (-0.1, -0.1), (-10, 0), "right", color=GRAY)
    note(axes, "nothing left", (-0.25, 0), (0, 7), color=GRAY)
    axes.set(xlim=(-0.43, 0.03), ylim=(-0.115, 0.065), xlabel="loss minus that of none, before training")
    axes.set_ylabel("after training")
    ahead = {name: [statistics.mean(lead(runs, name, which)) for which in ("before", "loss")] for name in STARTS}
    first, last = (min(ahead, key=lambda name: ahead[name][when]) for when in (0, 1))
    told = "; ".join(f"{name} {before:+.3f}, {after:+.3f}" for name, (before, after) in ahead.items() if before)
    return figure, (
        f"Before training {first} is ahead, after it {last}. Minus none, before and after: {told}. A mark for each "
        "start with its own 95% interval of three seeds; a dotted line where all of a lead would be left, a dashed one "
        "for none of it."
    )


def trained_table(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each start's own rate, its losses, what it is ahead of none before and after training, and what
    three seeds can tell, by the rule of the variants: at 2 bits six are compared with none, as six are with LoRA.

    At 2 bits, and then of the starts that were trained at 4, at their rates of 2 bits.
    """
    rows = []
    for bits, name in [(2, name) for name in STARTS] + [(4, name) for name in AT_FOUR_BITS]:
        own, (after, half) = runs.where(start=name, bits=bits), interval(lead(runs, name, bits=bits))
        losses = [f"{statistics.mean(own.at_best(which)):.3f}" for which in ("before", "loss")]
        before = f"{statistics.mean(lead(runs, name, 'before', bits)):+.3f}"
        ahead = [before, f"{after:+.3f} ± {half:.3f}", "" if name == "none" else verdict(lead(runs, name, bits=bits))]
        rows.append([f"{bits} bits: {name}", f"{own.best_rate():g}", *losses, *ahead])
    return ["start", "its rate", "before", "after", "minus none, before", "minus none, after", "three seeds say"], rows


def apart_table(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """Header and rows: QERA taken apart at 2 bits, in pairs after training; then each model with one temperature."""
    rows = []
    for one, other in (("QERA", "none"), (SIZES, "none"), ("QERA", SIZES), (FROZEN, SIZES), ("QERA", FROZEN)):
        found, calm = (lead(runs, one, which, other=other) for which in ("loss", "calibrated"))
        numbers = ["{:+.3f} ± {:.3f}".format(*interval(each)) for each in (found, calm)]
        rows.append([f"{one} minus {other}", numbers[0], verdict(found), numbers[1], verdict(calm)])
    return ["2 bits, after training", "difference", "three seeds say", "with one temperature", "they say"], rows


def starts_table(errors: dict[int, dict[str, Tensor]], added: dict[int, dict[str, Tensor]]) -> tuple[list, list]:
    """Header and rows: mean errors of weights and outputs in %, and the loss added; the least of each row marked."""
    rows = []
    for bits, ways in errors.items():
        means = {way: (100 * pairs).mean(0).tolist() for way, pairs in ways.items()}
        for what, of, digits in (
            ("weights, %", {way: pair[0] for way, pair in means.items()}, 2),
            ("outputs, %", {way: pair[1] for way, pair in means.items()}, 2),
            ("loss added", {way: losses.mean().item() for way, losses in added[bits].items()}, 3),
        ):
            marked = [f"{value:.{digits}f}{'*' * (value == min(of.values()))}" for value in of.values()]
            rows.append([f"{bits} bits: {what}", *marked])
    return ["* the least", *next(iter(errors.values()))], rows
