"""The pictures of notebook 11: what each variant trains, their ranking at one rate and at their own, and their starts.

`ranking_view` is the slider of the first screen. What the stored runs say is in `lora_edu.experiments.nb11_runs`.
"""

import math
import statistics

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from lora_edu.experiments.nb11 import SHARED_RATES
from lora_edu.experiments.nb11_runs import OWN, RANKED, at_best, best_rate, losses_at, paired, verdict
from lora_edu.experiments.sweeps import Runs, interval
from lora_edu.figures.drawing import Drawn, listed, note, panels, picture, slider, styled
from lora_edu.figures.looks import ADAPTER, BLUE, GRAY, GREEN, ORANGE, PURPLE, RED, SKY, WEIGHT, light
from lora_edu.lora import LoRALinear
from lora_edu.variants import VARIANTS

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


# --- what each variant trains, true to scale -------------------------------------------------------------------------

D, R = 256, 8
PARTS = {  # name: its scaling, and what is special
    "LoRA": ("s = α/r", "A random,\nB zero"),
    "rsLoRA": ("s = α/√r", "another s"),
    "LoRA+": ("s = α/r", "B learns 16 times\nas fast as A"),
    "PiSSA": ("s = α/r", "A and B: taken\nout of W"),
    "DoRA": ("s = α/r", "m: a length for\neach row of W"),
    "VeRA": ("s = 1", "A, B: one frozen pair\nfor all layers"),
}
TRAINED = {"facecolor": ADAPTER[0], "lw": 0}


@styled
def parts_picture(trained: dict[str, int]) -> Drawn:
    """What each variant trains of one 256 x 256 layer, drawn so that areas are numbers. trained: variant -> numbers."""
    edges = {
        name: (-70 if name in ("DoRA", "VeRA") else -15, 2 * D + 70 if name == "VeRA" else D + 75) for name in PARTS
    }
    widths = [right - left for left, right in edges.values()]
    figure, frames = panels(len(PARTS), 11.6, 3.9, width_ratios=widths)
    for axes, (name, (scaling, special)) in zip(frames, PARTS.items(), strict=True):
        rank, how = (D, light(WEIGHT)) if name == "VeRA" else (R, TRAINED)
        _rectangle(axes, 0, 0, D, D, light(WEIGHT))
        _rectangle(axes, 0, -20 - rank, D, rank, how)
        _rectangle(axes, D + 20, 0, rank, D, how)
        within = name == "VeRA"
        texts = [
            ("the rest\nof W" if name == "PiSSA" else "W", D / 2, D / 2),
            ("A", D / 2, -20 - rank / 2 if within else -50),
            ("B", D + 20 + rank / 2 if within else D + 50, D / 2),
        ]
        if name == "DoRA":
            _rectangle(axes, -24, 0, 3, D, TRAINED)
            texts.append(("m", -45, D / 2))
        if within:
            _rectangle(axes, -24, -20 - rank, 3, rank, TRAINED)
            _rectangle(axes, D + 20 + rank + 12, 0, 3, D, TRAINED)
            texts += [("d", -45, -20 - rank / 2), ("b", 2 * D + 52, D / 2)]
        for text, x, y in texts:
            axes.text(x, y, text, ha="center", va="center")
        axes.text(D + 30 if within else 0, -95, special, va="top")
        axes.set(xlim=edges[name], ylim=(-D - 30, D + 10), aspect="equal")
        axes.axis("off")
        axes.set_title(f"{name}\n{scaling}\n{trained[name]:,} trained")
    finding = "What is trained (orange) beside what is frozen (blue): an area is a count of numbers"
    figure.suptitle(f"{finding}\n(m, d and b are drawn three times too thick)", x=0.01, ha="left")
    counts = ", ".join(f"{name} {count:,}" for name, count in trained.items())
    return figure, (
        f"All of them train little beside W. Of one 256 by 256 layer: {counts}. A panel for each variant, true to "
        "scale: W, the flat A below it, the thin B beside it; DoRA adds a line of lengths, VeRA has two frozen "
        "squares and two lines."
    )


def trained_in_a_layer(name: str) -> int:
    """How many numbers a variant trains of one 256 x 256 layer, at rank 8, or for VeRA 256."""
    rank = D if name == "VeRA" else R
    layer = VARIANTS.get(name, LoRALinear)(nn.Linear(D, D), rank, 2 * rank)
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.requires_grad)


def _rectangle(axes: Axes, x: float, y: float, width: float, height: float, look: dict) -> None:
    axes.add_patch(Rectangle((x, y), width, height, **look))


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
    """Each variant minus LoRA at its own best rate: a mark a seed, and the 95% interval of the mean."""
    figure, (axes,) = panels(1, 8.6, 3.7)
    names = sorted((n for n in RANKED if n != "LoRA"), key=lambda n: statistics.mean(paired(runs, n)))
    for place, name in enumerate(names):
        differences = paired(runs, name)
        color, marker = LOOKS[name]
        for comparisons, width in ((1, 6), (len(names), 1.5)):
            mean, half = interval(differences, comparisons)
            bar = {"lw": width, "alpha": 0.35, "solid_capstyle": "butt"}
            axes.plot([mean - half, mean + half], [place, place], color=color, **bar)
        axes.plot(differences, [place] * len(differences), marker, color=color, ms=7)
        axes.text(1.01, place, verdict(differences), va="center", transform=axes.get_yaxis_transform())
    axes.axvline(0, color=GRAY, ls="--", lw=1.4)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("loss minus LoRA's, same batches, each at its own rate (left is better)")
    told = [name for name in names if verdict(paired(runs, name)) in ("better", "worse")]
    said = "; ".join(f"{n} {statistics.mean(paired(runs, n)):+.3f}, {verdict(paired(runs, n))}" for n in names)
    return figure, (
        f"Of {len(names)} differences, three seeds can tell {len(told)}. Means: {said}. A row for each variant: three "
        "marks, a bar for the 95% interval, a line for that of all six together."
    )


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

STARTS = {"none": (GRAY, "o"), "SVD": (SKY, "D"), "LoftQ": (GREEN, "s"), "QERA": (ORANGE, "^"), "QPiSSA": (PURPLE, "P")}


def best_way(ways: dict[str, Tensor], side: int) -> str:
    """The way with the least mean error of weights (side 0) or of outputs (side 1)."""
    return min(ways, key=lambda way: ways[way][:, side].mean().item())


@styled
def starts_figure(errors: dict[int, dict[str, Tensor]]) -> Drawn:
    """Mean error of outputs against that of weights, a panel for each number of bits. errors: bits -> way -> (n, 2)."""
    figure, frames = panels(len(errors), 10.2, 3.5)
    means = {
        bits: {way: (100 * pairs).mean(0).tolist() for way, pairs in ways.items()} for bits, ways in errors.items()
    }
    for axes, (bits, ways) in zip(frames, means.items(), strict=True):
        axes.plot(*zip(ways["LoftQ"], ways["QERA"], strict=True), color=GRAY, lw=1, ls="--", zorder=0)
        for way, place in ways.items():
            color, marker = STARTS[way]
            axes.plot(*place, marker, color=color, ms=9)
            above = -16 if way == "QERA" else 8  # the dashed line comes from above
            note(axes, way, place, (0, above), "center", va="baseline")
        axes.margins(0.18, 0.2)
        axes.set(title=f"{bits} bits", xlabel="error of the weights, %")
    frames[0].set_ylabel("error of the outputs, %")
    turned = [bits for bits, ways in errors.items() if turns(ways["LoftQ"], ways["QERA"])]
    finding = f"From LoftQ to QERA the weights get worse and the outputs better: at {_listed(turned)} bits"
    figure.suptitle(finding, x=0.01, ha="left")
    best = {bits: [best_way(ways, side) for side in (0, 1)] for bits, ways in errors.items()}
    least = "; ".join(f"{bits} bits: weights {w}, outputs {o}" for bits, (w, o) in best.items())
    return figure, (
        f"{finding}. The least mean error: {least}. A panel for each number of bits: error of the outputs against that "
        "of the weights, a mark for each start, a dashed line between LoftQ and QERA."
    )


def turns(one: Tensor, other: Tensor) -> bool:
    """Whether the other way is worse for the weights and better for the outputs, in the mean. Both: (n_layers, 2)."""
    weights, outputs = (other - one).mean(0).tolist()
    return weights > 0 > outputs


def _listed(numbers: list[int]) -> str:
    """4, 3 and 2"""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


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
    return ["* the least", *STARTS], rows


def layers_table(errors: dict[str, dict[str, Tensor]], down: Tensor) -> tuple[list, list]:
    """Header and rows: mean errors of outputs in % over all layers, over those in `down`, over the others.

    errors: name of a table of values -> way -> (n, 2). down: (n,), True for a down_proj.
    """
    which = {f"all {len(down)} layers": down | ~down, f"{down.sum()} down_proj": down, f"{(~down).sum()} others": ~down}
    rows = [
        [f"{name}, {layers}", *(f"{100 * ways[way][chosen, 1].mean():.2f}" for way in STARTS)]
        for name, ways in errors.items()
        for layers, chosen in which.items()
    ]
    return ["2 bits, outputs, %", *STARTS], rows
