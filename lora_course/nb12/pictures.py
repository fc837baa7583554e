"""The figures of notebook 12: one model in four states, and the square of their losses."""

import ipywidgets
import numpy as np

from lora_course.drawing.looks import MARKS, METHODS
from lora_course.drawing.painted import TwoLines, in_lines
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, slider, styled
from lora_course.nb12.lab import FOUR_STATES, VERSE_LINE
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
    texts = {"a verse": VERSE_LINE, "an address": ADDRESS_LINE}
    lines = TwoLines((9.4, 4.4), texts, (0.66, 0.32), 0.29, said="and it writes:")

    def values(state: str) -> dict:
        arm = arms[state]
        return {
            "lines": (np.array(arm["Bible line"]), np.array(arm["address line"]), in_lines(arm["sample"], 100, 3)),
            "readout": f"{state}, it writes: {' '.join(arm['sample'].split()[:14])} ...",  # no losses: they are asked
        }

    return lines.figure, values, lambda now: lines.set(*now["lines"]), {"state": "as loaded"}


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
    """Before and after training, with and without NF4, on both texts, from the model as loaded; a dot for each seed."""
    figure, frames = panels(2, 9.4, 3.9, sharey=True)  # a nat is as tall in both: a longer line is a larger fall
    lines = (
        ("NF4", "LoRA onto NF4", METHODS["control"], 11),
        ("as loaded", "LoRA", METHODS["lora"], 0),
        ("NF4", "QLoRA", METHODS["qlora"], -11),
    )
    costs = []
    for axes, text, title in zip(frames, ("Bible", "addresses"), ("trained on", "not trained on"), strict=True):
        losses = square(arms, text)
        before, after = rounding_cost(losses)
        for start, end, look, lift in lines:
            first, last = (losses[name] - losses["as loaded"] for name in (start, end))
            axes.plot([0, 1], [first[0], last.mean()], color=look["color"], ls=look["ls"])
            axes.plot(0, first, **look)
            axes.plot(np.linspace(0.98, 1.02, len(last)), last, **look | MARKS, ms=5, alpha=0.8)
            note(axes, f"{start}\n{losses[start][0]:.2f}", (0, first[0]), (-10, 0), "right", color=look["color"])
            note(axes, f"{end}\n{losses[end].mean():.2f}", (1, last.mean()), (12, lift), color=look["color"])
        axes.set(xlim=(-0.42, 1.4), xticks=[0, 1], xticklabels=["before training", "after 20 steps"])
        axes.margins(y=0.15)
        axes.set_title(f"{text} ({title}):\nrounding costs {before:.2f} before, {after.mean():.2f} after")
        costs.append(f"on the {text} {before:.2f} before, {after.mean():.2f} after")
    frames[0].set_ylabel("loss above the model as loaded,\nnats per token")
    return figure, (
        f"What rounding to NF4 costs, in nats per token: {'; '.join(costs)} training. A panel for each text: two lines "
        "from before to after training, the model as loaded below, in NF4 above, and between them a gray one: an "
        "adapter that never saw the rounding, put on the NF4 base. Three seeds are three marks."
    )
