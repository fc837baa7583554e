"""The picture of notebook 08: the film of one training step. And how memory looks on other pages."""

from collections.abc import Iterator

import ipywidgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from lora_course.drawing import looks
from lora_course.drawing.looks import GRAY, SKY, filled
from lora_course.drawing.style import beside, slider, stage
from lora_course.nb08.lab import TECHNIQUES, film_name
from lora_edu.gpt import GPTConfig
from lora_edu.memory.calculator import LOGITS
from lora_edu.memory.shapes import ADAPTERS, BASE, CONSTANTS, OPTIMIZER, Architecture

# --- the film of one step --------------------------------------------------------------------------------------------

FILM_ALT = (
    "What is alive during one training step, operation by operation, as stacked bands: weights, codes, adapters, "
    "optimizer state, gradients, activations. Dashed: the outline of full fine-tuning. A vertical line marks a moment."
)
ACTIVATION = {"facecolor": "#B4DAF0", "edgecolor": SKY, "lw": 1.2}  # pale, so that it is not taken for weights
STATE: looks.Look = (GRAY, "--")
BANDS = {
    "weights": filled(looks.WEIGHT),
    "codes": filled(looks.CODES),
    "adapters": filled(looks.ADAPTER),
    "optimizer state": filled(STATE),
    "gradients": filled(looks.GRADIENT),
    "activations": ACTIVATION,
}
# The same for models that are counted and not run: notebooks 09 and 14.
PARTS = {name: look for name, look in BANDS.items() if name in ("weights", "codes")}
PARTS |= {"constants": filled(looks.CONSTANTS)}
PARTS |= {name: look for name, look in BANDS.items() if name not in PARTS} | {LOGITS: filled((looks.PLUM, "--"))}
SPANS = {"forward": (0.0, 1.0), "backward": (1.0, 2.6), "optimizer": (2.6, 3.0)}  # each phase has its own scale
END = 3.0


def film_controls() -> dict[str, ipywidgets.Widget]:
    """What moves the film: four boxes to tick, and the moment."""
    names = ("freeze the base, train adapters", "4 bits", "checkpointing", "paging")
    boxes = [ipywidgets.Checkbox(description=name, indent=False) for name in names]
    moment = ipywidgets.IntSlider(value=36, max=100, step=4, description="moment")
    return dict(zip(TECHNIQUES, boxes, strict=True)) | {"moment": moment}


def film_values(arm: dict) -> dict:
    """A stored film as arrays: edges (n + 1,) on the time axis, bands name -> (n,) in MB, phases (n,)."""
    resident, edges, rows = arm["resident"], [], []
    for phase, (start, end) in SPANS.items():
        pictures = arm["phases"][phase]
        edges += np.linspace(start, end, len(pictures), endpoint=False).tolist()
        rows += [(phase, *picture) for picture in pictures]
    phases, gradients, activations = zip(*rows, strict=True)
    linears = Architecture.of_gpt(GPTConfig()).parameters()["block linears"]
    ones, codes = np.ones(len(rows)), linears // 2 if resident[CONSTANTS] else 0  # two codes a byte
    sizes = {
        "weights": (resident[BASE] - codes) * ones,
        "codes": (codes + resident[CONSTANTS]) * ones,
        "adapters": resident[ADAPTERS] * ones,
        "optimizer state": resident[OPTIMIZER] * ones,
        "gradients": np.array(gradients),
        "activations": np.array(activations),
    }
    bands = {name: size / 1e6 for name, size in sizes.items()}
    return {"edges": np.array([*edges, END]), "bands": bands, "phases": phases}


@slider
def film_view(arms: dict[str, dict]):
    """Five controls: freeze, four_bits, checkpointing, paging (on or off), and moment, 0 to 100. arms: the stored films
    of `lora_course.nb08.lab`."""
    films = {name: film_values(arm) for name, arm in arms.items()}
    full = films["none"]
    figure, axes = stage(9.6, 3.6, (0.07, 0.13, 0.69, 0.76))
    _time_axis(axes, full)
    bands = {name: PolyCollection([], animated=True, **{"lw": 0} | look) for name, look in BANDS.items()}
    for band in bands.values():
        axes.add_collection(band)
    line = axes.axvline(0, color="black", lw=1.4, animated=True, gid="here")
    title = figure.text(0.07, 0.93, "", fontsize=11, animated=True)
    figure.text(0.985, 0.845, "MB at the line", ha="right", va="center")
    sizes = dict(zip(BANDS, beside(figure, BANDS, 0.785, 0.83, 0.74, 0.105), strict=True))

    def values(freeze: bool, four_bits: bool, checkpointing: bool, paging: bool, moment: int) -> dict:
        film = films[film_name(freeze, four_bits and freeze, checkpointing, paging)]
        at = min(int(np.searchsorted(film["edges"], moment / 100 * END, side="right")) - 1, len(film["phases"]) - 1)
        most, now = (sum(film["bands"].values()).max(), sum(size[at] for size in film["bands"].values()))
        refused = "4 bits only with a frozen base. " if four_bits and not freeze else ""
        return film | {
            "moment": moment / 100 * END,
            "at": at,
            "title": f"at most {most:.1f} MB (full fine-tuning: {sum(full['bands'].values()).max():.1f})",
            "readout": f"{refused}At most {most:.1f} MB. At the line, {film['phases'][at]}: {now:.1f} MB",
        }

    def draw(now: dict) -> None:
        for name, outline in _stacked(now):
            bands[name].set_verts([outline])
            bands[name].set_visible(bool(now["bands"][name].max() > 0.01))
            sizes[name].set_text(f"{now['bands'][name][now['at']]:.1f}")
        line.set_xdata([now["moment"]] * 2)
        title.set_text(now["title"])

    return figure, values, draw, dict.fromkeys(TECHNIQUES, False) | {"moment": 0}


def _stacked(film: dict) -> Iterator[tuple[str, np.ndarray]]:
    """The corners of each band: the area between two staircases, on top of the bands before it."""
    across, bottom = np.repeat(film["edges"], 2)[1:-1], 0.0
    for name, size in film["bands"].items():
        top = bottom + size
        there, back = (np.column_stack([across, np.repeat(y * np.ones(len(size)), 2)]) for y in (top, bottom))
        yield name, np.concatenate([there, back[::-1]])
        bottom = top


def _time_axis(axes: Axes, full: dict) -> None:
    axes.set(xlim=(0, END), ylim=(0, 125), ylabel="alive, MB", xticks=[])
    for phase, (start, end) in SPANS.items():
        axes.axvline(start, color=GRAY, lw=0.8, ls=":")
        name = "step" if phase == "optimizer" else phase
        axes.text((start + end) / 2, -0.045, name, ha="center", va="top", transform=axes.get_xaxis_transform())
    total = sum(full["bands"].values())
    axes.plot(np.repeat(full["edges"], 2)[1:-1], np.repeat(total, 2), color="black", lw=1.1, ls="--", zorder=3)
