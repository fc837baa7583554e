"""The picture of notebook 13's task: how many pairs each way to train gets right, statements and questions."""

from statistics import mean

from lora_edu.experiments.nb13 import ORDERS
from lora_edu.experiments.nb13_trained import deviation, luck, shares
from lora_edu.figures.drawing import Drawn, panels, picture
from lora_edu.figures.looks import BLUE, GRAY, GREEN, MARKS, METHODS

ASKED = {"statement": 'statements: "Thou art", "You are"', "question": 'questions: "Art thou", "Are you"'}
ROWS = {  # arm -> its name, and how it looks
    "counted": ("counts of word pairs", {"color": BLUE, "marker": "v"}),
    "base": ("base, not trained", METHODS["control"]),
    "NF4 base": ("NF4 base, not trained", METHODS["control"] | {"color": GREEN}),
    "lora": ("LoRA", METHODS["lora"]),
    "qlora": ("QLoRA", METHODS["qlora"]),
    "full": ("full", METHODS["full"]),
}


def share_table() -> list[list[str]]:
    """One row for each way: the share of right pairs of each seed, for both orders."""
    return [
        [name, *("   ".join(f"{share:.2f}" for share in shares(arm, order)) for order in ORDERS)]
        for arm, (name, _) in ROWS.items()
    ]


def finding() -> str:
    """What both orders say, from the numbers."""
    asked = ("counted", "full", "lora")
    counted, full, lora = (f"{mean(shares(arm, 'question')):.0%}" for arm in asked)
    base = mean(shares("base", "statement"))
    return (
        f"Counting gets {counted} of the questions, full training {full}, LoRA {lora}; "
        f"the untrained base gets {base:.0%} of the statements"
    )


@picture
def pairs_picture() -> Drawn:
    """A mark for each seed; the mean as a number at the right."""
    figure, frames = panels(2, 9.6, 3.6, sharex=True, sharey=True)
    said = []
    for axes, order in zip(frames, ORDERS, strict=True):
        for row, (arm, (_, look)) in enumerate(ROWS.items()):
            found = shares(arm, order)
            axes.plot([0, 1], [row, row], color="#DDDDDD", lw=0.8, zorder=0)
            axes.plot(found, [row] * len(found), **look | MARKS, ms=8, alpha=0.85)
            axes.text(1.14, row, f"{mean(found):.2f}", ha="right", va="center", fontsize=10)
        axes.axvline(0.5, color=GRAY, ls=":", lw=1.4)
        axes.text(0.5, -0.75, "a coin", ha="center", va="bottom", fontsize=10, color=GRAY)
        axes.text(1.14, -0.75, "mean", ha="right", va="bottom", fontsize=10, color=GRAY)
        axes.set(yticks=range(len(ROWS)), yticklabels=[name for name, _ in ROWS.values()], xlim=(-0.03, 1.15))
        axes.set(ylim=(len(ROWS) - 0.5, -0.8), xlabel="share of pairs that are right", xticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_title(ASKED[order], pad=14)
        said.append(
            f"{order}s: " + ", ".join(f"{name} {mean(shares(arm, order)):.2f}" for arm, (name, _) in ROWS.items())
        )
    return figure, f"{finding()}. {'; '.join(said)}."


def luck_table() -> list[list[str]]:
    """Rows: of two ways the pairs that only one got right, and their difference in standard errors, over both lucks."""
    rows = []
    for order in ORDERS:
        for one, other in (("full", "lora"), ("qlora", "lora")):
            found = [luck(one, other, order, seed) for seed in range(3)]
            only = "   ".join(f"{b}, {c}" for b, c, _ in found)
            of_pairs = "   ".join(f"{errors:+.1f}" for *_, errors in found)
            gaps = [a - b for a, b in zip(shares(one, order), shares(other, order), strict=True)]
            name = f"{ROWS[one][0]} - {ROWS[other][0]}, {order}s"
            rows.append([name, only, of_pairs, f"{deviation(gaps):+.1f}"])
    return rows
