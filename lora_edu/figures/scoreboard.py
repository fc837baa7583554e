"""The scoreboard as a table: the formats that the notebooks have added so far, from 05 to 07.

scoreboard("07")              # all rows, 05 to 07
"""

from lora_edu.experiments import load_results
from lora_edu.experiments.scoreboard import ROWS, WINDOWS
from lora_edu.figures.plots import table

HEADER = ["format", "notebook", "bits a weight", "error of weights", "of outputs", "loss", "added"]


def scoreboard(notebook: str) -> None:
    """Show the rows of all notebooks up to this one ("05" to "07")."""
    arms = load_results("scoreboard")["arms"]
    base = arms["as shipped"]["loss"]
    names = [(number, name) for number, added in ROWS.items() if number <= notebook for name in added]
    rows = [row(name, number, arms[name], base) for number, name in names]
    caption = f"Linear layers in the blocks of the shipped base; loss in nats per byte, {WINDOWS} windows of addresses"
    table(HEADER, rows, caption)


def row(name: str, notebook: str, result: dict, base: float) -> list[str]:
    """One line: result as `experiments.scoreboard.score` returns it, and the loss of the base as shipped."""
    return [
        name,
        notebook,
        f"{result['bits']:.3f}",
        f"{result['weight_error']:.2%}",
        f"{result['output_error']:.2%}",
        f"{result['loss']:.4f}",
        f"{result['loss'] - base:+.4f}",
    ]
