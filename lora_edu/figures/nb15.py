"""Pictures of notebook 15: two runs turned down by the dial, and what cutting intruders brings back."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_edu.experiments.nb15 import FINE_DIAL, FULL, LORA
from lora_edu.experiments.nb15_intruders import OLD
from lora_edu.experiments.nb15_runs import dialed, kept
from lora_edu.experiments.sweeps import SEEDS
from lora_edu.figures.drawing import Drawn, note, panels, slider, styled
from lora_edu.figures.looks import GRAY, METHODS, ORANGE
from lora_edu.figures.sliders import explore

# --- the dial: the slider of the first screen -------------------------------------------------------------------------

DIAL_ALT = (
    "Two curves, rank 8 and full fine-tuning: to the right what was learned, upward what was forgotten, from the base "
    "to the run's end. Both are flat at first and steep at last. Two marks at the chosen setting of the dial, nearly "
    "level. Means over three seeds."
)
DIALED = {LORA: ("rank 8", METHODS["lora"]), FULL: ("full fine-tuning", METHODS["full"])}


def dial() -> dict:
    """Show both runs with a slider for the setting of the dial."""
    settings = sorted([*FINE_DIAL, 1.0])
    control = ipywidgets.SelectionSlider(options=settings, value=0.5, description="the dial")
    return explore(dial_view(), DIAL_ALT, setting=control)


@slider
def dial_view():
    """A view with one control, setting: which share of what a run changed is kept."""
    figure = plt.figure(figsize=(9.2, 4.2))
    axes = figure.add_axes([0.09, 0.13, 0.88, 0.78])
    points = {way: dialed(way) for way in DIALED}
    marks, labels = {}, {}
    for way, (name, look) in DIALED.items():
        axes.plot(*np.array([(0, 0), *points[way].values()]).T, **look | {"marker": ""}, label=name)
        (marks[way],) = axes.plot([], [], **look | {"ls": ""}, ms=11, animated=True)
        labels[way] = axes.text(0, 0, "", color=look["color"], fontsize=10, va="center", animated=True)
    (level,) = axes.plot([], [], color=GRAY, lw=1, zorder=1, animated=True)
    axes.legend(loc="upper left")
    axes.set(xlim=(0, 1.24), ylim=(-0.02, 0.32), xlabel="learned: nats per byte won on plays")
    axes.set_ylabel("forgotten: nats per byte lost on addresses")
    axes.set_title("At the same setting of the dial both forgot alike")

    def values(setting: float) -> dict:
        told = []
        for way, (name, _) in DIALED.items():
            (learned, forgotten), (gain, price) = points[way][setting], kept(way, setting)
            told.append(
                f"{name} learned {learned:.2f} and forgot {forgotten:.3f} ({gain:.0%} and {price:.0%} of its end)"
            )
        return {way: points[way][setting] for way in DIALED} | {"readout": f"At {setting:g}: {'; '.join(told)}."}

    def draw(now: dict) -> None:
        level.set_data(*np.array([now[way] for way in DIALED]).T)
        for way, (side, by) in {LORA: ("right", -0.02), FULL: ("left", 0.02)}.items():
            learned, forgotten = now[way]
            marks[way].set_data([learned], [forgotten])
            labels[way].set(x=learned + by, y=forgotten, ha=side, text=f"learned {learned:.2f}")

    return figure, values, draw, {"setting": 0.5}


# --- intruders -------------------------------------------------------------------------------------------------------

THRESHOLDS = np.linspace(0.3, 0.95, 66)
COUNTED = {  # what is counted -> arm, kind, color, style
    "rank 8, trained": ("lora r8", "trained", ORANGE, "-"),
    "its strengths turned at random": ("lora r8", "turned", GRAY, "--"),
    "its norm over 256 directions": ("lora r8", "spread", GRAY, ":"),
    "the same matrices in full": ("blocks", "trained", "black", "-"),
}
CUT_LOOKS = {"intruders": METHODS["lora"], "dial": {"color": "black", "marker": "o", "ls": "-"}}


def count_below(arms: dict, way: str, kind: str, threshold: float) -> float:
    """How many of the 240 candidates have no cosine of so much to any direction of W: the mean over seeds."""
    runs = [arm for name, arm in arms.items() if name.startswith(f"cosines of {way}, ")]
    return float(np.mean([np.searchsorted(arm[kind], threshold) for arm in runs]))


def count_table(arms: dict) -> list[list[str]]:
    """A row for each threshold: it, and the count of each of COUNTED."""
    return [
        [f"{t:g}", *(f"{count_below(arms, way, kind, t):.0f}" for way, kind, _, _ in COUNTED.values())]
        for t in (0.5, 0.6, 0.7, 0.8)
    ]


@styled
def intruders_figure(arms: dict) -> Drawn:
    """Left: intruders against the threshold. Right: what cutting them down brings back, beside the dial."""
    figure, (counts, plane) = panels(2, 9.6, 4.1)
    for name, (way, kind, color, style) in COUNTED.items():
        found = [count_below(arms, way, kind, threshold) for threshold in THRESHOLDS]
        counts.plot(THRESHOLDS, found, style, color=color, label=name)
    counts.legend(loc="upper left")
    counts.axvline(OLD, color=GRAY, lw=1, zorder=0)
    counts.text(OLD - 0.008, 110, "the paper's", color=GRAY, fontsize=9, ha="right")
    counts.set(xlabel="threshold: a direction is new below this cosine", ylabel="new, of 240 candidates", ylim=(0, 200))
    counts.set_title("How many: it depends on the threshold")
    for name, look in CUT_LOOKS.items():
        line = cut_line(arms, name)
        plane.plot(*line.T, **look)
        note(plane, "all of the update" if name == "dial" else name, line[2], (10, -10), color=look["color"])
    control = cut_table(arms)["old directions, 0.25"][:2]
    plane.plot(*control, **METHODS["control"], ms=9)
    note(plane, "old directions", control, (8, 0), color=GRAY)
    plane.axhline(0, color=GRAY, lw=1, zorder=0)
    plane.set(xlabel="lost again on plays, nats", ylabel="won back on addresses, nats")
    plane.set_title("Scaled down: the whole update wins back more")
    lost, won = cut_line(arms, "intruders")[2]
    dial = np.interp(lost, *cut_line(arms, "dial").T)
    both = lambda t: [round(count_below(arms, "lora r8", kind, t)) for kind in ("trained", "turned")]  # noqa: E731
    at = "; ".join("at {:g}: {} and {}".format(t, *both(t)) for t in (0.5, 0.6, 0.7, 0.8))
    return figure, (
        f"New directions of rank 8, trained and turned at random, {at}. Scaled down by a quarter, intruders win back "
        f"{won:.3f} on addresses for {lost:.3f} on plays; the whole update {dial:.3f}; old directions lose. "
        "Left, counts against the threshold. Right, won back against lost."
    )


def cut_line(arms: dict, name: str) -> np.ndarray:
    """(n, 2): lost again on plays and won back on addresses after ever larger cuts of one kind, from nothing."""
    points = [point[:2] for key, point in cut_table(arms).items() if key.startswith(f"{name}, ")]
    return np.array([(0.0, 0.0), *points])


def cut_table(arms: dict) -> dict[str, tuple[float, float, float]]:
    """Cut -> what it loses again on plays, what it wins back on addresses, the norm it takes away: means over seeds."""
    runs = [arms[f"cuts of lora r8, seed {seed}"] for seed in SEEDS]
    moves = {
        key: [(run["cuts"][key][0] - run["losses"][0], run["losses"][1] - run["cuts"][key][1], run["cuts"][key][2])
              for run in runs]
        for key in runs[0]["cuts"]
    }  # fmt: skip
    return {key: tuple(np.mean(found, axis=0).tolist()) for key, found in moves.items()}
