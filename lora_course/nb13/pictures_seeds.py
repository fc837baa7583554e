"""The pictures of notebook 13 in which luck shows: losses beside a tolerance, and shares of right pairs."""

from statistics import mean
from textwrap import fill

from lora_course.drawing.looks import BLUE, GRAY, MARKS, METHODS, ORANGE
from lora_course.drawing.style import Drawn, note, panels, picture
from lora_course.nb13.lab import MID, SEEDS
from lora_course.nb13.lab_trained import interval, lora_behind_full, luck, luck_by_verb, qlora_behind_lora, shares
from lora_course.nb13.pictures_claims import CLAIMS, SAID

LOOKS = {True: BLUE, False: ORANGE, None: GRAY}
TITLES = {"statement": 'statements: "Thou art"', "question": 'questions: "Art thou"'}
TITLES |= {f"question{MID}": 'in mid-line: "..., art thou"'}
ROWS = {  # arm -> its name, and how it looks
    "counted": ("counts, capitals folded", {"color": BLUE, "marker": "v"}),
    "cased": ("counts, capitals kept", {"color": BLUE, "marker": "^"}),
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
    measured = {"QLoRA minus LoRA": (13, qlora_behind_lora()), "LoRA minus full training": (6, lora_behind_full())}
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
    """What questions say in both forms, from the numbers."""
    start, mid = (
        [f"{mean(shares(arm, order)):.0%}" for arm in ("counted", "full", "lora")]
        for order in ("question", f"question{MID}")
    )
    return (
        f"Counting, capitals folded, gets {start[0]} of the questions, full training {start[1]}, LoRA {start[2]}; "
        f"in mid-line {', '.join(mid)}"
    )


@picture
def pairs_picture() -> Drawn:
    """A mark for each seed; the mean as a number at the right."""
    figure, frames = panels(3, 10.6, 3.4, sharex=True, sharey=True)
    said: dict[str, list[str]] = {name: [] for name, _ in ROWS.values()}
    for axes, (order, title) in zip(frames, TITLES.items(), strict=True):
        for row, (arm, (name, look)) in enumerate(ROWS.items()):
            found = shares(arm, order)
            said[name].append(f"{mean(found):.2f}")
            axes.plot([0, 1], [row, row], color="#DDDDDD", lw=0.8, zorder=0)
            axes.plot(found, [row] * len(found), **look | MARKS, ms=8, alpha=0.85)
            axes.text(1.24, row, said[name][-1], ha="right", va="center", fontsize=10)
        axes.axvline(0.5, color=GRAY, ls=":", lw=1.4)
        axes.text(0.5, -0.75, "a coin", ha="center", va="bottom", fontsize=10, color=GRAY)
        axes.text(1.24, -0.75, "mean", ha="right", va="bottom", fontsize=10, color=GRAY)
        axes.set(yticks=range(len(ROWS)), yticklabels=[name for name, _ in ROWS.values()], xlim=(-0.03, 1.26))
        axes.set(ylim=(len(ROWS) - 0.5, -0.8), xlabel="share of pairs that are right", xticks=[0, 0.5, 1])
        axes.set_title(title, pad=14)
    means = "; ".join(f"{name} {', '.join(shares_of)}" for name, shares_of in said.items())
    return figure, f"{finding()}. A mark is a seed; means of statements, questions, questions in mid-line: {means}."


def luck_table() -> list[list[str]]:
    """Full minus LoRA, a row for each order: a run in standard errors over pairs and over verbs; and over the seeds."""
    rows = []
    for order, title in TITLES.items():
        one_run = [
            "   ".join(f"{by('full', 'lora', order, seed):+.1f}" for seed in SEEDS) for by in (luck, luck_by_verb)
        ]
        low, high = interval([a - b for a, b in zip(shares("full", order), shares("lora", order), strict=True)])
        rows.append([title.partition(":")[0], *one_run, f"{low:+.2f} to {high:+.2f}"])
    return rows
