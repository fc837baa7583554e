"""Pictures of notebook 15: three roads to equal learning, and what cutting intruders brings back."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_edu.experiments.nb15 import BOLD, FULL, LORA, TURNED_DOWN
from lora_edu.experiments.nb15_intruders import OLD
from lora_edu.experiments.nb15_runs import ROADS, curve
from lora_edu.experiments.sweeps import SEEDS
from lora_edu.figures.drawing import Drawn, note, panels, slider, styled
from lora_edu.figures.looks import GRAY, METHODS, ORANGE
from lora_edu.figures.sliders import explore

# --- the three roads: the slider of the first screen -----------------------------------------------------------------

ROADS_ALT = (
    "Three orange curves, rank 8 turned down by its rate, its dial or its steps. To the right: what it learned. "
    "Upward: how much more it forgot than full fine-tuning, turned down the same way to equal learning; full is the "
    "black line at zero. Marks are runs, means over three seeds."
)
LOOKS = {"rate": ("#5C3700", "-s"), "dial": (ORANGE, "--o"), "steps": ("#C98420", "-.^")}
SAID = {"rate": "a smaller rate", "dial": "the dial", "steps": "fewer steps"}
LEAST = 0.6  # learned: below it nothing is drawn


def roads() -> dict:
    """Show the three roads with a switch between full fine-tuning's two runs."""
    options = [(f"rate {TURNED_DOWN[way]['lr']:g}", way) for way in (FULL, BOLD)]
    return explore(roads_view(), ROADS_ALT, rival=ipywidgets.SelectionSlider(options=options, description="full's run"))


@slider
def roads_view():
    """A view with one control, rival: which run of full fine-tuning is turned down."""
    figure = plt.figure(figsize=(9.2, 4.4))
    axes = figure.add_axes([0.09, 0.12, 0.88, 0.79])
    axes.axhline(0, color="black", lw=2)
    axes.text(LEAST + 0.004, 0.012, "full fine-tuning, turned down the same way", fontsize=10)
    axes.annotate("", (0.612, -0.19), (0.612, -0.06), arrowprops={"arrowstyle": "-|>", "color": GRAY, "lw": 2})
    axes.text(0.62, -0.13, "better", fontsize=11, color=GRAY, va="center")
    axes.set(xlim=(LEAST, 1.085), ylim=(-0.24, 0.2), xlabel="learned by rank 8: nats per byte won on plays")
    axes.set_ylabel("forgotten beyond full, nats per byte")
    axes.set_title("At equal learning: does rank 8 forget less than full fine-tuning?")
    lines, labels = {}, {}
    for name, (color, style) in LOOKS.items():
        (lines[name],) = axes.plot([], [], style, color=color, ms=7, animated=True)
        labels[name] = axes.text(0, 0, "", color=color, fontsize=10, va="center", animated=True)

    curves = {rival: {name: curve(name, LORA, rival) for name in ROADS} for rival in (FULL, BOLD)}

    def values(rival: str) -> dict:
        found = curves[rival]
        ends = ", ".join(f"by {SAID[name]} {line[-1, 1]:+.2f}" for name, line in found.items())
        rate = f"{TURNED_DOWN[rival]['lr']:g}"
        return found | {"readout": f"Beside full at rate {rate}, rank 8's own run forgot more by so much: {ends} nats."}

    def draw(now: dict) -> None:
        free = -1.0  # the labels stand at the ends of their lines, above each other
        for name in sorted(ROADS, key=lambda name: now[name][-1, 1]):
            shown = now[name][now[name][:, 0] >= LEAST]
            lines[name].set_data(*shown.T)
            learned, gap = shown[-1]
            free = max(gap, free + 0.024)
            labels[name].set_position((learned + 0.009, free))
            labels[name].set_text(f"{SAID[name]} {gap:+.2f}")

    return figure, values, draw, {"rival": FULL}


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
