"""Where luck shows in notebook 13: the shares of right pairs, seed by seed, and how far one run is from luck."""

from statistics import mean

from lora_course.drawing.looks import BLUE, GRAY, MARKS, METHODS
from lora_course.drawing.style import Drawn, panels, picture
from lora_course.nb13.lab import MID, SEEDS
from lora_course.nb13.lab_trained import interval, luck, shares

TITLES = {"statement": 'statements: "Thou art"', "question": 'questions: "Art thou"'}
TITLES |= {f"question{MID}": 'in mid-line: "..., art thou"'}
ROWS = {  # arm -> its name, and how it looks
    "counted": ("counting, capitals folded", {"color": BLUE, "marker": "v"}),
    "cased": ("counting as models read", {"color": BLUE, "marker": "^"}),
    "base": ("base, not trained", METHODS["control"]),
    "lora": ("LoRA", METHODS["lora"]),
    "qlora": ("QLoRA", METHODS["qlora"]),
    "full": ("full", METHODS["full"]),
}


def finding() -> str:
    """What questions say in both forms, from the numbers."""
    start, mid = (
        [f"{mean(shares(arm, order)):.0%}" for arm in ("cased", "full", "lora")]
        for order in ("question", f"question{MID}")
    )
    return (
        f"Counting as the models read gets {start[0]} of the questions, full training {start[1]}, LoRA {start[2]}; "
        f"in mid-line {', '.join(mid)}"
    )


@picture
def pairs_picture() -> Drawn:
    """A mark for each seed; the mean as a number at the right."""
    figure, frames = panels(3, 10.6, 3.7, sharex=True, sharey=True)
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
    """Full minus LoRA, a row for each order: each run in standard errors over its pairs; and over the seeds."""
    rows = []
    for order, title in TITLES.items():
        runs = "   ".join(f"{luck('full', 'lora', order, seed):+.1f}" for seed in SEEDS)
        low, high = interval([a - b for a, b in zip(shares("full", order), shares("lora", order), strict=True)])
        rows.append([title.partition(":")[0], runs, f"{low:+.2f} to {high:+.2f}"])
    return rows
