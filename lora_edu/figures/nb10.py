"""What the runs of notebook 10 say about learning and forgetting: the cloud, one budget, ranks and rates.

`learned` is what a run wins on held-out plays, `forgotten` what it loses on held-out addresses, both against the base
as shipped and in nats per byte.
"""

from collections.abc import Iterable
from typing import NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lora_edu.experiments import load_results
from lora_edu.experiments.nb10 import PLACES, SCALINGS, rank_way
from lora_edu.figures.plots import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED
from lora_edu.figures.sliders import View, explore

Drawn = tuple[Figure, str]  # a figure and its words


class Run(NamedTuple):
    """One training run: way ("full", "blocks", "lora r8", "q v", ...), rate, seed, steps, and both losses after it."""

    way: str
    lr: float
    seed: int
    steps: int
    plays: float
    addresses: float

    @property
    def learned(self) -> float:
        return base_losses()[0] - self.plays

    @property
    def forgotten(self) -> float:
        return self.addresses - base_losses()[1]


# --- the stored runs -------------------------------------------------------------------------------------------------

OF_09 = {"full": "full", "blocks": "blocks", "lora": "lora r8", "qlora": "qlora r8", "lora rank 64": "lora r64"}


def base_losses() -> tuple[float, float]:
    """The losses of the shipped base on plays and addresses, on the windows that every run is measured on."""
    return 2.75648, 0.92318  # a test holds them against the stored arm "lora, not trained"


def all_runs() -> list[Run]:
    """Every stored run on all plays: this notebook's, and those of notebook 09, which follow the same protocol."""
    found = []
    for name, arm in load_results("qlora-quality")["arms"].items():
        parts = name.split(", ")
        if parts[0] in OF_09 and len(parts) == 4 and parts[1] == "all plays":
            found.append(_run(OF_09[parts[0]], parts[2], parts[3], "100 steps", arm["after"], arm["addresses"]))
    for experiment in ("lora-price", "lora-where"):
        for name, arm in load_results(experiment)["arms"].items():
            if "plays" in arm and not name.startswith("dial of "):
                way, rest = name.split(", lr ")
                lr, seed, *steps = rest.split(", ")
                found.append(_run(way, f"lr {lr}", seed, (steps or ["100 steps"])[0], arm["plays"], arm["addresses"]))
    same = [run._replace(way="all six") for run in found if run.way == "lora r2"]  # under another name
    return found + same


def _run(way: str, lr: str, seed: str, steps: str, plays: float, addresses: float) -> Run:
    lr, seed, steps = (text.split()[k] for text, k in ((lr, 1), (seed, 1), (steps, 0)))
    return Run(way, float(lr), int(seed), int(steps), plays, addresses)


def of_way(runs: Iterable[Run], way: str, steps: int = 100) -> list[Run]:
    return [run for run in runs if run.way == way and run.steps == steps]


def sweep(runs: Iterable[Run], way: str) -> dict[float, float]:
    """Rate -> loss on plays, with seed 0."""
    return {run.lr: run.plays for run in of_way(runs, way) if run.seed == 0}


def lowest(losses: dict[float, float], within: float) -> list[float]:
    """The rates whose loss lies within so much of the lowest one."""
    return sorted(lr for lr, loss in losses.items() if loss <= min(losses.values()) + within)


def best_rate(runs: Iterable[Run], way: str) -> float:
    """The rate with the lowest loss on plays with seed 0; of rates that tie, one that was run with the most seeds."""
    runs, first = of_way(runs, way), sweep(runs, way)
    seeds = {lr: len({run.seed for run in runs if run.lr == lr}) for lr in first}
    return min(tied(runs, way), key=lambda lr: (-seeds[lr], first[lr]))


TIE = 0.01  # nats: a difference between two rates moves by less from seed to seed (a test holds it)


def tied(runs: Iterable[Run], way: str) -> list[float]:
    """The rates that may be the best: with seed 0 their loss on plays lies within `TIE` of the lowest."""
    return lowest(sweep(runs, way), TIE)


def at_best(runs: Iterable[Run], way: str) -> list[Run]:
    """The runs of a way at its own best rate, one for each seed."""
    runs = of_way(runs, way)
    return sorted((run for run in runs if run.lr == best_rate(runs, way)), key=lambda run: run.seed)


def front(runs: Iterable[Run], way: str, seed: int = 0) -> np.ndarray:
    """(n, 2): learned and forgotten of one seed at each rate up to the best one, in the order of the rates."""
    runs = list(of_way(runs, way))
    chosen = [run for run in runs if run.seed == seed and run.lr <= best_rate(runs, way)]
    return np.array([(run.learned, run.forgotten) for run in sorted(chosen, key=lambda run: run.lr)])


def forgotten_at(points: np.ndarray, learned: float) -> float:
    """What a way forgets at so much learning, between two of its runs (n, 2); not a number outside them."""
    x, y = points[points[:, 0].argsort()].T
    return float(np.interp(learned, x, y)) if x[0] <= learned <= x[-1] else float("nan")


def two_best(runs: Iterable[Run], ways: Iterable[str]) -> dict[str, float]:
    """How far apart the losses of each way's two best rates are, with seed 0."""
    losses = {way: sorted(sweep(runs, way).values()) for way in ways}
    return {way: some[1] - some[0] for way, some in losses.items()}


# --- the cloud: the slider of the first screen -----------------------------------------------------------------------

CLOUD_ALT = (
    "One dot for each training run. To the right: what it learned, the loss won on plays. Upward: what it forgot, the "
    "loss added on addresses. Gray dots are all runs; adapters of the chosen rank are orange squares, seed 0 joined in "
    "the order of its rates, QLoRA blue diamonds; full fine-tuning is a green dashed line with triangles."
)
RANKS = (1, 2, 4, 8, 64)
MOST_FORGOTTEN = 0.5  # the top of the picture


def cloud(runs: list[Run]) -> dict:
    """Show the cloud with its slider."""
    return explore(cloud_view(runs), CLOUD_ALT, rank=ipywidgets.SelectionSlider(options=RANKS, description="rank"))


def cloud_view(runs: list[Run]) -> View:
    """A view with one control, rank (one of RANKS)."""
    figure = plt.figure(figsize=(9.2, 4.3), dpi=96)
    axes = figure.add_axes([0.075, 0.13, 0.9, 0.77])
    every = [run for run in runs if run.forgotten < MOST_FORGOTTEN and run.steps == 100 and "alpha" not in run.way]
    axes.plot([r.learned for r in every], [r.forgotten for r in every], "o", color="#B9B9B9", ms=4)
    _full_line(axes, runs)
    (line,) = axes.plot([], [], "-s", color=ORANGE, lw=2, ms=7, zorder=4)
    (dots,) = axes.plot([], [], "s", color=ORANGE, ms=6, mfc="white", zorder=5)
    (rounded,) = axes.plot([], [], "D", color=BLUE, ms=6, zorder=5)
    name = axes.text(0.67, 0.47, "", color=ORANGE, fontsize=11)
    axes.set(xlim=(0.66, 1.13), ylim=(0, MOST_FORGOTTEN), xlabel="learned: nats per byte won on plays")
    axes.set_ylabel("forgotten: nats per byte lost on addresses")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Turned down by the rate, every rank lies above full fine-tuning", fontsize=12, loc="left")

    def values(rank: int) -> dict:
        way = rank_way("lora", rank)
        points, best = front(runs, way), at_best(runs, way)
        learned, forgot = points[-1]
        there = forgotten_at(front(runs, "full"), learned)
        return {
            "line": points,
            "dots": [(r.learned, r.forgotten) for r in of_way(runs, way)],
            "rounded": [(r.learned, r.forgotten) for r in of_way(runs, rank_way("qlora", rank))],
            "name": f"LoRA, rank {rank}, at several rates (blue: on NF4)",
            "readout": f"rank {rank} at its best rate, {best[0].lr:g}, seed 0: "
            f"learned {learned:.2f}, forgot {forgot:.2f}. "
            f"Full fine-tuning, where it learned as much: forgot {there:.2f}",
        }

    def draw(now: dict) -> None:
        for artist, key in ((line, "line"), (dots, "dots"), (rounded, "rounded")):
            artist.set_data(*np.array(now[key] or np.empty((0, 2))).T if key != "line" else now[key].T)
        name.set_text(now["name"])

    draw(values(RANKS[0]))
    return View(figure, [line, dots, rounded, name], values=values, draw=draw)


def _full_line(axes, runs: list[Run]) -> None:
    points = front(runs, "full")
    axes.plot(*points.T, "--^", color=GREEN, lw=2, ms=6)
    axes.text(points[-1][0] - 0.005, points[-1][1] + 0.02, "full", color=GREEN, fontsize=11, ha="center")


# --- where: one budget -----------------------------------------------------------------------------------------------

# Table 5 of the LoRA paper: accuracy of GPT-3 on WikiSQL and MNLI under one budget, in %.
TABLE_5 = {"q": (70.4, 91.0), "v": (73.0, 91.0), "o": (73.2, 91.3), "q v": (73.7, 91.3), "q k v o": (73.7, 91.7)}
ATTENTION = ("q", "v", "o", "q v", "q k v o")


def places_figure(runs: list[Run]) -> Drawn:
    """The loss on plays of each place at its own best rate, a mark a seed; the paper's accuracies beside it."""
    figure, axes = plt.subplots(figsize=(9.2, 4.2), layout="constrained")
    places = {way: rank for way, (_, rank) in PLACES.items()} | {"all six": 2}
    means = {way: np.mean([r.plays for r in at_best(runs, way)]) for way in places}
    for row, way in enumerate(places):
        best, (color, mark) = at_best(runs, way), (ORANGE, "s") if way in ATTENTION else (PURPLE, "D")
        axes.plot([r.plays for r in best], [row] * len(best), mark, color=color, ms=7, alpha=0.75)
        axes.text(max(r.plays for r in best) + 0.012, row, f"{means[way]:.3f}", va="center", fontsize=10, color=color)
        paper = "{:.1f} / {:.1f}".format(*TABLE_5[way]) if way in TABLE_5 else "not tried"
        axes.text(1.02, row, paper, va="center", fontsize=10, color=GRAY, transform=axes.get_yaxis_transform())
    labels = [f"{way}, rank {rank}, rate {best_rate(runs, way):g}" for way, rank in places.items()]
    axes.set(yticks=range(len(places)), yticklabels=labels, xlabel="loss on plays after 100 steps, nats per byte")
    axes.text(1.02, -1, "GPT-3, %", fontsize=10, color=GRAY, transform=axes.get_yaxis_transform())
    axes.set(xlim=(1.76, 2.46), ylim=(len(places) - 0.5, -1.4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("One budget: the MLP's down beats all of attention", fontsize=12, loc="left")
    named = "; ".join(f"{way} {loss:.3f} ({len(at_best(runs, way))})" for way, loss in means.items())
    return figure, (
        f"Loss on plays under one budget, mean over seeds (their number): {named}. A row for a place, a mark "
        "for a seed: squares for attention, diamonds where the MLP takes part; "
        "at the right the paper's accuracies on WikiSQL and MNLI."
    )


# --- ranks and rates -------------------------------------------------------------------------------------------------


def ranks_figure(runs: list[Run]) -> Drawn:
    """Left: the loss at each rank's best rate. Right: that rate, under three conventions for the scaling."""
    figure, (losses, rates) = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    means = {}
    for rank in RANKS:
        best = at_best(runs, rank_way("lora", rank))
        means[f"rank {rank}"] = np.mean([r.plays for r in best])
        losses.plot([rank] * len(best), [r.plays for r in best], "s", color=ORANGE, ms=7, alpha=0.75)
    for place, (way, label, color, marker) in enumerate(
        (("blocks", "the same matrices, in full", PURPLE, "D"), ("full", "everything, in full", GREEN, "^"))
    ):
        best = at_best(runs, way)
        means[label] = np.mean([r.plays for r in best])
        losses.plot([200 * 3**place] * len(best), [r.plays for r in best], marker, color=color, ms=7, alpha=0.75)
        losses.text(200 * 3**place, max(r.plays for r in best) + 0.012, label.replace(", ", ",\n"), color=color,
                    ha="center", va="bottom", fontsize=9)  # fmt: skip
    losses.set(xscale="log", xlabel="rank", ylabel="loss on plays, nats per byte", xlim=(0.8, 1200))
    losses.set_xticks(RANKS, [str(rank) for rank in RANKS])
    losses.set_title("Each rank at its own best rate", fontsize=11, loc="left")
    found = best_rates(runs)
    looks = ((ORANGE, "-s", 1.0), (BLUE, "--o", 1.08), (RED, ":v", 0.93))
    for (name, chosen), (color, style, aside) in zip(found.items(), looks, strict=True):
        ranks = sorted(chosen)
        if ranks == [8]:  # not swept
            continue
        at = [rank * aside for rank in ranks]
        rates.plot(at, [chosen[rank] for rank in ranks], style, color=color, lw=2, ms=7)
        for rank, x in zip(ranks, at, strict=True):
            ends = tied(runs, _swept(rank, name))
            rates.plot([x, x], [ends[0], ends[-1]], color=color, lw=6, alpha=0.3, solid_capstyle="round")
        how = {"textcoords": "offset points", "va": "center", "color": color, "fontsize": 10}
        rates.annotate(name, (at[-1], chosen[ranks[-1]]), (8, 0), **how)
    full = tied(runs, "full")
    for times, label in ((1, "full's best"), (10, "ten times that")):
        rates.axhspan(times * full[0], times * full[-1], color=GREEN, alpha=0.15, lw=0)
        rates.axhline(times * best_rate(runs, "full"), color=GREEN, lw=1.4, ls=(0, (5, 2)))
        rates.text(850, times * best_rate(runs, "full") * 1.06, label, color=GREEN, fontsize=9, ha="right")
    rates.set(
        xscale="log", yscale="log", xlabel="rank", ylabel="best learning rate", xlim=(0.8, 900), ylim=(8e-4, 5e-2)
    )
    rates.set_xticks(RANKS, [str(rank) for rank in RANKS])
    rates.set_yticks([1e-3, 3e-3, 1e-2, 3e-2], ["0.001", "0.003", "0.01", "0.03"])
    for axes in (losses, rates):
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    rates.set_title("At s = 2 the best rate falls with the rank; bars: ties", fontsize=11, loc="left")
    listed = "; ".join(f"{name} {loss:.3f}" for name, loss in means.items())
    tuned = "; ".join(f"{name}: {chosen[min(chosen)]:g} to {chosen[max(chosen)]:g}" for name, chosen in found.items())
    return figure, (
        f"Loss falls with the rank and ends near full training of the same matrices: {listed}. Right, the best rate by "
        f"rank, bars over rates within {TIE:g} nats, beside full's, {full[0]:g} to {full[-1]:g}, and ten times that; "
        f"from rank 1 to 64 {tuned}."
    )


def best_rates(runs: list[Run]) -> dict[str, dict[int, float]]:
    """Scaling -> rank -> best of three rates or more. All scalings are the same at rank 8."""
    eight = best_rate(runs, rank_way("lora", 8))
    found = {}
    for scaling in SCALINGS:
        ways = {rank: rank_way("lora", rank, scaling) for rank in RANKS}
        swept = [rank for rank, way in ways.items() if len({run.lr for run in of_way(runs, way)}) > 2]
        found[scaling] = {rank: best_rate(runs, ways[rank]) for rank in swept} | {8: eight}
    return found


def multiples(runs: list[Run]) -> dict[int, str]:
    """Rank -> LoRA's best rate at s = 2 over full's, from the lowest to the highest that ties of either allow."""
    full, found = tied(runs, "full"), {}
    for rank in best_rates(runs)["alpha = 2r"]:
        ours = tied(runs, rank_way("lora", rank))
        low, high = ours[0] / full[-1], ours[-1] / full[0]
        found[rank] = f"{low:g} to {high:g}" if low < high else f"{low:g}"
    return found


def regret(runs: list[Run], lr: float) -> dict[str, dict[int, float]]:
    """Scaling -> rank -> what one rate for every rank costs: nats above the scaling's own best rate at that rank."""
    found: dict[str, dict[int, float]] = {}
    for scaling in SCALINGS:
        for rank in (1, 8, 64):
            here = {run.lr: run.plays for run in of_way(runs, _swept(rank, scaling)) if run.seed == 0}
            found.setdefault(scaling, {})[rank] = here[lr] - min(here.values())
    return found


def _swept(rank: int, scaling: str) -> str:
    """The name of the runs at one rank and scaling: at rank 8 all scalings are one."""
    return rank_way("lora", rank, "alpha = 2r" if rank == 8 else scaling)
