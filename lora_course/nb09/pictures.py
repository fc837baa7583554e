"""The figures of notebook 09: the film and its slider, what is kept, what a merge does, what the stored runs say."""

from statistics import mean

import ipywidgets
import numpy as np
from torch import nn

from lora_course.drawing.looks import ADAPTER, BLUE, CODES, GRAY, METHODS, NAMES, RED
from lora_course.drawing.painted import TwoLines, in_lines
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, listed, note, panels, picture, slider
from lora_course.nb08.pictures import PARTS
from lora_course.nb09.lab import TEXT_SIZES, of
from lora_course.nb09.lab_moved import MIRROR, OWN
from lora_course.running.sweeps import Runs
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


# --- sections 4 and 5 ------------------------------------------------------------------------------------------------


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


# --- sections 6 and 7 -------------------------------------------------------------------------------------------------


@picture
def sweep_figure(runs: Runs) -> Drawn:
    """Loss against the learning rate, one panel for each amount of text; a ring marks each method's best rate.

    runs: what `quality_runs` returns. Each panel begins a little below its lowest loss and is 0.45 nats high: what lies
    far above is cut off.
    """
    figure, frames = panels(2)
    for axes, text in zip(frames, TEXT_SIZES, strict=True):
        sweeps = {method: of(runs, method, text).sweep() for method in NAMES}
        for method, name in NAMES.items():
            best = of(runs, method, text).best_rate()
            axes.plot(*zip(*sweeps[method].items(), strict=True), label=name, **METHODS[method])
            axes.plot(best, sweeps[method][best], "o", ms=15, mfc="none", mec=METHODS[method]["color"])
        lowest = min(min(losses.values()) for losses in sweeps.values())
        axes.set(xscale="log", xlabel="learning rate", title=text, ylim=(lowest - 0.03, lowest + 0.42))
    frames[0].set_ylabel("loss after 100 steps, nats per byte")
    frames[0].legend(loc="upper left")
    rates = {text: listed({NAMES[m]: of(runs, m, text).best_rate() for m in NAMES}, "g") for text in TEXT_SIZES}
    return figure, (
        "Adapters want a larger rate than full fine-tuning. Loss against learning rate, a panel for each amount of "
        "text, each curve with its lowest point ringed; those of LoRA and QLoRA part only at the largest rate. Best "
        f"rates, {'; '.join(f'{text}: {said}' for text, said in rates.items())}."
    )


@picture
def repaired_figure(rows: dict[str, dict[str, float]], own: dict[str, str]) -> Drawn:
    """What each draw of NF4 costs: a row without an adapter and one for each adapter, a mark a draw.

    rows[name]: draw -> the loss on plays, less that on unrounded weights. own: row -> the draw that it was trained on.
    """
    figure, (axes,) = panels(1, 9.4, 3.6)
    said, named = [], {OWN: ("A", METHODS["qlora"]), MIRROR: ("B", {"color": BLUE, "marker": "D"})}
    for place, (name, costs) in enumerate(rows.items()):
        for draw, cost in costs.items():
            letter, look = named.get(draw, ("", METHODS["control"]))
            axes.plot(cost, place, **look | {"ls": "", "ms": 9 if letter else 6})
            note(axes, letter, (cost, place), (0, 11), "center", weight="bold" if own.get(name) == draw else "normal")
        others = mean(cost for draw, cost in costs.items() if draw != own.get(name))
        repaired = f"its own {costs[own[name]]:+.4f}, others " if own.get(name) in costs else ""
        said.append(f"{name}: {repaired}{others:+.4f}")
    axes.axvline(0, color="black", lw=0.8)
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.7))
    axes.set_xlabel("loss on plays above that on unrounded weights, nats per byte (left is better)")
    alone = all(rows[name][draw] == min(rows[name].values()) for name, draw in own.items() if draw in rows[name])
    finding = "Training repairs its own draw of the rounding; others still cost" if alone else "No own draw is best"
    return figure, f"{finding}. A row each, a mark a draw of NF4: A, B, and others in gray. Means: {'; '.join(said)}."
