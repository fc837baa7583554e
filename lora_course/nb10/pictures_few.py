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
LABELS = {  # what each line is called, at the mark of 256 biases, and moved by so many points
    "plays": ("plays, read", (10, -8)),
    "reward": ("the reward", (0, 13)),
    "what the reward wrote": ("control: read what\nthe reward wrote", (5, -17)),
}


@picture
def few_figure() -> Drawn:
    """Gain against numbers trained, as a share of rank 8's: a line for each lesson, a small mark for each seed.

    Apart from the lines stands one number, which was not trained: notebook 16's bias on e.
    """
    figure, (axes,) = panels(1, 9.2, 4.2)
    told = []
    for lesson in LESSONS:
        found, look = shares(lesson), LOOKS[lesson]
        at = {way: WAYS[way] for way in found}
        mean = {way: 100 * statistics.mean(some) for way, some in found.items()}
        axes.plot(list(at.values()), list(mean.values()), **look | {"ms": 7})
        for way, some in found.items():
            axes.plot([at[way]] * len(some), [100 * share for share in some], **look | {"ls": "", "ms": 3})
        name, by = LABELS[lesson]
        note(axes, name, (at["bias"], mean["bias"]), by, color=look["color"])
        told.append(f"{lesson}: {', '.join(f'{way_name(way)} {share:.0f}%' for way, share in mean.items())}")
    picked = 100 * one_bias()
    axes.plot([1], [picked], **LOOKS["reward"] | {"mfc": "white", "ms": 7})
    note(axes, "on e, picked by hand", (1, picked), (-4, -14), color=RED)
    told.append(f"reward, one bias on e, picked by hand: {picked:.0f}%")
    axes.set(xscale="log", ylim=(0, 118), xlabel="numbers trained", ylabel="gain, % of rank 8's")
    places = {"one bias": 1} | WAYS
    axes.xaxis.set_ticks(list(places.values()), [f"{count:,}\n{way_name(way)}" for way, count in places.items()])
    axes.xaxis.set_ticks([], minor=True)
    return figure, (
        "By the reward 256 numbers gain what rank 8 does; with plays, a third. Gain in % of rank 8's. "
        f"{'. '.join(told)}. Small marks: three seeds."
    )


def way_name(way: str) -> str:
    return {"bias": "biases", "norms": "LayerNorms"}.get(way) or way.replace("lora r", "rank ")
