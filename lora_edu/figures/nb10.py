"""Pictures of notebook 10: one budget in nine places, ranks and rates, and the directions that two runs share.

What the stored runs say is in `lora_edu.experiments.nb10_runs`.
"""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from lora_edu import files, tensor_files
from lora_edu.experiments.nb10 import PLACES, rank_way
from lora_edu.experiments.nb10_batch import EQUAL_STEPS, EQUAL_TOKENS, batch_runs, shares_missed
from lora_edu.experiments.nb10_directions import COUNTS
from lora_edu.experiments.nb10_runs import RANKS, at_best, best_rates, of_way, swept
from lora_edu.experiments.sweeps import SEEDS, TIE, Runs
from lora_edu.figures.drawing import Drawn, note, panels, picture, slider, styled, ticks
from lora_edu.figures.looks import ADAPTER, BLUE, GRAY, METHODS, ORANGE, RED, filled
from lora_edu.figures.sliders import explore

# --- one budget: the slider of the first screen ----------------------------------------------------------------------

ATTENTION = ("q", "v", "o", "q v", "q k v o")
# Table 5 of the LoRA paper: accuracy of GPT-3 on WikiSQL and MNLI under one budget, in %.
TABLE_5 = {"q": (70.4, 91.0), "v": (73.0, 91.0), "o": (73.2, 91.3), "q v": (73.7, 91.3), "q k v o": (73.7, 91.7)}
BUDGET_ALT = (
    "Loss on plays over numbers trained. A falling orange line: all six matrices at ranks 1 to 64. On it and above it, "
    "one mark for each place in attention, all at one budget of 40,960 numbers; the chosen one is filled, and its "
    "matrices light up in a drawing of the block. At the right, full training."
)
BLOCK = {  # the matrices of a block, true to scale: left, bottom, width, height in units of 256
    **{name: (1.25 * i, 2.6, 1, 1) for i, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj"))},
    "up_proj": (0, 0, 1, 2.2),
    "down_proj": (1.4, 1.2, 3.35, 1),
}


def budget(runs: Runs) -> dict:
    """Show one budget with a slider over the places in attention."""
    place = ipywidgets.SelectionSlider(options=ATTENTION, value="q v", description="place")
    return explore(budget_view(runs), BUDGET_ALT, place=place)


@slider
def budget_view(runs: Runs):
    """A view with one control, place (one of ATTENTION)."""
    figure = plt.figure(figsize=(9.2, 4.3))
    axes = figure.add_axes([0.075, 0.13, 0.66, 0.78])
    _price_of_ranks(axes, runs)
    axes.plot(*np.array([_mark(runs, way) for way in ATTENTION]).T, "s", color=GRAY, ms=6, mfc="white", zorder=4)
    (mark,) = axes.plot([], [], "s", color=ORANGE, ms=10, zorder=5, animated=True)
    name = axes.text(0, 0, "", color=ORANGE, fontsize=11, va="center", animated=True)
    axes.set_title("Adapters in attention, one budget", fontsize=12)
    beside = figure.add_axes([0.75, 0.2, 0.24, 0.6], aspect="equal")
    beside.set(xlim=(-0.1, 4.9), ylim=(-0.1, 4.2))
    beside.set_title("the six matrices of a block", fontsize=10, loc="center")
    beside.axis("off")
    lit = {}
    for matrix, (x, y, width, height) in BLOCK.items():
        beside.add_patch(Rectangle((x, y), width, height, facecolor="white", edgecolor=BLUE, lw=1.5))
        lit[matrix] = beside.add_patch(Rectangle((x, y), width, height, **filled(ADAPTER), animated=True))
        name_it = {"ha": "center", "va": "center", "zorder": 5, "animated": True}
        beside.text(x + width / 2, y + height / 2, matrix.removesuffix("_proj"), **name_it,
                    bbox={"facecolor": "white", "lw": 0, "pad": 1})  # fmt: skip

    def values(place: str) -> dict:
        matrices, rank = PLACES[place]
        numbers, loss = _mark(runs, place)
        wikisql, mnli = TABLE_5[place]
        return {
            "mark": (numbers, loss),
            "name": f"{place}, rank {rank}: {loss:.3f}",
            "lit": matrices,
            "readout": f"{place} at rank {rank}: {loss:.3f} nats. GPT-3 with this place, in the paper: {wikisql}% on "
            f"WikiSQL, {mnli}% on MNLI",
        }

    def draw(now: dict) -> None:
        numbers, loss = now["mark"]
        mark.set_data([numbers], [loss])
        name.set_position((numbers * 1.13, loss + 0.012))
        name.set_text(now["name"])
        for matrix, patch in lit.items():
            patch.set_visible(matrix in now["lit"])

    return figure, values, draw, {"place": "q v"}


def _mark(runs: Runs, way: str) -> tuple[int, float]:
    """How many numbers a way trains, and its loss on plays: the mean over the seeds of its best rate."""
    best = at_best(runs, way)
    return best[0].numbers, float(np.mean([run.plays for run in best]))


def _price_of_ranks(axes: Axes, runs: Runs) -> None:
    """The line of all six matrices over the rank, and full training at its end."""
    line = np.array([_mark(runs, rank_way("lora", rank)) for rank in RANKS])
    axes.plot(*line.T, "-s", color=ORANGE, ms=5, mfc="white", zorder=3)
    for rank, point in zip(RANKS, line, strict=True):
        note(axes, f"rank {rank}", point, (0, -13), "center", color=ORANGE, fontsize=9)
    note(axes, "all six matrices", line[-1], (-6, 18), "right", color=ORANGE)
    for way, label, by in (("blocks", "full:\nthese six", (0, 22)), ("full", "full: all", (0, -14))):
        numbers, loss = _mark(runs, way)
        axes.plot(numbers, loss, **METHODS[way] | {"ls": "", "ms": 7})
        note(axes, label, (numbers, loss), by, "center", fontsize=9)
    axes.set(xscale="log", xlim=(1.2e4, 6e6), ylim=(1.57, 2.43), xlabel="numbers trained")
    axes.set_ylabel("loss on plays, nats per byte")
    ticks(axes.xaxis, (2e4, 5e4, 2e5, 1e6, 3e6), ",.0f")


@styled
def places_figure(runs: Runs) -> Drawn:
    """The same with all nine places, each at its own best rate."""
    figure, (axes,) = panels(1, 9.2, 4.6)
    _price_of_ranks(axes, runs)
    by = {"q": 0, "v": 0, "q v": 0, "o": 4, "q k v o": -3, "up": 3, "down": 0, "up down": 0}
    for way in PLACES:
        numbers, loss = _mark(runs, way)
        attention = way in ATTENTION
        axes.plot(numbers, loss, "s" if attention else "D", color=GRAY if attention else ORANGE, ms=7, zorder=5)
        if way not in ("down", "up down"):
            side, far = ("right", -9) if attention else ("left", 9)
            color = GRAY if attention else ORANGE
            note(axes, f"{way} {loss:.3f}", (numbers, loss), (far, by[way]), side, color=color)
    both = "\n".join(f"{way} {_mark(runs, way)[1]:.3f}" for way in ("down", "up down"))
    note(axes, both, _mark(runs, "up down"), (0, -52), "center", color=ORANGE,
         arrowprops={"arrowstyle": "-", "color": ORANGE, "lw": 1})  # fmt: skip
    axes.set_title("Attention (gray squares) lies above the line; the MLP's down and rank 1 everywhere do better")
    named = "; ".join(f"{way} {_mark(runs, way)[1]:.3f}" for way in PLACES)
    ranks = "; ".join(f"rank {rank} {_mark(runs, rank_way('lora', rank))[1]:.3f}" for rank in RANKS)
    return figure, (
        "One MLP matrix, down, beats all of attention. Loss on plays under one budget, means over three seeds: "
        f"{named}. All six matrices, {ranks}. "
        "Gray squares are attention, orange diamonds the MLP, the orange line all six."
    )


# --- directions ------------------------------------------------------------------------------------------------------


def stored_factors() -> dict[str, Tensor]:
    """One layer of two stored runs with different seeds: "r8 A" (8, d), "r8 B" (d, 8), "r64 again A", "r64 again B"."""
    stored = tensor_files.read_sealed(
        files.data_file("results") / "lora-spectra.safetensors", "put the right file back"
    )
    return {name.replace(",", ""): tensor.float() for name, tensor in stored.items()}


SIDES = {  # what two runs share -> experiment, pair, side
    "adapters write": ("alike", "r8, r64", "output"),
    "adapters read": ("alike", "r8, r64", "A"),
    "A minus its start": ("alike, no start", "r8, r64", "A minus its start"),
    "full training writes": ("alike, no start", "blocks, blocks", "output"),
    "full training reads": ("alike, no start", "blocks, blocks", "input"),
    "same seed, write": ("alike", "r8, r64, same seed", "output"),
    "W, write": ("alike", "r8, W", "output"),
    "two of rank 8 write": ("alike, one rank", "r8, r8", "output"),
    "two of rank 8 read": ("alike, one rank", "r8, r8", "A"),
}


def shared(arms: dict, name: str) -> np.ndarray:
    """(4,): phi(i, i) for 1, 2, 4, 8 directions, one of SIDES; the mean over layers and pairs of seeds."""
    experiment, pair, side = SIDES[name]
    return np.mean([arms[f"{experiment}, seed {seed}"][pair][side] for seed in SEEDS], axis=0)


def chance(d: int = 256) -> np.ndarray:
    """(4,): what random subspaces share, i / d."""
    return np.array(COUNTS) / d


@styled
def directions_figure(arms: dict) -> Drawn:
    """phi(i, i) of two adapters and of full training: a band from what they read to what they write."""
    figure, (axes,) = panels(1, 8.6, 3.8)
    bands = {("adapters write", "adapters read"): ORANGE, ("full training writes", "full training reads"): "black"}
    for names, color in bands.items():
        write, read = (shared(arms, name) for name in names)
        axes.fill_between(COUNTS, read, write, color=color, alpha=0.15, lw=0)
        axes.plot(COUNTS, write, "-s", color=color, ms=6)
        axes.plot(COUNTS, read, "--o", color=color, ms=6, mfc="white")
        for name, line in zip(names, (write, read), strict=True):
            note(axes, f"{name} {line[-1]:.2f}", (COUNTS[-1], line[-1]), (9, 0), color=color)
    axes.plot(COUNTS, chance(), ":x", color=GRAY)
    note(axes, f"chance {chance()[-1]:.2f}", (COUNTS[-1], chance()[-1]), (9, 0), color=GRAY)
    axes.set(xscale="log", xlim=(0.9, 17), ylim=(0, 1), xlabel="i, strongest directions of each run")
    axes.set_ylabel("phi(i, i)")
    ticks(axes.xaxis, COUNTS)
    axes.set_title("Two adapters agree on where they write, less on what they read")
    said = "; ".join(f"{name} {line[0]:.2f} to {line[-1]:.2f}" for name in SIDES if len(line := shared(arms, name)))
    return figure, (
        f"Two runs with different seeds, phi(1, 1) to phi(8, 8): {said}; chance {chance()[0]:.3f} to "
        f"{chance()[-1]:.3f}. Orange: two adapters; black: full training. Solid lines write, dashed lines read."
    )


# --- ranks and rates -------------------------------------------------------------------------------------------------


@styled
def rates_figure(runs: Runs) -> Drawn:
    """The best rate at each rank, under three conventions for the scaling, beside full fine-tuning's."""
    figure, (rates,) = panels(1, 8.6, 4)
    found = best_rates(runs)
    looks = ((ORANGE, "-s", 1.0, 0), (BLUE, "--o", 1.08, 7), (RED, ":v", 0.93, -2))
    for (name, chosen), (color, style, aside, up) in zip(found.items(), looks, strict=True):
        ranks = sorted(chosen)
        at = [rank * aside for rank in ranks]
        rates.plot(at, [chosen[rank] for rank in ranks], style, color=color, ms=7)
        for rank, x in zip(ranks, at, strict=True):
            ends = swept(runs, rank, name).tied()
            rates.plot([x, x], [ends[0], ends[-1]], color=color, lw=6, alpha=0.3, solid_capstyle="round")
        note(rates, name, (at[-1], chosen[ranks[-1]]), (10, up), color=color)
    full = of_way(runs, "full").tied()
    for times, label in ((1, "full's best"), (10, "ten times that")):
        rates.axhspan(times * full[0], times * full[-1], color=GRAY, alpha=0.2, lw=0)
        rates.text(320, times * full[0] * 1.05, label, fontsize=9, va="bottom", ha="right")
    rates.set(
        xscale="log", yscale="log", xlabel="rank", ylabel="best learning rate", xlim=(0.8, 330), ylim=(8e-4, 5e-2)
    )
    ticks(rates.xaxis, RANKS)
    ticks(rates.yaxis, (1e-3, 3e-3, 1e-2, 3e-2))
    rates.set_title("At alpha = 2r the best rate falls with the rank (bars: rates that tie)")
    tuned = "; ".join(f"{name}: {chosen[min(chosen)]:g} to {chosen[max(chosen)]:g}" for name, chosen in found.items())
    return figure, (
        f"The best rate from rank 1 to 64, {tuned}. Bars: rates within {TIE:g} nats. Gray bands: full fine-tuning's "
        f"best, {full[0]:g} to {full[-1]:g}, and ten times that. At alpha = 2r it falls with the rank."
    )


# --- the batch -------------------------------------------------------------------------------------------------------


@picture
def batch_figure() -> Drawn:
    """What LoRA misses of what full fine-tuning learned, against the batch: at equal tokens, and with as few steps."""
    runs, said = batch_runs(), []
    figure, frames = panels(2, 9.2, 3.6, sharey=True)
    lines = (("equal tokens", EQUAL_TOKENS, METHODS["lora"]), ("32 steps for all", EQUAL_STEPS, METHODS["control"]))
    for axes, way in zip(frames, ("lora r8", "lora r64"), strict=True):
        for name, cells, look in lines:
            missed = 100 * np.array([shares_missed(runs, way, *cell) for cell in cells])  # (3 batches, seeds)
            axes.plot(range(3), missed.mean(1), **look, ms=8, label=name)
            axes.plot(np.repeat(range(3), missed.shape[1]), missed.flat, "_", color=look["color"], ms=9)
            said.append(f"{way.replace('lora r', 'rank ')}, {name}: " + ", ".join(f"{m:.0f}%" for m in missed.mean(1)))
        axes.set(
            title=way.replace("lora r", "rank "),
            xlabel="sequences in a batch (steps at equal tokens)",
            xlim=(-0.3, 2.3),
            ylim=(0, 18.5),
            yticks=(0, 5, 10, 15),
        )
        axes.set_xticks(range(3), [f"{batch}\n{steps} steps" for batch, steps in EQUAL_TOKENS])
    frames[0].set_ylabel("missed of what full learned, %")
    frames[0].legend(loc="lower right")
    return figure, (
        "At the largest batch LoRA falls further behind full; at rank 64 as few steps do as much alone. Share that "
        f"LoRA missed of what full learned, with batches of 4, 16 and 64: {'; '.join(said)}. Marks are means of three "
        "seeds, short lines the seeds."
    )
