"""Pictures of notebook 17: what each way makes of one telegram, and F1 against the pairs that were seen."""

import re
from collections.abc import Mapping
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from lora_course.drawing.looks import BLUE, GRAY, METHODS, ORANGE
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, picture, slider, ticks
from lora_course.nb17.lab_telegrams import Pairs, gaps, interval, put_back

# --- one telegram, written out five times: the slider of the first screen --------------------------------------------

ROWS = {  # what stands before an answer -> the arm that gave it
    "asked": "asked, long",
    "40 examples": "40 examples, seed 0",
    "64 pairs": "64 pairs, seed 0",
    "600 pairs": "600 pairs, seed 0",
}
TELEGRAM_ALT = (
    "A telegram, and below it what the model writes: asked, after 40 examples in its prompt, after LoRA on 64 and on "
    "600 pairs. Last, what the president said. Small words put back where he had them are bold and underlined."
)


def telegrams(arms: Mapping[str, dict], rows: Pairs) -> None:
    """Show the held-out telegrams with a slider. arms: of the stored results; rows: the pairs that were tested."""
    which = ipywidgets.IntSlider(1, 1, len(arms[ROWS["asked"]]["answers"]), description="telegram")
    explore(telegram_view(arms, rows), TELEGRAM_ALT, which=which)


@slider
def telegram_view(arms: Mapping[str, dict], rows: Pairs):
    """A view with one control: which of the telegrams, counted from 1."""
    figure = plt.figure(figsize=(9.4, 3.3))
    names = ["telegram", *ROWS, "he said"]
    heights = np.linspace(0.9, 0.08, len(names))
    look: dict[str, Any] = {"family": "monospace", "fontsize": 9.5, "va": "center", "animated": True}
    drawn = []
    for name, height in zip(names, heights, strict=True):
        figure.text(0.01, height, name, va="center", color=GRAY)
        plain = figure.text(0.13, height, "", **look)
        bold = figure.text(0.13, height, "", weight="bold", color=ORANGE, **look)
        line = figure.text(0.13, height - 0.012, "", weight="bold", color=ORANGE, **look)
        drawn.append((plain, bold, line))

    def values(which: int) -> dict:
        short, sentence = rows[which - 1]
        said = [short, *(arms[arm]["answers"][which - 1] for arm in ROWS.values()), sentence]
        marked = [right_words(short, text, sentence) for text in said]
        found = ", ".join(f"{name} {marks.count(True)}" for name, marks in zip(names[1:-1], marked[1:-1], strict=True))
        readout = f"Telegram {which}. Small words put back right, of {marked[-1].count(True)}: {found}."
        return {"texts": [layers(*pair) for pair in zip(said, marked, strict=True)], "readout": readout}

    def draw(now: dict) -> None:
        for artists, texts in zip(drawn, now["texts"], strict=True):
            for artist, text in zip(artists, texts, strict=True):
                artist.set_text(text)

    return figure, values, draw, {"which": 1}


def right_words(short: str, answer: str, sentence: str) -> list[bool]:
    """Of each word of an answer, whether it is a small word put back where the president had it."""
    due, found = put_back(short, sentence), []
    for one in gaps(short, answer):
        found.append(due[one] > 0)
        due[one] -= found[-1]
    return found


def layers(text: str, marked: list[bool], width: int = 94) -> tuple[str, str, str]:
    """A line in three layers: the plain words, the marked ones, and what underlines those; cut at the width."""
    shown = text if len(text) <= width else text[: width - 2] + " …"
    places = [word.span() for word in re.finditer(r"[a-z][a-z'-]*", text.lower())]
    mark = np.zeros(max(len(text), 1), dtype=bool)
    for (start, end), right in zip(places, marked, strict=True):
        mark[start:end] = right
    pairs = list(zip(shown, mark, strict=False))
    plain = "".join(" " if right else letter for letter, right in pairs)
    bold = "".join(letter if right else " " for letter, right in pairs)
    return plain, bold, "".join("_" if right else " " for _, right in pairs)


# --- F1 against pairs ------------------------------------------------------------------------------------------------


def marks(arms: Mapping[str, dict], name: str, what: str = "addresses") -> list:
    """What was measured of an arm, a value for each seed."""
    return [arm[what] for key, arm in arms.items() if re.fullmatch(rf"{name}, seed \d", key)]


def of_seeds(arms: Mapping[str, dict], name: str) -> np.ndarray:
    """The counts of an arm with all its seeds: (n_seeds, n, 3)."""
    return np.array(marks(arms, name, "counts"))


@picture
def pairs_figure(arms: Mapping[str, dict], rules: Mapping[int, np.ndarray], one_word: np.ndarray) -> Drawn:
    """F1 over the pairs that each way saw. rules: number of pairs -> its counts (n, 3); one_word: "the" everywhere."""
    figure, (axes,) = panels(1, 9.0, 4.4)
    ways = {
        "LoRA": ({n: of_seeds(arms, f"{n} pairs") for n in (40, 64, 600)}, METHODS["lora"]),
        "examples in the prompt": (
            {n: of_seeds(arms, f"{n} examples") for n in (5, 40)},
            {"color": BLUE, "marker": "o"},
        ),
        "the rule, no model": (rules, METHODS["control"]),
    }
    said = []
    for name, (counted, look) in ways.items():
        found = np.array([interval(each) for each in counted.values()]).T  # F1, low, high
        places = list(counted)
        axes.plot(places, found[0], **look)
        axes.vlines(places, *found[1:], color=look["color"], lw=1.2)
        by, side = ((8, -10), "left") if name == "examples in the prompt" else ((-8, 12), "right")
        note(axes, name, (places[-1], found[0][-1]), by, side, color=look["color"])
        told = [f"{value:.0f} ({place:,})" for place, value in zip(places, found[0], strict=True)]
        said.append(f"{name} {', '.join(told)}")
    floor = interval(one_word)[0]
    axes.axhline(floor, color=GRAY, lw=1)
    note(axes, '"the" before every word', (28_000, floor), (0, -9), "right", color=GRAY)
    axes.set(xscale="log", xlabel="pairs that were seen", ylabel="F1 of the small words, %", ylim=(0, None))
    ticks(axes.xaxis, (5, 40, 64, 600, 5_000, 28_000), ",g")
    few, many = interval(ways["LoRA"][0][600])[0], interval(rules[max(rules)])[0]
    return figure, (
        f"LoRA reaches {few:.0f}% with 600 pairs, the rule {many:.0f}% with {max(rules):,} sentences. "
        f"F1 (pairs): {'; '.join(said)}; 'the' before every word {floor:.0f}. Over the pairs that were seen, on a "
        "logarithmic axis; bars are 95% intervals of other sentences."
    )
