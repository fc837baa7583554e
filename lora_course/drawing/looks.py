"""The looks of the course: each part of a layer, each way to train and each text looks the same everywhere.

This is the only table of colors. `css` writes it for pages: try.html, dial.js and the book hold what it returns, and a
test compares them. A text has the color of the part that learned it: addresses are the frozen model's blue, plays the
first adapter's orange.

Every color stands out from white by at least 3 : 1, and nothing is told by color alone: hatches, line styles and direct
labels say it too.
"""

from matplotlib.colors import to_rgb

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#A85A00", "#00805C", "#B2182B", "#8E44AD"
SKY, GRAY = "#2F8FC6", "#6E6E6E"
PLUM = "#A6407A"

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
    "plays": {"color": ORANGE, "marker": "o", "ls": "-"},
    "addresses": {"color": BLUE, "marker": "s", "ls": "--"},
    "verses": {"color": PLUM, "marker": "D", "ls": "-."},
}
MARKS = {"ls": ""}  # added to one of them: its marks alone
# The same for pages. c0, c1, c2: a president's, a playwright's, a prophet's words.
VOICES = {"c0": TEXTS["addresses"]["color"], "c1": TEXTS["plays"]["color"], "c2": TEXTS["verses"]["color"]}
LIGHT = {"ink": "#1C2430", "mute": "#566170", "back": "#FBFAF7", "line": "#D9D5CB"} | VOICES
DARK = {"ink": "#ECE8DF", "mute": "#A8AEB8", "back": "#121418", "line": "#3A414B"}
DARK |= {"c0": "#6BBCEC", "c1": "#F0A23C", "c2": "#E58FBE"}
SERIF = 'Charter, "Bitstream Charter", Georgia, "Noto Serif", "DejaVu Serif", serif'


def filled(look: Look) -> dict:
    """A look as arguments for a bar or patch: its color with a white hatch."""
    color, hatch = look
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white"}


def light(look: Look) -> dict:
    """A look as arguments for a large patch that carries text: a pale fill, edge and hatch in the full color."""
    color, hatch = look
    return {"facecolor": (*to_rgb(color), 0.14), "hatch": hatch, "edgecolor": color, "lw": 1.4}


def css(colors: dict[str, str]) -> str:
    """LIGHT or DARK as declarations of a style sheet: `--ink: #1c2430; --mute: ...`."""
    return " ".join(f"--{name}: {color.lower()};" for name, color in colors.items())
