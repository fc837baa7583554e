"""Pictures of notebook 10: one budget in nine places.

What the stored runs say is in `lora_course.nb10.lab_runs`.
"""

from collections.abc import Iterable

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lora_course.drawing.looks import ADAPTER, BLUE, GRAY, ORANGE, filled
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider, stage
from lora_course.nb10.lab import HALF, PLACES
from lora_course.nb10.lab_runs import at_best
from lora_course.running.sweeps import Runs

# --- one budget: the slider of the first screen ----------------------------------------------------------------------

ATTENTION = ("q", "v", "o", "q v", "q k v o")
# Table 5 of the LoRA paper: accuracy of GPT-3 on WikiSQL and MNLI under one budget, in %.
TABLE_5 = {"q": (70.4, 91.0), "v": (73.0, 91.0), "o": (73.2, 91.3), "q v": (73.7, 91.3), "q k v o": (73.7, 91.7)}
BUDGET_ALT = (
    "Loss on plays after adapting attention in five ways, all with one budget of 40,960 numbers: a row for each, its "
    "mean, and short lines for three seeds. The chosen row has a large mark, and its matrices light up in a drawing of "
    "a block's six. A dashed line at the left: training everything."
)
BLOCK = {  # the matrices of a block, true to scale: left, bottom, width, height in units of 256
    **{name: (1.25 * i, 2.6, 1, 1) for i, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj"))},
    "up_proj": (0, 0, 1, 2.2),
    "down_proj": (1.4, 1.2, 3.35, 1),
}
KINDS = {"attention": (GRAY, "s"), "MLP": (ORANGE, "D"), "all six": ("black", "o")}  # of places: color, mark


def budget(runs: Runs) -> dict:
    """Show one budget with a button for each place in attention."""
    place = ipywidgets.ToggleButtons(options=ATTENTION, value="q v", description="place")
    return explore(budget_view(runs), BUDGET_ALT, place=place)


@slider
def budget_view(runs: Runs):
    """A view with one control, place (one of ATTENTION)."""
    figure, axes = stage(9.2, 3.6, (0.02, 0.16, 0.7, 0.74))
    _rows(axes, runs, ATTENTION)
    full = _mean(runs, "full")
    axes.axvline(full, color="black", ls="--", lw=1.4)
    note(axes, f"{full:.3f}  training everything", (full, 4.6), (6, 0))
    axes.set(xlim=(1.62, 2.6), ylim=(4.9, -0.6), title="Adapters in attention, one budget")
    (mark,) = axes.plot([], [], "s", color=ORANGE, ms=13, zorder=5, animated=True)
    beside = figure.add_axes((0.75, 0.16, 0.24, 0.7), aspect="equal")
    beside.set(xlim=(-0.1, 4.9), ylim=(-0.1, 4.2))
    beside.set_title("the six matrices of a block", fontsize=10, loc="center")
    beside.axis("off")
    lit = {}
    for matrix, (x, y, width, height) in BLOCK.items():
        beside.add_patch(Rectangle((x, y), width, height, facecolor="white", edgecolor=BLUE, lw=1.5))
        lit[matrix] = beside.add_patch(Rectangle((x, y), width, height, **filled(ADAPTER), animated=True))
        name_it: dict = {"ha": "center", "va": "center", "zorder": 5, "animated": True}
        beside.text(x + width / 2, y + height / 2, matrix.removesuffix("_proj"), **name_it,
                    bbox={"facecolor": "white", "lw": 0, "pad": 1})  # fmt: skip

    def values(place: str) -> dict:
        matrices, rank = PLACES[place]
        loss, (wikisql, mnli) = _mean(runs, place), TABLE_5[place]
        readout = (
            f"{place} at rank {rank}: {loss:.3f} nats. GPT-3 with this place, in the paper: {wikisql}% on WikiSQL, "
            f"{mnli}% on MNLI (two test scores; higher is better)"
        )
        return {"mark": (loss, ATTENTION.index(place)), "lit": matrices, "readout": readout}

    def draw(now: dict) -> None:
        mark.set_data(*([number] for number in now["mark"]))
        for matrix, patch in lit.items():
            patch.set_visible(matrix in now["lit"])

    return figure, values, draw, {"place": "q v"}


def _mean(runs: Runs, way: str) -> float:
    """The loss on plays of a way at its best rate: the mean over the seeds."""
    return float(np.mean([run.plays for run in at_best(runs, way)]))


def _rows(axes: Axes, runs: Runs, ways: Iterable[str], first: float = 0) -> list[str]:
    """A row for each way, from the height `first` on: its seeds, their mean, and its name. Returns what they say."""
    said = []
    for place, way in enumerate(ways):
        row, losses, mean = first + place, [run.plays for run in at_best(runs, way)], _mean(runs, way)
        name = f"{way}, rank {PLACES[way][1]}" if way in PLACES else way.replace("lora r", "all six, rank ")
        kind = "attention" if way in ATTENTION else "all six" if "six" in name else "MLP"
        color, marker = KINDS[kind]
        axes.plot(losses, [row] * len(losses), "|", color=color, ms=12)
        axes.plot(mean, row, marker, color=color, ms=7)
        note(axes, f"{mean:.3f}  {name}", (max(losses), row), (12, 0), color=color)
        said.append(f"{name} {mean:.3f}")
    axes.set(xlabel="loss on plays after 100 steps, nats per byte (lower is better)", yticks=[])
    return said


@picture
def places_figure(runs: Runs) -> Drawn:
    """All nine places and rank 2 on all six, the worst above; below a line what takes half of the budget."""
    figure, (axes,) = panels(1, 8.6, 4.2)
    ways = sorted([*PLACES, "lora r2"], key=lambda way: -_mean(runs, way))
    whole, half = _rows(axes, runs, ways), _rows(axes, runs, ["lora r1", *HALF], len(ways) + 0.6)
    axes.axhline(len(ways) - 0.2, color="black", lw=0.8)
    axes.text(2.54, len(ways) + 0.6, "half of the budget, and less", ha="right", va="center", fontsize=9)
    axes.set_xlim(1.8, 2.55)
    axes.invert_yaxis()
    return figure, (
        f"In 100 steps one MLP matrix, down, beats all of attention. With one budget: {', '.join(whole)}. With half of "
        f"it: {', '.join(half)}. Squares are attention, diamonds the MLP, circles all six; short lines three seeds."
    )
