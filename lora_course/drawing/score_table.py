"""The scoreboard as a table: the formats that the notebooks have added so far, from 05 to 07.

scoreboard("07")              # all rows, 05 to 07
"""

from lora_course.drawing.plots import table
from lora_course.running.scoreboard import ROWS
from lora_course.running.stored import load_results

HEADER = ["format", "notebook", "bits a weight", "error of weights", "of outputs", "loss added", "KL", "flips"]


def scoreboard(notebook: str) -> None:
    """Show the rows of all notebooks up to this one ("05" to "07")."""
    arms = load_results("scoreboard")["arms"]
    rows = []
    for number, name in ((number, name) for number, added in ROWS.items() if number <= notebook for name in added):
        arm, added = arms[name], arms[name]["loss"] - arms["as shipped"]["loss"]
        errors = f"{arm['weight_error']:.2%}", f"{arm['output_error']:.2%}"
        row = [name, number, f"{arm['bits']:.3f}", *errors, f"{added:+.4f}"]
        for text in ("addresses", "plays"):
            row += [f"{arm[text]['kl']:.4f}", f"{arm[text]['flips']:.1%}"]
        rows.append(row)
    caption = "Linear layers in the blocks of the shipped base; loss and KL in nats per byte, on held-out addresses"
    table([*HEADER, "KL on plays", "flips"], rows, caption)
