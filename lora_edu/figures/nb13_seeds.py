"""The pictures of notebook 13 in which luck shows: losses beside a tolerance, and shares of right pairs."""

from statistics import mean
from textwrap import fill

from lora_edu.experiments.nb13 import ORDERS, SEEDS
from lora_edu.experiments.nb13_trained import interval, lora_behind_full, luck, qlora_behind_lora, shares
from lora_edu.figures.drawing import Drawn, listed, note, panels, picture
from lora_edu.figures.looks import BLUE, GRAY, MARKS, METHODS, ORANGE
from lora_edu.figures.nb13_claims import CLAIMS, SAID

LOOKS = {True: BLUE, False: ORANGE, None: GRAY}
ASKED = {"statement": 'statements: "Thou art", "You are"', "question": 'questions: "Art thou", "Are you"'}
ROWS = {  # arm -> its name, and how it looks
    "counted": ("counts of word pairs", {"color": BLUE, "marker": "v"}),
    "base": ("base, not trained", METHODS["control"]),
    "lora": ("LoRA", METHODS["lora"]),
    "qlora": ("QLoRA", METHODS["qlora"]),
    "full": ("full", METHODS["full"]),
}


@picture
def gaps_picture() -> Drawn:
    """A bar for each interval, a mark for each seed, a line at the tolerance, and the word of the rule."""
    figure, frames = panels(2, 9.8, 3.4)
    told = []
    measured = {"LoRA minus full training": (6, lora_behind_full()), "QLoRA minus LoRA": (13, qlora_behind_lora())}
    for axes, (who, (number, found)) in zip(frames, measured.items(), strict=True):
        answers = CLAIMS[number - 1].answers
        for row, (seeds, held) in enumerate(zip(found.values(), answers, strict=True)):
            axes.plot(interval(seeds), [row, row], color=LOOKS[held], lw=7, alpha=0.5, solid_capstyle="butt")
            axes.plot(seeds, [row] * len(seeds), "|", color="black", ms=9)
            axes.text(1.02, row, SAID[held], va="center", transform=axes.get_yaxis_transform())
        axes.axvline(0, color=GRAY, lw=0.8)
        axes.axvline(1, color=GRAY, ls="--", lw=1.4)
        note(axes, "tolerance", (1, -0.6), (4, 0))
        axes.set(yticks=range(len(found)), yticklabels=[fill(name, 20) for name in found])
        axes.set(ylim=(len(found) - 0.5, -0.8), xlabel="1 = the tolerance of that text; right is worse", title=who)
        said = [f"{setting}: {SAID[held]}" for setting, held in zip(found, answers, strict=True)]
        told.append(f"{who}: {', '.join(said)}")
    as_good = CLAIMS[12].answers
    return figure, (
        f"QLoRA does as well as LoRA in {as_good.count(True)} of {len(as_good)} settings, fails in "
        f"{as_good.count(False)}, and {as_good.count(None)} cannot tell. {'; '.join(told)}. Bars: 95% intervals."
    )


def finding() -> str:
    """What both orders say, from the numbers."""
    counted, full, lora = (f"{mean(shares(arm, 'question')):.0%}" for arm in ("counted", "full", "lora"))
    return (
        f"Counting gets {counted} of the questions, full training {full}, LoRA {lora}; "
        f"the untrained base gets {mean(shares('base', 'statement')):.0%} of the statements"
    )


@picture
def pairs_picture() -> Drawn:
    """A mark for each seed; the mean as a number at the right."""
    figure, frames = panels(2, 9.6, 3.2, sharex=True, sharey=True)
    said = []
    for axes, order in zip(frames, ORDERS, strict=True):
        means = {}
        for row, (arm, (name, look)) in enumerate(ROWS.items()):
            found = shares(arm, order)
            means[name] = mean(found)
            axes.plot([0, 1], [row, row], color="#DDDDDD", lw=0.8, zorder=0)
            axes.plot(found, [row] * len(found), **look | MARKS, ms=8, alpha=0.85)
            axes.text(1.14, row, f"{means[name]:.2f}", ha="right", va="center", fontsize=10)
        axes.axvline(0.5, color=GRAY, ls=":", lw=1.4)
        axes.text(0.5, -0.75, "a coin", ha="center", va="bottom", fontsize=10, color=GRAY)
        axes.text(1.14, -0.75, "mean", ha="right", va="bottom", fontsize=10, color=GRAY)
        axes.set(yticks=range(len(ROWS)), yticklabels=[name for name, _ in ROWS.values()], xlim=(-0.03, 1.15))
        axes.set(ylim=(len(ROWS) - 0.5, -0.8), xlabel="share of pairs that are right", xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_title(ASKED[order], pad=14)
        said.append(f"{order}s: {listed(means, '.2f')}")
    return figure, f"{finding()}. A mark is a seed; means: {'; '.join(said)}."


def luck_table() -> list[list[str]]:
    """Full minus LoRA, a row for each order: over the pairs of each seed, in standard errors, and over the seeds."""
    rows = []
    for order in ORDERS:
        of_pairs = "   ".join(f"{luck('full', 'lora', order, seed):+.1f}" for seed in SEEDS)
        low, high = interval([a - b for a, b in zip(shares("full", order), shares("lora", order), strict=True)])
        rows.append([f"{order}s", of_pairs, f"{low:+.2f} to {high:+.2f}"])
    return rows
