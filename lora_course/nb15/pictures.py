"""Pictures of notebook 15: the curve of the first screen, three candidates side by side, and what leaves the line."""

import ipywidgets
import numpy as np

from lora_course.drawing.looks import GRAY, METHODS, PLUM, PURPLE, RED
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider, stage, ticks
from lora_course.nb15.lab_runs import (
    CANDIDATES,
    line,
    on_plays,
    over_the_line,
    parts_of,
    points,
    r_squared,
    rewards,
    says,
    times_at_equal,
)
from lora_course.running.sweeps import SEEDS

LOOKS = {
    "adapters": METHODS["lora"],
    "full fine-tuning": METHODS["full"],
    "short and hot": {"color": RED, "marker": "X"},
    "verses": {"color": PLUM, "marker": "D"},
    "one bias": {"color": GRAY, "marker": "P"},
    "a reward": {"color": PURPLE, "marker": "*"},
}
PLACES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.4)  # of the dot, along the KL
FORGOTTEN = (0.01, 0.03, 0.1, 0.3)


def kind(way: str) -> str:
    """Which of LOOKS a point has."""
    return way if way in LOOKS else "adapters" if "lora" in way else "full fine-tuning"


def marks(axes, some, which: str) -> None:
    """A mark a point: runs large, what was made of them small and pale."""
    for name, look in LOOKS.items():
        for whole, size, alpha in ((True, 7, 1.0), (False, 4, 0.5)):
            mine = [p for p in some if kind(p.way) == name and (p.part == "1") is whole]
            xs, ys = [getattr(p, which) for p in mine], [p.forgotten for p in mine]
            axes.plot(xs, ys, **look | {"ls": "", "ms": size}, alpha=alpha, label=name if whole and mine else None)


# --- the slider of the first screen ----------------------------------------------------------------------------------

CURVE_ALT = (
    "Two logarithmic axes: to the right the KL on plays, upward what was forgotten of addresses. Large marks are runs, "
    "small ones their shares and cuts: adapters and full fine-tuning lie in one narrow band along a straight line. A "
    "large dot sits on the line at the chosen KL."
)


def curve() -> dict:
    """Show the points with a slider that moves a dot along the line."""
    return explore(curve_view(), CURVE_ALT, kl=ipywidgets.SelectionSlider(options=PLACES, value=0.5, description="KL"))


@slider
def curve_view():
    """A view with one control, kl: how far the guesses on plays have moved."""
    figure, axes = stage(9.2, 4.4, (0.09, 0.13, 0.88, 0.78))
    some, law = on_plays(), line(on_plays(short=False))
    marks(axes, some, "kl")
    ends = np.array([0.03, 1.8])
    axes.plot(ends, [says(law, end) for end in ends], color=GRAY, lw=1.2, zorder=1)
    (dot,) = axes.plot([], [], "o", ms=15, mfc="none", mec="black", mew=2, animated=True)
    axes.legend(loc="upper left")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=(0.004, 0.8), ylabel="forgotten on addresses, nats per byte")
    axes.set_xlabel("KL(trained || base) on held-out plays, nats per byte")
    axes.set_title("Rates, ranks, steps, dials and cuts: one line")
    ticks(axes.xaxis, PLACES[::2])
    ticks(axes.yaxis, FORGOTTEN)

    def values(kl: float) -> dict:
        near = [p.forgotten for p in some if abs(np.log(p.kl / kl)) < 0.15]
        found = f"{len(near)} points near it: {min(near):.3f} to {max(near):.3f}" if near else "no point near it"
        there = says(law, kl)
        return {"at": (kl, there), "readout": f"At a KL of {kl:g} the line says {there:.3f} nats forgotten; {found}."}

    def draw(now: dict) -> None:
        dot.set_data(*[[each] for each in now["at"]])

    return figure, values, draw, {"kl": 0.5}


# --- figures ---------------------------------------------------------------------------------------------------------


@picture
def candidates_figure() -> Drawn:
    """Forgotten over the norm, over what was learned and over the KL: one panel each."""
    some, whole = on_plays(), on_plays(whole=True)
    figure, frames = panels(3, 10.4, 3.8, sharey=True)
    shown = {"norm": "norm, share of W's", "learned": "learned, nats", "kl": "KL on plays, nats"}
    said = []
    for axes, (which, label) in zip(frames, shown.items(), strict=True):
        marks(axes, some, which)
        axes.set(xscale="log", yscale="log", xlabel=label)
        found = r_squared(whole, which)
        axes.set_title(f"$R^2$ {found:.2f}")
        said.append(f"{label.partition(',')[0]} {found:.2f}")
        ticks(axes.xaxis, {"norm": (0.03, 0.1, 0.3), "learned": (0.5, 0.7, 1), "kl": (0.1, 0.3, 1)}[which])
    ticks(frames[0].yaxis, FORGOTTEN)
    frames[2].legend(loc="lower right")
    frames[0].set_ylabel("forgotten, nats")
    return figure, (
        f"Over the KL the points lie along a line, over the norm and the learning they scatter. R squared over the "
        f"{len(whole)} runs alone: {'; '.join(said)}. Large marks are runs, small ones their shares and cuts."
    )


def breakers() -> dict[str, tuple[list[float], list[float]]]:
    """Kind -> what its runs forgot as multiples of what the line says, and how much of their KL spills over.

    Spilled over: KL(base || trained) on addresses over the KL on the new text. Of a reward no such KL is stored.
    """
    law, found = line(on_plays(short=False)), {}
    for name in LOOKS:
        runs = [p for p in points() if kind(p.way) == name and p.part == "1" and p.forgotten > 0]
        found[name] = over_the_line(runs, law), [p.kl_old_back / p.kl for p in runs]
    return found | {"a reward": (over_the_line(rewards(), law), [])}


@picture
def breakers_figure() -> Drawn:
    """What each kind of run forgot, as a multiple of what the line of plays says at its KL."""
    figure, (axes,) = panels(1, 8.6, 3.4)
    rows, said = breakers(), []
    for place, (name, (times, spilled)) in enumerate(rows.items()):
        axes.plot(times, [place] * len(times), **LOOKS[name] | {"ls": "", "ms": 8, "mec": "white", "mew": 0.6})
        note(axes, f"{np.median(times):.1f}", (max(times), place), (10, 0))
        share = f"{np.median(spilled):.2f}" if spilled else "-"
        axes.text(45, place, share, ha="center", va="center")
        said.append(f"{name} {np.median(times):.1f} ({len(times)}), {share}")
    axes.axvline(1, color=GRAY, ls="--", lw=1.4)
    axes.set(xscale="log", xlim=(0.5, 60), yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -1.1))
    axes.set_xlabel("forgotten, as a multiple of what the line says at this KL")
    axes.text(45, -0.6, "spills over", ha="center", va="bottom")
    ticks(axes.xaxis, (0.5, 1, 2, 5, 10, 20))
    return figure, (
        "A bias and a reward forget many times what the line says, some hot short runs somewhat more. A row a kind, a "
        f"mark a run; at 1 the line is right. Median multiple, runs, what spills over: {'; '.join(said)}."
    )


def candidates_table() -> tuple[list[str], list[list[str]]]:
    """Header and rows: R squared of each candidate over runs, and over those of each kind."""
    whole = on_plays(whole=True)
    kinds = [[p for p in whole if kind(p.way) == name] for name in ("adapters", "full fine-tuning")]
    told = {name: [r_squared(some, which) for some in (whole, *kinds)] for name, which in CANDIDATES.items()}
    rows = [[name, *(f"{found:.2f}" for found in each)] for name, each in told.items()]
    counts = f"{len(whole)} runs", f"{len(kinds[0])} of adapters", f"{len(kinds[1])} in full"
    return ["R squared of log forgotten", *counts], rows


COMPARED = {"rank 8": ("lora r8, lr 0.01", "1"), "rank 8 at 0.003": ("lora r8, lr 0.003", "1")}
COMPARED |= {"rank 1": ("lora r1, lr 0.02", "1"), "rank 64": ("lora r64, lr 0.003", "1")}
COMPARED |= {"rank 8, turned down to half": ("lora r8, lr 0.01", "0.5")}


@picture
def equal_figure() -> Drawn:
    """How many times as much runs of adapters forgot as full fine-tuning, at equal learning and KL: a mark a seed."""
    figure, (axes,) = panels(1, 8.6, 3.3)
    look, said = LOOKS["adapters"] | {"ls": "", "ms": 8}, {}
    for held, said_as, fill in (("learned", "learning", "white"), ("kl", "KL", look["color"])):
        found = [times_at_equal(some, held, part) for some, part in COMPARED.values()]
        for place, times in enumerate(found):
            axes.plot(times, [place] * len(times), **look | {"mfc": fill})
        said[held] = ", ".join(f"{np.mean(times):.2f}" for times in found)
        note(axes, f"at equal {said_as}", (np.mean(found[0]), 0), (0, 14), "center")
    axes.axvline(1, color=GRAY, ls="--", lw=1.4)
    axes.set(xscale="log", yticks=range(len(COMPARED)), yticklabels=COMPARED, ylim=(len(COMPARED) - 0.5, -0.8))
    axes.set_xlabel("forgotten, as a multiple of full fine-tuning turned down by the dial")
    ticks(axes.xaxis, (0.8, 1, 1.5, 2, 3, 4))
    return figure, (
        "At equal learning whole adapters forgot far more, at equal KL about as much. A row a run, a mark a seed; "
        f"hollow at equal learning, filled at equal KL. Means of the rows: {said['learned']}; {said['kl']}."
    )


def parts_table(way: str) -> list[list[str]]:
    """A row for each cut of a run, the mean of its seeds: lost on plays, won back on addresses, place over the line."""
    law, rows = line(on_plays(short=False)), []
    runs = [parts_of(f"{way}, seed {seed}") for seed in SEEDS]
    for name in ("0.75", "without intruders", "half of intruders", "3/4 of the rest"):
        lost = np.mean([parts["1"].learned - parts[name].learned for parts in runs])
        won = np.mean([parts["1"].forgotten - parts[name].forgotten for parts in runs])
        over = np.mean(over_the_line([parts[name] for parts in runs], law))
        rows.append([name, f"{lost:.3f}", f"{won:.3f}", f"{over:.2f}"])
    return rows
