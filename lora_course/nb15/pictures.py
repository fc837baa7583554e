"""Pictures of notebook 15: runs turned down by the dial and by three roads, and what cutting intruders brings back."""

import ipywidgets
import numpy as np

from lora_course.drawing.looks import GRAY, METHODS
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider, stage
from lora_course.nb15.lab import BOLD, FINE_DIAL, FULL, LORA
from lora_course.nb15.lab_runs import ROADS, at_the_run, dialed, mean_road
from lora_course.running.sweeps import SEEDS

# --- the dial: the slider of the first screen -------------------------------------------------------------------------

DIAL_ALT = (
    "Two curves, rank 8 and full fine-tuning: to the right what was learned, upward what was forgotten, from the base "
    "to the run's end. Both are flat at first and steep at last. Two marks at the chosen setting of the dial, nearly "
    "level. Dotted lines at 0.65 and 0.95 nats learned. Means over three seeds."
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
    figure, axes = stage(9.2, 4.2, (0.09, 0.13, 0.88, 0.78))
    points, marks = {way: dialed(way) for way in DIALED}, {}
    for way, (name, look) in DIALED.items():
        axes.plot(*np.array([(0, 0), *points[way].values()]).T, **look | {"marker": ""}, label=name)
        (marks[way],) = axes.plot([], [], **look | {"ls": ""}, ms=11, animated=True)
    (level,) = axes.plot([], [], color=GRAY, lw=1, zorder=1, animated=True)
    for learned in (0.65, 0.95):  # section 2 asks there
        axes.axvline(learned, color=GRAY, lw=1, ls=":")
        note(axes, f"{learned}", (learned, 0.31), (3, 0), color=GRAY)
    axes.legend(loc="upper left")
    axes.set(xlim=(0, 1.24), ylim=(-0.02, 0.32), xlabel="learned: nats per byte won on plays")
    axes.set_ylabel("forgotten: nats per byte lost on addresses")
    axes.set_title("Two runs, turned down by one dial")

    def values(setting: float) -> dict:
        now = {way: points[way][setting] for way in DIALED}
        told = (f"{name} learned {now[way][0]:.2f}" for way, (name, _) in DIALED.items())
        more = now[FULL][1] - now[LORA][1]  # how much each forgot is asked below
        return now | {"readout": f"At {setting:g}: {', '.join(told)} and forgot {more:.3f} more."}

    def draw(now: dict) -> None:
        level.set_data(*np.array([now[way] for way in DIALED]).T)
        for way, mark in marks.items():
            mark.set_data(*[[each] for each in now[way]])

    return figure, values, draw, {"setting": 0.5}


@picture
def roads_figure() -> Drawn:
    """A panel for each of ROADS: rank 8 and both runs of full fine-tuning, a mark for each run or setting."""
    figure, frames = panels(3, 10.2, 3.8, sharex=True, sharey=True)
    bold = METHODS["full"] | {"mfc": "white", "ls": "-", "lw": 1}
    looks = {BOLD: ("full at .002", bold), FULL: ("full at .001", METHODS["full"]), LORA: DIALED[LORA]}
    (end, forgot), told = mean_road("rate", LORA)[-1], []
    for axes, name in zip(frames, ROADS, strict=True):
        for way, (label, look) in looks.items():
            axes.plot(*mean_road(name, way).T, **look, label=label)
        axes.axvline(end, color=GRAY, lw=1, zorder=0)
        how = "by steps" if name == "steps" else f"by the {name}"
        axes.set(xlim=(0.45, 1.15), ylim=(0, 0.48), title=how)
        theirs = (forgot - np.mean(at_the_run(name, LORA, way)) for way in (FULL, BOLD))
        told.append(f"{how} {' and '.join(f'{each:.2f}' for each in theirs)}")
    frames[0].legend(loc="upper left")
    frames[0].set_ylabel("forgotten on addresses, nats")
    frames[1].set_xlabel("learned on plays, nats per byte")
    return figure, (
        "By the rate and by the dial rank 8 ends above both full runs, by steps far below one of them. To the right "
        "what was learned, upward what was forgotten, means over three seeds. The upright line marks rank 8's own run, "
        f"which forgot {forgot:.2f}. Full fine-tuning at .001 and .002, turned down to it: {'; '.join(told)}."
    )


# --- intruders -------------------------------------------------------------------------------------------------------

COUNTED = {
    "rank 8": (LORA, "trained"),
    "its strengths, in random directions": (LORA, "turned"),
    "its norm, 256 strengths alike": (LORA, "spread"),
    "full fine-tuning": (FULL, "trained"),
}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
CUT_LOOKS = {"intruders": METHODS["lora"], "dial": {"color": "black", "marker": "o", "ls": "-"}}


def count_table(arms: dict) -> list[list[str]]:
    """A row for each of COUNTED: how many of its 240 candidates are new at each threshold; means over seeds."""
    rows = []
    for name, (way, kind) in COUNTED.items():
        runs = [arms[f"cosines of {way}, seed {seed}"][kind] for seed in SEEDS]
        rows.append([name, *(f"{np.mean([np.searchsorted(run, old) for run in runs]):.0f}" for old in THRESHOLDS)])
    return rows


@picture
def cuts_figure(arms: dict) -> Drawn:
    """What cutting down brings back on addresses, and what it costs on plays: intruders, all, and a control."""
    figure, (axes,) = panels(1, 7.4, 3.9)
    for name, look in CUT_LOOKS.items():
        line = cut_line(arms, name)
        axes.plot(*line.T, **look)
        note(axes, "all of the update" if name == "dial" else name, line[2], (10, -10), color=look["color"])
    control = cut_table(arms)["old directions, 0.25"][:2]
    axes.plot(*control, **METHODS["control"], ms=9)
    note(axes, "old directions, by the norm of the quarter", control, (8, 0), color=GRAY)
    axes.axhline(0, color=GRAY, lw=1, zorder=0)
    axes.set(xlabel="lost again on plays, nats per byte", ylabel="won back on addresses, nats per byte")
    lost, won = cut_line(arms, "intruders")[2]
    dial = np.interp(lost, *cut_line(arms, "dial").T)
    return figure, (
        f"At equal cost, all of the update wins back more than intruders. For {lost:.3f} lost on plays, intruders win "
        f"back {won:.3f} on addresses, all of the update {dial:.3f}; old directions, by the quarter's norm, make them "
        "worse. To the right what plays lose again, upward what addresses win back; marks: a tenth, a quarter, a half."
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
