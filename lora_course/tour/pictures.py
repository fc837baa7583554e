"""The pictures of the tour that no other page has: sixteen levels under the weights, and the bill."""

from collections.abc import Mapping

from torch import Tensor

from lora_course.drawing.looks import CODES, GRAY
from lora_course.drawing.style import Drawn, listed, panels, picture
from lora_course.nb00.pictures import dial as dial  # the page says pictures.dial(...)
from lora_course.nb08.pictures import PARTS
from lora_edu.quantization import block_absmax, normalize


@picture
def sixteen(weight: Tensor, levels: Tensor) -> Drawn:
    """What is left of a weight's numbers once each block of 64 is divided by its absmax, and the levels below it."""
    left = normalize(weight.flatten(), block_absmax(weight.flatten(), 64), 64).numpy()
    figure, (axes,) = panels(1, 8.4, 3.2)
    axes.hist(left, bins=100, color=GRAY, alpha=0.55)
    top = axes.get_ylim()[1]
    axes.vlines(levels, 0, top, color=CODES[0], lw=1.2)
    for code, level in enumerate(levels.tolist()):
        axes.text(level, 1.03 * top, str(code), ha="center", va="bottom", fontsize=9, color=CODES[0])
    axes.set(xlabel="a weight, divided by the absmax of its block (above: the code of each level)", yticks=[])
    axes.set(ylabel="how many weights", ylim=(0, 1.14 * top))
    near, inner = (abs(left) < 0.5).mean(), int((levels.abs() < 0.5).sum())
    return figure, (
        f"{inner} of {len(levels)} levels lie in the middle half, as do {near:.0%} of the weights. A gray hill of "
        f"{left.size:,} weights between -1 and 1, and {len(levels)} upright lines, dense where the hill is high."
    )


@picture
def bill(rows: Mapping[str, Mapping[str, float]]) -> Drawn:
    """Gigabytes as stacked bars. rows: a way to train -> the kind of number (a name of PARTS) -> its gigabytes."""
    figure, (axes,) = panels(1, 8.8, 2.9)
    totals = {name: sum(parts.values()) for name, parts in rows.items()}
    for row, parts in enumerate(rows.values()):
        left = 0.0
        for kind, size in parts.items():
            axes.barh(row, size, left=left, **PARTS[kind], lw=0)  # an edge would hide what is thin
            left += size
        told = f"{left:.0f} GB"
        if "adapters" in parts:
            trained = sum(parts.get(kind, 0) for kind in ("adapters", "gradients", "optimizer state"))
            told += f", {trained:.1f} of them for what is trained"
        axes.text(left + 8, row, told, va="center", fontsize=11)
    for kind in dict.fromkeys(kind for parts in rows.values() for kind in parts):
        axes.barh(0, 0, label=kind, **PARTS[kind])
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel="GB, activations not counted")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    figure.legend(loc="outside lower center", ncols=6)
    most, *_, least = totals.values()
    return figure, (
        f"Full fine-tuning takes {most / least:.0f} times what QLoRA takes. Stacked bars: {listed(totals, '.0f')} GB. "
        "Weights, gradients and optimizer state make up the longest; of the others nearly all is the frozen model."
    )
