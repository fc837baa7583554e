"""Pictures of notebook 16: what a reward makes of a text, and e's against the divergence from the base."""

import textwrap
from collections.abc import Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_course.drawing.looks import BLUE, GREEN, METHODS, ORANGE, PURPLE, RED
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider
from lora_course.nb16 import lab_runs as records
from lora_course.nb16.lab import SAMPLE

# --- the training, step by step: the slider of the first screen -------------------------------------------------------

FILM_ALT = (
    "What the model writes after “My fellow citizen”, with every e red and underlined. Below it four curves over the "
    "training steps: the share of e's, the distance from the base, the share of real words, the loss on addresses. "
    "Solid: with a price on leaving the base. Dotted: without. A dot marks the step."
)
SHOWN = {  # title of a small frame -> what it shows, and by what it is multiplied
    "e's, % of bytes": ("e", 100),
    "distance from base (KL)": ("kl", 1),
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
            curve = [times * look[name] for look in films[price].values()]
            axes.plot(list(films[price]), curve, style, color=ORANGE, label="with a price" if price else "without")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="steps", ylim=(0, None))
        if name == "addresses":
            axes.legend(fontsize=8)
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


# --- e's against divergence -------------------------------------------------------------------------------------------

KINDS = {  # way -> its name, its look, the same trained for 100 steps, and by how many points its name is moved
    "lora r1": ("rank 1", METHODS["lora"], "film", (-12, 0)),
    "constants": ("256 constants", {"color": BLUE, "marker": "v"}, "constants, longer", (10, -6)),
    "by last byte": ("by the last byte", {"color": PURPLE, "marker": "D"}, "by last byte, longer", (24, 0)),
}


@picture
def frontier_figure() -> Drawn:
    """Share of e's against KL: one bias, the best possible, and each way after 40 steps and after 100."""
    figure, (axes,) = panels(height=4.2)
    gray = METHODS["control"]["color"]
    axes.plot(*(records.bias_line() * (1, 100)).T, color=gray, ls=":")
    axes.plot(*(records.picked_line() * (1, 100)).T, color=GREEN, ls="--")
    axes.text(0.06, 5.8, "one bias on e, no training", color=gray)
    axes.text(0.042, 0.4, "best possible: the base's\nown texts, weighted", color=GREEN)
    axes.text(0.13, 6, "filled: after 40 steps\nhollow: after 100", color=gray)
    told = []
    for way, (name, look, longer, by) in KINDS.items():
        runs = map(records.at_best, (way, longer))
        ends = [(records.mean(some, "kl"), 100 * records.mean(some, "e")) for some in runs]
        axes.plot(*zip(*ends, strict=True), color=look["color"], lw=1)
        for (kl, e), inside in zip(ends, (look["color"], "white"), strict=True):
            axes.plot(kl, e, **look | {"ls": "", "ms": 9, "mfc": inside})
        note(axes, name, ends[0], by, "right" if by[0] < 0 else "left", color=look["color"])
        told.append(f"{name} {ends[0][1]:.1f}% at {ends[0][0]:.3f}, {ends[1][1]:.1f}% at {ends[1][0]:.3f}")
    axes.set(xlim=(0.04, 0.16), ylim=(0, 7), xlabel="KL from the base, nats a byte", ylabel="e's, % of bytes")
    return figure, (
        "In 40 steps numbers that know no word come as far below one bias as rank 1, or farther. E's at a KL: "
        f"40 steps filled, 100 hollow: {'; '.join(told)}. Dotted one bias, dashed the best."
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def rank_rows(ways: dict) -> list[list[str]]:
    """A row for each way at its best rate: KL, real words, e's, and how far below one bias it ends, in points."""
    rows = []
    for way, runs in ways.items():
        kl, words, e = (records.mean(runs, which) for which in ("kl", "words", "e"))
        gaps = interval(records.below(records.bias_line(), runs))
        rows.append([way, f"{kl:.3f}", f"{words:.0%}", f"{e:.1%}", gaps])
    return rows


def interval(gaps: np.ndarray) -> str:
    """The smallest and the largest, in points: 1% of all bytes."""
    return " to ".join(dict.fromkeys(f"{100 * gap:+.2f}" for gap in (min(gaps), max(gaps))))
