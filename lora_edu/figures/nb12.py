"""The figures of notebook 12: one model in four states, the square of losses, where the bytes are."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lora_edu.experiments.nb12 import FOUR_STATES, VERSE_LINE
from lora_edu.figures.drawing import Drawn, note, panels, slider, styled
from lora_edu.figures.looks import CODES, GRAY, MARKS, METHODS, WEIGHT, light
from lora_edu.figures.painted import TwoLines, in_lines
from lora_edu.figures.sliders import explore
from lora_edu.texts import ADDRESS_LINE

# what the handle says -> the arm of the stored results
STATES = {"as loaded": "as loaded", "NF4": "NF4", "NF4 + adapter": "QLoRA, seed 0", "adapter, no NF4": "LoRA, seed 0"}
STATES_ALT = (
    "Two lines of text, a verse and the start of an address. Under every byte hangs a bar as long as the model's "
    "surprise. Below them stands how the model goes on with a sentence."
)

# --- four states -----------------------------------------------------------------------------------------------------


def four_states(arms: dict) -> None:
    """Show the model in its four states. arms: of the stored results of `real-model`."""
    explore(states_view(arms), STATES_ALT, state=ipywidgets.SelectionSlider(options=STATES, description="the model"))


@slider
def states_view(arms: dict):
    """A view with one control, `state` (an arm with painted lines)."""
    figure = plt.figure(figsize=(9.4, 4.4))
    texts = {"a verse": VERSE_LINE, "an address": ADDRESS_LINE}
    lines = TwoLines(figure, texts, (0.66, 0.32), 0.29, said="and it writes:")

    def values(state: str) -> dict:
        arm = arms[state]
        return {
            "lines": (np.array(arm["Bible line"]), np.array(arm["address line"]), in_lines(arm["sample"], most=3)),
            "readout": f"{state}: loss {arm['Bible']:.2f} on the Bible, {arm['addresses']:.2f} on addresses, per token",
        }

    return figure, values, lambda now: lines.set(*now["lines"]), {"state": "as loaded"}


# --- the square ------------------------------------------------------------------------------------------------------


def square(arms: dict, text: str) -> dict[str, np.ndarray]:
    """The losses on a text: `as loaded` and `NF4` (1,), `LoRA`, `QLoRA` and LoRA's adapter on NF4 (n_seeds,)."""
    found = {"as loaded": [arms["as loaded"][text]], "NF4": [arms["NF4"][text]]}
    found["LoRA onto NF4"] = [arm[text] for name, arm in arms.items() if name.startswith("LoRA onto NF4")]
    for name, quantized in (("LoRA", False), ("QLoRA", True)):
        trained = [arm for arm, how in FOUR_STATES.items() if how["quantized"] == quantized and "steps" not in how]
        found[name] = [arms[arm][text] for arm in trained]
    return {name: np.array(losses) for name, losses in found.items()}


def rounding_cost(losses: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """What NF4 adds to the loss: before training, and after it for each seed (n_seeds,)."""
    return (losses["NF4"] - losses["as loaded"]).item(), losses["QLoRA"] - losses["LoRA"]


@styled
def square_figure(arms: dict) -> Drawn:
    """Before and after training, with and without NF4, on both texts; a dot for each seed."""
    figure, frames = panels(2, 9.4, 3.9)
    costs = []
    for axes, text, title in zip(frames, ("Bible", "addresses"), ("trained on", "not trained on"), strict=True):
        losses = square(arms, text)
        before, after = rounding_cost(losses)
        _panel(axes, losses)
        costs.append(f"on the {text} {before:.2f} before, {after.mean():.2f} after")
        axes.set_title(f"{text} ({title}):\nrounding costs {before:.2f} before, {after.mean():.2f} after")
    _same_height(frames)
    frames[0].set_ylabel("loss, nats per token")
    return figure, (
        f"What rounding to NF4 costs, in nats per token: {'; '.join(costs)} training. A panel for each text: two lines "
        "from before to after training, the model as loaded below, in NF4 above, and between them a gray one: an "
        "adapter that never saw the rounding, put on the NF4 base. Three seeds are three marks."
    )


def _same_height(panels) -> None:
    """A nat is as tall in each panel: a longer line is then a larger fall."""
    limits = [axes.get_ylim() for axes in panels]
    half = max(high - low for low, high in limits) / 2
    for axes, (low, high) in zip(panels, limits, strict=True):
        axes.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)


def _panel(axes: Axes, losses: dict[str, np.ndarray]) -> None:
    lines = ("NF4", "LoRA onto NF4", METHODS["control"]), ("as loaded", "LoRA", METHODS["lora"])
    for start, end, look in (*lines, ("NF4", "QLoRA", METHODS["qlora"])):
        axes.plot([0, 1], [losses[start][0], losses[end].mean()], color=look["color"], ls=look["ls"])
        axes.plot(0, losses[start], **look)
        axes.plot(np.linspace(0.98, 1.02, len(losses[end])), losses[end], **look | MARKS, ms=5, alpha=0.8)
        for x, name, side, ha in ((0, start, -10, "right"), (1, end, 12, "left")):
            mean = losses[name].mean()
            lift = {"LoRA onto NF4": 11, "QLoRA": -11}.get(name, 0)  # these two end close together
            note(axes, f"{name}\n{mean:.2f}", (x, mean), (side, lift), ha, color=look["color"])
    axes.set(xlim=(-0.42, 1.4), xticks=[0, 1], xticklabels=["before training", "after 20 steps"])
    axes.margins(y=0.15)


# --- where the bytes are ---------------------------------------------------------------------------------------------


@styled
def where_bytes_are(before: dict[str, int], after: dict[str, int]) -> Drawn:
    """Bytes of `linears`, `table` and `norms`, in float32 and with the linears in NF4."""
    figure, (axes,) = panels(1, 9.4, 2.5)
    for row, sizes in enumerate((before, after)):
        left = 0.0
        for part in ("linears", "table", "norms"):
            size, look = sizes[part] / 1e6, CODES if row and part == "linears" else WEIGHT
            axes.barh(row, size, left=left, height=0.62, **light(look))
            if size > 20:
                text = f"{part}\n{size:,.0f} MB"
                axes.text(left + size / 2, row, text, ha="center", va="center", backgroundcolor=(1, 1, 1, 0.7))
            left += size
        axes.text(left + 6, row, f"{left:,.0f} MB", va="center", color=GRAY, fontsize=11)
    share = after["table"] / sum(after.values())
    axes.set(yticks=[0, 1], yticklabels=["float32", "linears in NF4"], xlabel="megabytes")
    axes.set_xlim(0, 1.1 * sum(before.values()) / 1e6)
    axes.invert_yaxis()
    axes.set_title(f"The table of embeddings stays: {share:.0%} of what is left")
    return figure, (
        f"The table of embeddings is {share:.0%} of the bytes after rounding. Two bars to scale: in float32 "
        f"{sum(before.values()) / 1e6:.0f} MB, with the linear layers in NF4 {sum(after.values()) / 1e6:.0f} MB. The "
        "linear layers shrink, the table does not."
    )
