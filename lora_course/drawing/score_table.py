"""The scoreboard as a table: the formats that the notebooks have added so far, from 05 to 07.

scoreboard("07")              # all rows, 05 to 07
"""

from lora_course.drawing.plots import table
from lora_course.running.scoreboard import ROWS
from lora_course.running.stored import load_results

HEADER = [
    "format",
    "notebook",
    "bits a weight",
    "error of weights",
    "loss added",
    "KL",
    "flips",
    "on plays: KL",
    "flips",
]


def scoreboard(notebook: str) -> None:
    """Show the rows of all notebooks up to this one ("05" to "07")."""
    arms = load_results("scoreboard")["arms"]
    rows = []
    for number, name in ((number, name) for number, added in ROWS.items() if number <= notebook for name in added):
        arm, added = arms[name], arms[name]["loss"] - arms["as shipped"]["loss"]
        row = [name, number, f"{arm['bits']:.3f}", f"{arm['weight_error']:.2%}", f"{added:+.4f}"]
        for text in ("addresses", "plays"):
            row += [f"{arm[text]['kl']:.4f}", f"{arm[text]['flips']:.1%}"]
        rows.append(row)
    table(
        HEADER,
        rows,
        "Linear layers in the blocks of the shipped base, in nats per byte on held-out addresses, and on plays",
    )
