"""The figures of the notebooks, one function each. They work without color and carry a text for readers who cannot see.

Colors are those of Okabe and Ito, which people with color blindness can tell apart; lines differ in style as well.
"""

import base64
import io

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
SKY = "#56B4E9"
PART_LOOKS = ((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (RED, "xx"), (GRAY, "--"), (SKY, "\\\\"))  # of stacked parts


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alt text, and close it. The alt text is also what a text-only reader gets."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    plt.close(figure)
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    display({"image/png": picture, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def plain_axes(width: float = 7, height: float = 3.2) -> tuple[Figure, Axes]:
    """A figure with one frame, without the lines at its top and right."""
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def loss_curve(train_loss: list[float], validation: list[tuple[int, float]], levels: dict[str, float]) -> Figure:
    """The loss of a run against its steps, with horizontal lines at the levels named."""
    figure, axes = plain_axes()
    axes.plot(range(1, len(train_loss) + 1), train_loss, color=BLUE, alpha=0.35, lw=1, label="training, each step")
    axes.plot(*zip(*validation, strict=True), color=BLUE, marker="o", lw=2, label="validation")
    for (name, level), style, color in zip(levels.items(), ("--", ":", "-."), (ORANGE, RED, GREEN), strict=False):
        axes.axhline(level, ls=style, lw=1.8, color=color, label=name)
    axes.set(xlabel="training step", ylabel="loss in nats per byte")
    axes.legend(frameon=False, fontsize=9)
    return figure


def bars(values: dict[str, float], unit: str, labels: list[str] | None = None, height: float | None = None) -> Figure:
    """Horizontal bars, one per name, with the value (or the given label) written at the end of each."""
    figure, axes = plain_axes(height=height or 0.8 + 0.42 * len(values))
    names, numbers = list(values), list(values.values())
    drawn = axes.barh(names, numbers, color=BLUE)
    axes.bar_label(drawn, labels or [f"{number:,.4g}" for number in numbers], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel=unit)
    axes.margins(x=0.15)
    return figure


def stages(curves: dict[str, dict[str, float]], unit: str) -> Figure:
    """One line per name over the stages of an experiment, each value written beside its point."""
    figure, axes = plain_axes(height=3.8)
    looks = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"))
    for (name, values), (color, style, marker) in zip(curves.items(), looks, strict=False):
        axes.plot(list(values), list(values.values()), color=color, ls=style, marker=marker, lw=2, label=name)
        for position, value in enumerate(values.values()):
            axes.annotate(
                f"{value:.2f}", (position, value), (0, 8), textcoords="offset points", ha="center", fontsize=9
            )
    axes.margins(x=0.12, y=0.2)
    axes.set(ylabel=unit)
    axes.legend(frameon=False, fontsize=9)
    return figure


def stacked_bars(rows: dict[str, dict[str, float]], unit: str) -> Figure:
    """Horizontal bars that add up parts: rows maps each bar's name to its parts. Parts differ in color and hatching."""
    figure, axes = plain_axes(height=1.4 + 0.6 * len(rows))
    left = dict.fromkeys(rows, 0.0)
    kinds = list(next(iter(rows.values())))
    for kind, (color, hatch) in zip(kinds, PART_LOOKS, strict=False):
        sizes = [row[kind] for row in rows.values()]
        axes.barh(list(rows), sizes, left=list(left.values()), color=color, hatch=hatch, edgecolor="white", label=kind)
        left = {name: left[name] + row[kind] for name, row in rows.items()}
    axes.bar_label(axes.containers[-1], [f"{total:,.1f}" for total in left.values()], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=unit)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def layer_diagram(adapter: bool = False, quantized: bool = False) -> Figure:
    """The shapes of a linear layer: y = W x, and on request the adapter beside it and the 4-bit form of W."""
    figure, axes = plt.subplots(figsize=(7.4, 3.4 if adapter else 2.6), layout="constrained")
    axes.set(xlim=(0, 11.4), ylim=(-3.3 if adapter else -1.5, 2.1), aspect="equal")
    axes.axis("off")
    _box(axes, 0.6, 0, 0.45, 2.0, GRAY, "x", "$d_{in}$")
    weight = "W in 4 bits\n(codes + absmax)" if quantized else "W"
    _box(
        axes,
        4.7,
        0,
        2.4,
        1.7,
        BLUE,
        f"{weight}\nfrozen" if adapter or quantized else weight,
        "$d_{out} \\times d_{in}$",
    )
    _box(axes, 10.3, 0, 0.45, 1.7, GRAY, "y", "$d_{out}$")
    _arrow(axes, (0.95, 0), (3.4, 0))
    _arrow(axes, (6.0, 0), (9.95, 0))
    if adapter:
        _box(axes, 3.4, -2.45, 2.0, 0.4, ORANGE, "A", "$r \\times d_{in}$", "//")
        _box(axes, 6.4, -2.45, 0.4, 1.5, ORANGE, "B", "$d_{out} \\times r$", "//")
        _arrow(axes, (0.95, -0.3), (2.3, -2.4))
        _arrow(axes, (4.5, -2.45), (6.1, -2.45))
        _arrow(axes, (6.7, -2.4), (9.0, -0.15))
        axes.text(8.3, -1.75, "times $s = \\alpha / r$", fontsize=10)
        axes.text(9.0, 0.18, "+", fontsize=16, ha="center")
    return figure


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, color: str, name: str, size: str, hatch: str = ""
):
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(Rectangle(corner, width, height, facecolor=color, alpha=0.25, hatch=hatch, edgecolor=color))
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, lw=1.6))
    axes.text(x, y, name, ha="center", va="center", fontsize=11)
    axes.text(x, y - height / 2 - 0.12, size, ha="center", va="top", fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="black", lw=1.1))
