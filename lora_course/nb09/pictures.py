"""The figures of notebook 09: the film of one run, what was rounded, what was learned, what a merge does to codes.

Those that plot the stored comparisons are in `lora_course.nb09.pictures_quality`.
"""

import ipywidgets
import numpy as np
from torch import nn

from lora_course.drawing.looks import ADAPTER, BLUE, CODES, GRAY, GREEN, RED
from lora_course.drawing.painted import TwoLines, in_lines
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, listed, note, panels, picture, slider, styled
from lora_course.nb08.pictures import PARTS
from lora_edu.memory.shapes import BASE
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE

# --- the film: the slider of the first screen ------------------------------------------------------------------------

FILM_ALT = (
    "Two lines of text, of a play and of an address, with a bar under every byte as long as the model's surprise. "
    "Below them a text that the model writes, and two squares of 64 by 64: the 4-bit codes of a weight, which never "
    "change, and the update of the adapter in the same place, which grows."
)


def film(arm: dict) -> None:
    """Show the film. arm: the stored result of `qlora-film`."""
    steps = [frame["step"] for frame in arm["frames"]]
    explore(film_view(arm), FILM_ALT, step=ipywidgets.SelectionSlider(options=steps, description="training step"))


@slider
def film_view(arm: dict):
    """A view with one control, `step` (one of those that were looked at)."""
    frames = {frame["step"]: frame for frame in arm["frames"]}
    last = _update(arm, arm["frames"][-1])
    texts = {"a play": PLAY_LINE, "an address": ADDRESS_LINE}
    lines = TwoLines((9.6, 5.9), texts, (0.745, 0.49), 0.22, said="and it writes, after “My lord, ”:", size=9.5)
    figure = lines.figure
    codes, update = figure.add_axes((0.515, 0.03, 0.22, 0.32)), figure.add_axes((0.765, 0.03, 0.22, 0.32))
    dots: dict = {"interpolation": "none", "animated": True}
    codes.imshow([[int(digit, 16) for digit in row] for row in arm["codes"]], cmap="Greens", vmin=0, vmax=15, **dots)
    shown = update.imshow(last, cmap="PuOr", vmin=-3 * last.std(), vmax=3 * last.std(), **dots)
    for axes, look in ((codes, CODES), (update, ADAPTER)):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=look[0], lw=1.6, visible=True)
    name: dict = {"fontsize": 9, "va": "bottom", "linespacing": 1.3, "animated": True}
    titles = [axes.text(0, -3, "", **name) for axes in (codes, update)]

    def values(step: int) -> dict:
        frame = frames[step]
        return {
            "lines": (np.array(frame["play line"]), np.array(frame["address line"]), in_lines(frame["sample"], 56, 10)),
            "update": _update(arm, frame),
            "titles": (
                f"4-bit codes of W: frozen\nchecksum of all: {frame['codes']}",
                f"s B A in the same place\nchecksum: {frame['adapters']}",
            ),
            "readout": f"step {step}: loss {frame['plays']:.2f} on plays, {frame['addresses']:.2f} on addresses; "
            f"checksum of the codes {frame['codes']}",
        }

    def draw(values: dict) -> None:
        lines.set(*values["lines"])
        shown.set_data(values["update"])
        for title, text in zip(titles, values["titles"], strict=True):
            title.set_text(text)

    return figure, values, draw, {"step": arm["frames"][0]["step"]}


def _update(arm: dict, frame: dict) -> np.ndarray:
    """s B A of the rows and columns that the film shows."""
    return arm["scaling"] * np.array(frame["B"]) @ np.array(frame["A"])


# --- sections 2 to 5 -------------------------------------------------------------------------------------------------


@picture
def memory(full: dict[str, float], qlora: dict[str, float]) -> Drawn:
    """Bytes by kind of full fine-tuning and of QLoRA, as two stacked bars. full, qlora: kind -> bytes."""
    rows = {"full fine-tuning": full, "QLoRA": qlora}
    figure, (axes,) = panels(1, 9.2, 2.7)
    names = ("codes", "weights", "constants", "adapters", "gradients", "optimizer state")
    looks = {kind: PARTS[name] for kind, name in zip(("codes", *full), names, strict=True)}
    for row, sizes in enumerate(rows.values()):
        codes, left = (full[BASE] - sizes[BASE]) / 7, 0.0  # a weight of 4 bytes became a code of half a byte
        parts = {"codes": codes} | sizes | {BASE: sizes[BASE] - codes}
        for kind, size in parts.items():
            axes.barh(row, size / 1e6, left=left, label=kind if row == 1 else None, **looks[kind])
            left += size / 1e6
        axes.text(left + 0.4, row, f"{left:.1f} MB", va="center", fontsize=11)
    axes.set(yticks=range(2), yticklabels=rows, xlabel="MB (activations not counted)")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    figure.legend(loc="outside lower center", ncols=6)
    totals = [sum(sizes.values()) for sizes in rows.values()]
    said = listed({kind: size / 1e6 for kind, size in parts.items()}, ".2f")  # QLoRA is the last row
    return figure, (
        f"QLoRA keeps 1 byte where full fine-tuning keeps {totals[0] / totals[1]:.0f}. Two stacked bars, "
        f"{totals[0] / 1e6:.1f} and {totals[1] / 1e6:.1f} MB. QLoRA's: {said}."
    )


@styled
def training(train_loss: list[float], validation: list[tuple[int, float]], levels: dict[str, float]) -> Drawn:
    """The loss of a run against its steps, with lines at the levels named."""
    figure, (axes,) = panels(1, 8.4, 3.5)
    axes.plot(range(1, len(train_loss) + 1), train_loss, color=BLUE, alpha=0.35, lw=1)
    axes.plot(*zip(*validation, strict=True), "o", ms=8, color=BLUE)
    steps, start, low = max(1, len(train_loss)), validation[0][1], validation[-1][1]
    note(axes, f"held-out plays: {low:.2f}", validation[-1], (8, 0))
    looks = ((GRAY, "--", -0.02, "top"), (GREEN, ":", 0.02, "bottom"))  # as shipped, and in codes
    for (name, level), (color, style, away, side) in zip(levels.items(), looks, strict=True):
        axes.axhline(level, ls=style, lw=1.8, color=color)
        axes.text(steps, level + away, f"{name}: {level:.3f}", ha="right", va=side)
    axes.set(xlabel="training step (thin: the loss of each step's batch)", ylabel="loss, nats per byte")
    axes.set_xlim(0, 1.22 * steps)
    axes.margins(y=0.12)
    learns = low < start - 0.2  # a run may have been stopped
    finding = f"{'Frozen in 4 bits, and it learns' if learns else 'So far'}: {start:.2f} to {low:.2f} nats per byte"
    axes.set_title(finding)
    named = " and ".join(f"{name} {level:.3f}" for name, level in levels.items())
    steps = len(train_loss)
    lines = f"Marked: held out; thin: each batch; two levels: {named}."
    return figure, f"{finding} on held-out plays, in {steps} steps. {lines}"


# --- what a merge does ------------------------------------------------------------------


@picture
def pushes(layer: nn.Module, arrived: dict[float, tuple]) -> Drawn:
    """One block of weights in units of its absmax: which of them an update pushes over the border of their cell.

    layer: a `LoRALinear` on a 4-bit base; arrived: the update's size, a share of the weight -> codes that change, and
    what arrives of the push, added to W′ and to W. The block is the one in the middle by how far it is pushed.
    """
    quantized, weight, update = layer.base.quantized, layer.base.dequantize(), layer.delta_weight().detach()
    codebook, absmax = quantized.codebook.cpu(), quantized.block_scales()
    weights, updates = (matrix.view(len(absmax), -1) / absmax[:, None] for matrix in (weight, update))
    place = updates.norm(dim=1).argsort()[len(absmax) // 2]
    levels = weights[place].cpu().numpy()
    unit = (updates[place] * (weight.norm() / update.norm().clamp(min=1e-30))).cpu().numpy()
    borders = ((codebook[:-1] + codebook[1:]) / 2).numpy()
    figure, (axes,) = panels(1, 10.2, 3.4)
    crossed, columns = [], {1.3: "cross", 1.68: "arrives\non W′", 2.05: "arrives\non W"}
    for at, heading in columns.items():
        axes.text(at, -0.5, heading, ha="center", va="bottom")
    for row, (size, (_, *shares)) in enumerate(arrived.items()):
        moved = levels + size * unit
        over = np.searchsorted(borders, moved) != np.searchsorted(borders, levels)
        spread = row + np.linspace(-0.28, 0.28, len(moved))
        axes.plot(moved[~over], spread[~over], "o", ms=3.5, color=GRAY)
        axes.plot(moved[over], spread[over], "D", ms=4.5, color=RED)
        crossed.append(int(over.sum()))
        numbers = (f"{over.sum()} of {len(moved)}", *(f"{share:.0%}" for share in shares))
        for at, number in zip(columns, numbers, strict=True):
            axes.text(at, row, number, ha="center", va="center")
    axes.vlines(codebook.numpy(), -0.5, len(arrived) - 0.5, color=CODES[0], lw=0.8, alpha=0.6)
    axes.vlines(borders, -0.5, len(arrived) - 0.5, color="black", lw=0.7, ls=(0, (2, 3)))
    names = [f"{size:.0%} of W′" for size in arrived]
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(-1.2, 2.2), ylim=(len(names) - 0.45, -1.1))
    axes.set(xticks=(-1, -0.5, 0, 0.5, 1))
    axes.set_xlabel("weight / absmax (full lines: levels, dotted: borders; red: crossed one)")
    counts = ", ".join(f"{n} at {name}" for n, name in zip(crossed, names, strict=True))
    return figure, (
        "A small push ends in the cell in which it began, and rounding undoes it. Of a block of "
        f"{len(levels)} weights the border is crossed by {counts}. Of these pushes arrives, added to W′: "
        f"{', '.join(f'{share:.0%}' for _, share, _ in arrived.values())}."
    )
