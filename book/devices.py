"""The picture of notebooks/scaling.md: what two devices hold, and what travels between them in one step.

python -m book.devices        # draws notebooks/figures/devices.png anew
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from lora_course.drawing import looks, plots
from lora_course.drawing.style import Drawn, styled
from lora_edu import NF4Linear, add_lora, load_base, quantize_linears

METHODS = {"full": "full fine-tuning", "lora": "LoRA, rank 8", "qlora": "QLoRA, rank 8"}
LOOKS = {"weights": looks.WEIGHT, "codes": looks.CODES, "adapters": looks.ADAPTER}
NAMES = {"codes": "codes, constants"}
WIDTH, HEIGHT = 8.2, 5.4  # of a device, in units: one square unit is a megabyte
RIGHT = 15.4  # where the second device begins


def bytes_of(method: str) -> dict[str, int]:
    """What a device holds and sends: weights, codes (with their constants), adapters, gradients, in bytes."""
    model = load_base("laptop", device="cpu")
    if method == "qlora":
        quantize_linears(model, double_quant=True)
    codes = sum(layer.quantized.nbytes for layer in model.modules() if isinstance(layer, NF4Linear))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if method == "full":
        return {"weights": weights, "codes": 0, "adapters": 0, "gradients": weights}
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    adapters = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return {"weights": weights, "codes": codes, "adapters": adapters, "gradients": adapters}


@styled
def devices(rows: dict[str, dict[str, int]]) -> Drawn:
    """Two devices for each method, all areas to one scale. rows: method -> its `bytes_of`."""
    figure, frames = plots.plt.subplots(len(rows), 1, figsize=(9.6, 7.2))
    for axes, (method, parts) in zip(frames, rows.items(), strict=True):
        for left, name in ((0, "device 0"), (RIGHT, "device 1")):
            _device(axes, left, name, parts)
        side = (parts["gradients"] / 1e6) ** 0.5
        middle = (WIDTH + RIGHT) / 2
        _square(axes, middle - side / 2, side, looks.GRADIENT)
        label = f"gradients, {parts['gradients']:,} bytes"
        axes.text(middle, 0.3 + side + 0.15, label, ha="center", va="bottom", fontsize=9.5)
        for end, start in ((WIDTH + 0.15, middle - side / 2), (RIGHT - 0.15, middle + side / 2)):
            axes.annotate("", (end, 0.6), (start, 0.6), arrowprops={"arrowstyle": "->", "lw": 1.6})
        axes.set_title(METHODS[method])
        axes.set(xlim=(-0.2, RIGHT + WIDTH + 0.2), ylim=(-0.1, HEIGHT + 0.1), aspect="equal")
        axes.axis("off")
    full, lora = rows["full"]["gradients"], rows["lora"]["gradients"]
    figure.suptitle(f"Only gradients travel in a step: {full / lora:.0f} times less with adapters")
    return figure, (
        f"Only gradients travel between devices in a step: {full:,} bytes in full fine-tuning, {lora:,} with adapters, "
        "over weights in full precision or in 4 bits alike. Three rows of two devices; squares, to one scale, for the "
        "weights, codes and adapters that each device holds, and between them one for the gradients."
    )


def _device(axes: Axes, left: float, name: str, parts: dict[str, int]) -> None:
    frame: dict = {"boxstyle": "round,pad=0", "fc": "none", "ec": looks.GRAY, "lw": 1.2}
    axes.add_patch(FancyBboxPatch((left, 0.05), WIDTH, HEIGHT - 0.1, **frame))
    axes.text(left + WIDTH - 0.2, HEIGHT - 0.3, name, ha="right", va="top", fontsize=9, color=looks.GRAY)
    place = left + 0.3
    for part, look in LOOKS.items():
        if parts[part]:
            side = (parts[part] / 1e6) ** 0.5
            _square(axes, place, side, look)
            said = f"{NAMES.get(part, part)}\n{parts[part] / 1e6:.2f} MB"
            axes.text(place, 0.3 + side + 0.1, said, va="bottom", fontsize=8.5)
            place += max(side, 3.1 if part in NAMES else 1.9) + 0.3


def _square(axes: Axes, left: float, side: float, look: looks.Look) -> None:
    axes.add_patch(Rectangle((left, 0.3), side, side, lw=0, **looks.filled(look)))


if __name__ == "__main__":
    picture, _ = devices({method: bytes_of(method) for method in METHODS})
    (Path(__file__).parents[1] / "notebooks" / "figures" / "devices.png").write_bytes(plots.png(picture))
