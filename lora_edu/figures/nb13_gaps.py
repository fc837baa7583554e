"""The picture of notebook 13, section 3: differences of losses beside the tolerance, and what three seeds can tell."""

from textwrap import fill

from lora_edu.experiments.nb13_trained import TOLERANCE, intervals, lora_gaps, qlora_gaps
from lora_edu.figures.drawing import Drawn, note, panels, picture
from lora_edu.figures.looks import BLUE, GRAY, ORANGE
from lora_edu.figures.nb13_claims import SAID, as_well

LOOKS = {True: BLUE, False: ORANGE, None: GRAY}


@picture
def gaps_picture() -> Drawn:
    """A bar for each interval, a mark for each seed, a line at the tolerance, and the word of the rule."""
    figure, frames = panels(2, 9.8, 3.4)
    told = []
    for axes, who, found in zip(
        frames, ("LoRA minus full training", "QLoRA minus LoRA"), (lora_gaps(), qlora_gaps()), strict=True
    ):
        words = [SAID[as_well(gap)] for gap in intervals(found).values()]
        for row, (gap, word, seeds) in enumerate(zip(intervals(found).values(), words, found.values(), strict=True)):
            axes.plot(
                [gap.low, gap.high], [row, row], color=LOOKS[as_well(gap)], lw=7, alpha=0.5, solid_capstyle="butt"
            )
            axes.plot(seeds, [row] * len(seeds), "|", color="black", ms=9)
            axes.text(1.02, row, word, va="center", transform=axes.get_yaxis_transform())
        axes.axvline(0, color=GRAY, lw=0.8)
        axes.axvline(TOLERANCE, color=GRAY, ls="--", lw=1.4)
        note(axes, "tolerance", (TOLERANCE, -0.6), (4, 0))
        axes.set(
            yticks=range(len(found)), yticklabels=[fill(name, 20) for name in found], ylim=(len(found) - 0.5, -0.8)
        )
        axes.set_xlabel("nats a byte (right is worse)")
        axes.set_title(who)
        told.append(f"{who}: " + ", ".join(f"{name}: {word}" for name, word in zip(found, words, strict=True)))
    qlora = [as_well(gap) for gap in intervals(qlora_gaps()).values()]
    as_good, untold = qlora.count(True), qlora.count(None)
    return figure, (
        f"QLoRA does as well as LoRA in {as_good} of {len(qlora)} settings, and {untold} cannot be told. "
        f"{'; '.join(told)}. Bars: 95% intervals; dashed: the tolerance."
    )
