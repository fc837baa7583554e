"""Pictures of notebook 16: what a reward makes of a text, and e's against the divergence from the base."""

import textwrap
from collections.abc import Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_course.drawing.looks import BLUE, METHODS, ORANGE, RED
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider
from lora_course.nb16 import lab_runs as records
from lora_course.nb16.lab import SAMPLE
from lora_course.running.sweeps import Runs

# --- the training, step by step: the slider of the first screen -------------------------------------------------------

FILM_ALT = (
    "What the model writes after “My fellow citizen”, with every e red and underlined. Below it four curves over the "
    "training steps: the share of e's, the distance from the base, the share of real words, the loss on addresses. "
    "Solid: with a price on leaving the base. Dotted: without. A dot marks the step."
)
SHOWN = {  # title of a small frame -> what it shows, and by what it is multiplied
    "e's, % of bytes": ("e", 100),
    "KL, nats a byte": ("kl", 1),
    "real words, %": ("words", 100),
    "loss on addresses": ("addresses", 1),
}


def film() -> dict:
    """Show the film with a slider over the steps and a switch for the price."""
    steps = ipywidgets.SelectionSlider(options=list(records.looks_of("film")), description="training steps")
    price = ipywidgets.Checkbox(value=True, description="a price on leaving the base")
    return explore(film_view(), FILM_ALT, step=steps, price=price)


@slider
def film_view():
    """A view with two controls: step, and price, whether there is one."""
    films = {True: records.looks_of("film"), False: records.looks_of("no price")}  # whether leaving has a price
    figure = plt.figure(figsize=(9.4, 3.5))
    look = {"family": "monospace", "fontsize": 12, "va": "top", "linespacing": 1.3, "animated": True}
    plain, letters, lines = (figure.text(0.02, y, "", **look) for y in (0.97, 0.97, 0.962))
    for marks in (letters, lines):
        marks.set(color=RED, weight="bold")
    dots = {}
    for place, (title, (name, times)) in enumerate(SHOWN.items()):
        axes = figure.add_axes([0.06 + 0.245 * place, 0.14, 0.185, 0.4])
        for price, style in ((True, "-"), (False, ":")):
            axes.plot(list(films[price]), [times * look[name] for look in films[price].values()], style, color=ORANGE)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="steps", ylim=(0, None))
        (dots[name],) = axes.plot([], [], "o", color="black", ms=8, clip_on=False, animated=True)

    def values(step: int, price: bool) -> dict:
        step = max(at for at in films[price] if at <= step)  # a run that has ended stands still
        look = films[price][step]
        said = (
            f"After {step} steps: {look['e']:.1%} e's, KL {look['kl']:.2f} nats a byte, {look['words']:.0%} real "
            f"words, loss on addresses {look['addresses']:.2f}."
        )
        return {"look": look, "step": step, "readout": said}

    def draw(now: dict) -> None:
        text = in_lines(SAMPLE + now["look"]["sample"])
        marked = [k >= len(SAMPLE) and letter in "eE" for k, letter in enumerate(text)]  # what the model wrote itself
        blank = ["\n" if letter == "\n" else " " for letter in text]
        pairs = list(zip(text, blank, marked, strict=True))
        plain.set_text("".join(space if e else letter for letter, space, e in pairs))
        letters.set_text("".join(letter if e else space for letter, space, e in pairs))
        lines.set_text("".join("_" if e else space for _, space, e in pairs))
        for name, times in SHOWN.values():
            dots[name].set_data([now["step"]], [times * now["look"][name]])

    return figure, values, draw, {"step": 0, "price": True}


def in_lines(text: str, width: int = 72, most: int = 5) -> str:
    """The sample in at most so many lines. A byte that is no letter of a font is a dot."""
    plain = "".join(c if 32 <= ord(c) < 127 else " " if c == "\n" else "·" for c in text)
    return "\n".join(textwrap.wrap(plain, width)[:most])


def film_rows(way: str, steps: Sequence[int], columns: dict[str, str]) -> list[list[str]]:
    """A row for each of these steps of a run: the step, and what was measured then, each in its format."""
    looks = records.looks_of(way)
    return [[str(step), *(f"{looks[step][name]:{form}}" for name, form in columns.items())] for step in steps]


def two_texts() -> str:
    """What the base with one bias writes, and a run of full fine-tuning with its KL and as many e's: A and B."""
    runs, told = {"A": records.all_runs().where(way="bias -3")[0], "B": records.at_best("full")[1]}, []
    for name, run in runs.items():
        text = in_lines(SAMPLE + run.sample, 80)
        told.append(f"{name}: KL {run.kl:.2f}, {text.count('e') - SAMPLE.count('e')} e's\n{text}")
    return "\n\n".join(told)


# --- e's against divergence ------------------------------------------------------------------------------------------

MARKS = {"lora r1": {"ms": 5}, "lora r8": {"ms": 8}}


@picture
def frontier_figure(ways: dict, reach: float = 0.2) -> Drawn:
    """Share of e's against KL: one bias, the best possible, a mark for each run, and the filmed run step by step."""
    figure, (axes,) = panels(1, 8.8, 4.4)
    bias, picked = records.bias_line(), records.picked_line()
    axes.plot(bias[:, 0], 100 * bias[:, 1], **METHODS["control"])
    axes.plot(picked[:, 0], 100 * picked[:, 1], color=BLUE, ls="--")
    axes.text(0.043, 6.6, "one bias on e, no training", color=METHODS["control"]["color"])
    axes.text(0.004, 1.2, "best possible:\nthe base's own\ntexts, weighted", color=BLUE)
    path = records.looks_of("film")
    axes.plot([look["kl"] for look in path.values()], [100 * look["e"] for look in path.values()], color=ORANGE, lw=1)
    for step, up in ((12, 7), (20, 7), (100, -14)):
        note(axes, f"step {step}", (path[step]["kl"], 100 * path[step]["e"]), (4, up), color=ORANGE, fontsize=9)
    for way, runs in ways.items():
        look = METHODS[way.split()[0]] | {"ls": ""} | MARKS.get(way, {})
        axes.plot([run.kl for run in runs], [100 * run.e for run in runs], **look, label=f"{way}, 40 steps")
    axes.legend(loc="upper right")
    axes.set(xlim=(0, reach), ylim=(0, None), xlabel="KL from the base, nats a byte", ylabel="e's, % of bytes")
    at = [[np.interp(kl, *line.T) for line in (bias, picked)] for kl in (0, 0.05)]
    return figure, (
        "Trained models end a little below one bias, and far above the best possible. To the right KL, upward the "
        f"share of e's. At a KL of 0.05 one bias, dotted, leaves {at[1][0]:.1%} e's; the best possible, dashed, "
        f"{at[1][1]:.1%}. The two begin at {at[0][0]:.1%} and {at[0][1]:.1%}, because they go on from other places "
        "of the addresses; marks share the bias's. A mark for each run; a thin line, rank 1 by steps, turns back at 30."
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def beside_rows(ways: dict) -> list[list[str]]:
    """A row for each way: KL and e's, those of one bias and of the best possible at that KL; means over seeds."""
    lines = (records.bias_line(), records.picked_line())
    return [
        [way, *_kl_and_e(runs), *(f"{records.at_kl(line, runs).mean():.1%}" for line in lines)]
        for way, runs in ways.items()
    ]


def way_rows(ways: dict) -> list[list[str]]:
    """A row for each way: KL, e's, how far each seed came from one bias to the best possible, and its real words."""
    rows, line = [], records.bias_line("words")
    for way, runs in ways.items():
        kept = interval(-records.below(line, runs, "words"))
        rows.append([way, *_kl_and_e(runs), percents(records.way_there(runs)), kept])
    return rows


def percents(shares: np.ndarray) -> str:
    return " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares))))


def spelled_rows(ways: dict, temperatures: Sequence[float]) -> list[list[str]]:
    """Ways, and biases on e at the KL of the first: KL, e's, real words, and what both charge 100 bytes."""
    names = ("kl", "e", "words", "charged")
    found = {way: [records.mean(runs, name) for name in names] for way, runs in ways.items()}
    for temperature in temperatures:
        lines = (records.bias_line(name, temperature) for name in names)
        runs = next(iter(ways.values()))
        found[f"one bias, temperature {temperature:g}"] = [records.at_kl(line, runs).mean() for line in lines]
    return [
        [row, f"{kl:.2f}", f"{e:.1%}", f"{words:.1%}", f"{100 * charged:.1f}"]
        for row, (kl, e, words, charged) in found.items()
    ]


def rank_rows(ways: dict) -> list[list[str]]:
    """A row for each way: best rate, KL, e's, and how far below one bias it ends, in points."""
    rows = []
    for way, runs in ways.items():
        gaps = interval(records.below(records.bias_line(), runs))
        rows.append([way, f"{runs[0].lr:g}", *_kl_and_e(runs), gaps])
    return rows


def _kl_and_e(runs: Runs) -> tuple[str, str]:
    return f"{records.mean(runs, 'kl'):.3f}", f"{records.mean(runs, 'e'):.1%}"


def interval(gaps: np.ndarray) -> str:
    """The smallest and the largest, in points: 1% of all bytes."""
    return " to ".join(dict.fromkeys(f"{100 * gap:+.2f}" for gap in (min(gaps), max(gaps))))
