"""The looks of the course: each part of a layer, each way to train and each text looks the same in every notebook.

Every color stands out from white by at least 3 : 1, and nothing is told by color alone: hatches, line styles and direct
labels say it too.
"""

from matplotlib.colors import to_rgb

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#B87000", "#00805C", "#B2182B", "#8E44AD"
SKY, GRAY = "#2F8FC6", "#6E6E6E"
BROWN, PLUM = "#8C564B", "#A6407A"

Look = tuple[str, str]  # color, hatch
WEIGHT: Look = (BLUE, "")  # the frozen weight
ADAPTER: Look = (ORANGE, "///")  # A and B
CODES: Look = (GREEN, "...")  # the 4-bit numbers that stand for weights
CONSTANTS: Look = (PURPLE, "xxx")  # absmax: what the codes are multiplied by
GRADIENT: Look = (RED, "\\\\\\")  # what flows back

# What is compared looks the same in every notebook, too. A way to train, as arguments for a line with marks:
METHODS: dict[str, dict] = {
    "full": {"color": "black", "marker": "^", "ls": ":"},
    "blocks": {"color": "black", "marker": "D", "mfc": "white", "ls": "-"},  # the same matrices as adapters, in full
    "lora": {"color": ORANGE, "marker": "s", "ls": "--"},
    "qlora": {"color": ORANGE, "marker": "o", "mec": GREEN, "mew": 1.4, "ls": "-"},
    "control": {"color": GRAY, "marker": "x", "ls": ":"},
}
NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}  # of the three that the course compares
# A text: what is learned, and what the base knew.
TEXTS: dict[str, dict] = {
    "plays": {"color": BLUE, "marker": "o", "ls": "-"},
    "addresses": {"color": BROWN, "marker": "s", "ls": "--"},
    "verses": {"color": PLUM, "marker": "D", "ls": "-."},
}
MARKS = {"ls": ""}  # added to one of them: its marks alone


def filled(look: Look) -> dict:
    """A look as arguments for a bar or patch: its color with a white hatch."""
    color, hatch = look
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white"}


def light(look: Look) -> dict:
    """A look as arguments for a large patch that carries text: a pale fill, edge and hatch in the full color."""
    color, hatch = look
    return {"facecolor": (*to_rgb(color), 0.14), "hatch": hatch, "edgecolor": color, "lw": 1.4}
