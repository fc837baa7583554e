"""What the runs of notebook 10 say about learning and forgetting: the cloud, one budget, ranks and rates.

What the stored runs say is in `lora_edu.experiments.nb10_runs`.
"""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_edu.experiments.nb10 import PLACES, rank_way
from lora_edu.experiments.nb10_runs import RANKS, at_best, best_rate, best_rates, forgotten_at, front, of_way, swept
from lora_edu.experiments.sweeps import TIE, Runs
from lora_edu.figures.drawing import Drawn, note, panels, slider, styled, ticks
from lora_edu.figures.looks import BLUE, GRAY, MARKS, METHODS, ORANGE, RED
from lora_edu.figures.sliders import explore

# --- the cloud: the slider of the first screen -----------------------------------------------------------------------

CLOUD_ALT = (
    "One dot for each training run. To the right: what it learned, the loss won on plays. Upward: what it forgot, the "
    "loss added on addresses. Gray dots are all runs; adapters of the chosen rank are orange squares, seed 0 joined in "
    "the order of its rates, QLoRA disks with a green edge; full fine-tuning a dotted line with triangles."
)
MOST_FORGOTTEN = 0.5  # the top of the picture


def cloud(runs: Runs) -> dict:
    """Show the cloud with its slider."""
    return explore(cloud_view(runs), CLOUD_ALT, rank=ipywidgets.SelectionSlider(options=RANKS, description="rank"))


@slider
def cloud_view(runs: Runs):
    """A view with one control, rank (one of RANKS)."""
    figure = plt.figure(figsize=(9.2, 4.3))
    axes = figure.add_axes([0.075, 0.13, 0.9, 0.77])
    every = [run for run in runs if run.forgotten < MOST_FORGOTTEN and run.steps == 100 and "alpha" not in run.way]
    axes.plot([r.learned for r in every], [r.forgotten for r in every], "o", color="#B9B9B9", ms=4)
    _full_line(axes, runs)
    (line,) = axes.plot([], [], "-s", color=ORANGE, ms=7, zorder=4, animated=True)
    (dots,) = axes.plot([], [], "s", color=ORANGE, ms=6, mfc="white", zorder=5, animated=True)
    (rounded,) = axes.plot([], [], **METHODS["qlora"] | MARKS, zorder=5, animated=True)
    name = axes.text(0.67, 0.47, "", color=ORANGE, fontsize=11, animated=True)
    axes.set(xlim=(0.66, 1.13), ylim=(0, MOST_FORGOTTEN), xlabel="learned: nats per byte won on plays")
    axes.set_ylabel("forgotten: nats per byte lost on addresses")
    axes.set_title("Turned down by the rate, every rank lies above full fine-tuning", fontsize=12)

    def values(rank: int) -> dict:
        way = rank_way("lora", rank)
        points, best = front(runs, way), at_best(runs, way)
        learned, forgot = points[-1]
        there = forgotten_at(front(runs, "full"), learned)
        return {
            "line": points,
            "dots": [(r.learned, r.forgotten) for r in of_way(runs, way)],
            "rounded": [(r.learned, r.forgotten) for r in of_way(runs, rank_way("qlora", rank))],
            "name": f"LoRA, rank {rank}, at several rates (green edge: on NF4)",
            "readout": f"rank {rank} at its best rate, {best[0].lr:g}, seed 0: "
            f"learned {learned:.2f}, forgot {forgot:.2f}. "
            f"Full fine-tuning, where it learned as much: forgot {there:.2f}",
        }

    def draw(now: dict) -> None:
        for artist, key in ((line, "line"), (dots, "dots"), (rounded, "rounded")):
            artist.set_data(*np.array(now[key] or np.empty((0, 2))).T if key != "line" else now[key].T)
        name.set_text(now["name"])

    return figure, values, draw, {"rank": RANKS[0]}


def _full_line(axes, runs: Runs) -> None:
    points = front(runs, "full")
    axes.plot(*points.T, **METHODS["full"])
    axes.text(points[-1][0] - 0.005, points[-1][1] + 0.02, "full", fontsize=11, ha="center")


# --- where: one budget -----------------------------------------------------------------------------------------------

# Table 5 of the LoRA paper: accuracy of GPT-3 on WikiSQL and MNLI under one budget, in %.
TABLE_5 = {"q": (70.4, 91.0), "v": (73.0, 91.0), "o": (73.2, 91.3), "q v": (73.7, 91.3), "q k v o": (73.7, 91.7)}
ATTENTION = ("q", "v", "o", "q v", "q k v o")


@styled
def places_figure(runs: Runs) -> Drawn:
    """The loss on plays of each place at its own best rate, a mark a seed; the paper's accuracies beside it."""
    figure, (axes,) = panels(1, 9.2, 4.2)
    places = {way: rank for way, (_, rank) in PLACES.items()} | {"all six": 2}
    means = {way: np.mean([r.plays for r in at_best(runs, way)]) for way in places}
    for row, way in enumerate(places):
        best, mark = at_best(runs, way), "s" if way in ATTENTION else "D"
        axes.plot([r.plays for r in best], [row] * len(best), mark, color=ORANGE, ms=7, alpha=0.75)
        axes.text(max(r.plays for r in best) + 0.012, row, f"{means[way]:.3f}", va="center", color=ORANGE)
        paper = "{:.1f} / {:.1f}".format(*TABLE_5[way]) if way in TABLE_5 else "not tried"
        axes.text(1.02, row, paper, va="center", color=GRAY, transform=axes.get_yaxis_transform())
    labels = [f"{way}, rank {rank}, rate {best_rate(runs, way):g}" for way, rank in places.items()]
    axes.set(yticks=range(len(places)), yticklabels=labels, xlabel="loss on plays after 100 steps, nats per byte")
    axes.text(1.02, -1, "GPT-3, %", color=GRAY, transform=axes.get_yaxis_transform())
    axes.set(xlim=(1.76, 2.46), ylim=(len(places) - 0.5, -1.4))
    axes.set_title("One budget: the MLP's down beats all of attention")
    named = "; ".join(f"{way} {loss:.3f} ({len(at_best(runs, way))})" for way, loss in means.items())
    return figure, (
        f"Loss on plays under one budget, mean over seeds (their number): {named}. A row for a place, a mark "
        "for a seed: squares for attention, diamonds where the MLP takes part; "
        "at the right the paper's accuracies on WikiSQL and MNLI."
    )


# --- ranks and rates -------------------------------------------------------------------------------------------------


@styled
def ranks_figure(runs: Runs) -> Drawn:
    """Left: the loss at each rank's best rate. Right: that rate, under three conventions for the scaling."""
    figure, (losses, rates) = panels(2, 9.6, 3.9)
    means = {}
    for rank in RANKS:
        best = at_best(runs, rank_way("lora", rank))
        means[f"rank {rank}"] = np.mean([r.plays for r in best])
        losses.plot([rank] * len(best), [r.plays for r in best], "s", color=ORANGE, ms=7, alpha=0.75)
    in_full = {"blocks": "the same matrices, in full", "full": "everything, in full"}
    for place, (way, label) in enumerate(in_full.items()):
        best = at_best(runs, way)
        means[label] = np.mean([r.plays for r in best])
        right, top = 200 * 3**place, max(r.plays for r in best) + 0.012
        losses.plot([right] * len(best), [r.plays for r in best], **METHODS[way] | MARKS, alpha=0.75)
        losses.text(right, top, label.replace(", ", ",\n"), ha="center", va="bottom", fontsize=9)
    losses.set(xscale="log", xlabel="rank", ylabel="loss on plays, nats per byte", xlim=(0.8, 1200))
    ticks(losses.xaxis, RANKS)
    losses.set_title("Each rank at its own best rate")
    found = best_rates(runs)
    looks = ((ORANGE, "-s", 1.0), (BLUE, "--o", 1.08), (RED, ":v", 0.93))
    for (name, chosen), (color, style, aside) in zip(found.items(), looks, strict=True):
        ranks = sorted(chosen)
        if ranks == [8]:  # not swept
            continue
        at = [rank * aside for rank in ranks]
        rates.plot(at, [chosen[rank] for rank in ranks], style, color=color, ms=7)
        for rank, x in zip(ranks, at, strict=True):
            ends = swept(runs, rank, name).tied()
            rates.plot([x, x], [ends[0], ends[-1]], color=color, lw=6, alpha=0.3, solid_capstyle="round")
        note(rates, name, (at[-1], chosen[ranks[-1]]), (8, 0), color=color)
    full = of_way(runs, "full").tied()
    for times, label in ((1, "full's best"), (10, "ten times that")):
        rates.axhspan(times * full[0], times * full[-1], color=GRAY, alpha=0.2, lw=0)
        rates.axhline(times * best_rate(runs, "full"), color="black", lw=1.4, ls=":")
        rates.text(850, times * best_rate(runs, "full") * 1.06, label, fontsize=9, ha="right")
    rates.set(
        xscale="log", yscale="log", xlabel="rank", ylabel="best learning rate", xlim=(0.8, 900), ylim=(8e-4, 5e-2)
    )
    ticks(rates.xaxis, RANKS)
    ticks(rates.yaxis, (1e-3, 3e-3, 1e-2, 3e-2))
    rates.set_title("At s = 2 the best rate falls with the rank; bars: ties")
    listed = "; ".join(f"{name} {loss:.3f}" for name, loss in means.items())
    tuned = "; ".join(f"{name}: {chosen[min(chosen)]:g} to {chosen[max(chosen)]:g}" for name, chosen in found.items())
    return figure, (
        f"Loss falls with the rank and ends near full training of the same matrices: {listed}. Right, the best rate by "
        f"rank, bars over rates within {TIE:g} nats, beside full's, {full[0]:g} to {full[-1]:g}, and ten times that; "
        f"from rank 1 to 64 {tuned}."
    )
