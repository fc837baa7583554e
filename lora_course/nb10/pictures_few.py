"""The picture of few numbers: the share of rank 8's gain against how many are trained (notebook 10)"""

import statistics

from lora_course.drawing.looks import METHODS, RED, TEXTS
from lora_course.drawing.style import Drawn, note, panels, picture
from lora_course.nb10.lab_few import WAYS
from lora_course.nb10.lab_few_runs import LESSONS, shares

LOOKS: dict[str, dict] = {
    "plays": TEXTS["plays"],
    "reward": {"color": RED, "marker": "^", "ls": "--"},
    "what the reward wrote": METHODS["control"],
}
LABELS = {  # what each line is called, at the mark of 256 biases, and moved by so many points
    "plays": ("plays, read", (8, -10)),
    "reward": ("the reward", (0, 13)),
    "what the reward wrote": ("control: what the reward wrote, read", (8, -12)),
}


@picture
def few_figure() -> Drawn:
    """Gain against numbers trained, as a share of rank 8's: a line for each lesson, a small mark for each seed."""
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
        told.append(f"{name}: {', '.join(f'{way_name(way)} {share:.0f}%' for way, share in mean.items())}")
    axes.set(xscale="log", ylim=(0, 118), xlabel="numbers trained", ylabel="gain, % of rank 8's")
    axes.xaxis.set_ticks(list(WAYS.values()), [f"{count:,}\n{way_name(way)}" for way, count in WAYS.items()])
    axes.xaxis.set_ticks([], minor=True)
    return figure, (
        "By the reward 256 numbers gain what rank 8 does; with plays, a third. Gain in % of rank 8's. "
        f"{'. '.join(told)}. Small marks: three seeds."
    )


def way_name(way: str) -> str:
    return {"shared": "shared", "bias": "biases", "norms": "LayerNorms"}.get(way) or way.replace("lora r", "rank ")
