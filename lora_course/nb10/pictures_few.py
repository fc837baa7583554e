"""The picture of few numbers: the share of rank 8's gain against how many are trained (notebook 10)"""

import statistics

from lora_course.drawing.looks import METHODS, RED, TEXTS
from lora_course.drawing.style import Drawn, note, panels, picture
from lora_course.nb10.lab_few import WAYS
from lora_course.nb10.lab_few_runs import LESSONS, one_bias, shares

LOOKS: dict[str, dict] = {
    "plays": TEXTS["plays"],
    "reward": {"color": RED, "marker": "^", "ls": "--"},
    "what the reward wrote": METHODS["control"],
}
NAMES = {"norms": "LayerNorms", "shared 256": "shared"}
LABELS = {  # what the mark of 256 biases is called, moved by so many points, and on which side of the mark
    "plays": ("256 biases, plays", (10, -8), "left"),
    "reward": ("256 biases, the reward", (0, 13), "left"),
    "what the reward wrote": ("control: biases that read\nwhat the reward wrote", (-9, 0), "right"),
}


@picture
def few_figure() -> Drawn:
    """Gain against numbers trained, as a share of rank 8's: a line for each lesson, a small mark for each seed.

    Off the lines, which train in the blocks, stand the biases of the last logits; among them one that was not trained:
    notebook 16's bias on e.
    """
    figure, (axes,) = panels(1, 9.2, 4.2)
    told, biases = [], []
    for lesson in LESSONS:
        found, look = shares(lesson), LOOKS[lesson]
        mean = {way: 100 * statistics.mean(some) for way, some in found.items()}
        inside = [way for way in found if way != "bias"]
        axes.plot([WAYS[way] for way in inside], [mean[way] for way in inside], **look | {"ms": 7})
        axes.plot(WAYS["bias"], mean["bias"], **look | {"ms": 9, "mfc": "white"})
        for way, some in found.items():
            axes.plot([WAYS[way]] * len(some), [100 * share for share in some], **look | {"ls": "", "ms": 3})
        name, by, side = LABELS[lesson]
        note(axes, name, (WAYS["bias"], mean["bias"]), by, side, color=look["color"])
        if len(inside) > 1:  # the control has rank 8 alone there
            told.append(f"{lesson} {', '.join(f'{mean[way]:.0f}' for way in inside)}")
        biases.append(f"{lesson} {mean['bias']:.0f}")
    picked = 100 * one_bias()
    axes.plot([1], [picked], **LOOKS["reward"] | {"mfc": "white", "ms": 9})
    note(axes, "on e, picked by hand", (1, picked), (-4, -16), color=RED)
    axes.set(xscale="log", ylim=(0, 118), xlabel="numbers trained", ylabel="gain, % of rank 8's")
    places = {"one bias": 1} | {way: count for way, count in WAYS.items() if way != "bias"}
    names = [NAMES.get(way) or way.replace("lora r", "rank ") for way in places]
    axes.xaxis.set_ticks([*places.values()], [f"{n:,}\n{name}" for n, name in zip(places.values(), names, strict=True)])
    axes.xaxis.set_ticks([], minor=True)
    counts = ", ".join(f"{count:,}" for way, count in WAYS.items() if way != "bias")
    return figure, (
        f"With plays, count counts; by the reward, where the numbers are. Gain in % of rank 8's. {counts} numbers in "
        f"the blocks: {'; '.join(told)}. 256 biases: {'; '.join(biases)}. One, picked by hand: {picked:.0f}."
    )
