"""What the stored results say: the figures of notebook 09, sections 6 and 8.

`runs` is everywhere what `lora_course.nb09.lab.quality_runs` returns.
"""

from statistics import mean

from lora_course.drawing.looks import GRAY, METHODS, NAMES
from lora_course.drawing.style import Drawn, listed, note, panels, picture
from lora_course.nb09.lab import TEXT_SIZES, of
from lora_course.running.sweeps import Runs


@picture
def sweep_figure(runs: Runs) -> Drawn:
    """Loss against the learning rate, one panel for each amount of text; a ring marks each method's best rate.

    Each panel begins a little below its lowest loss and is 0.45 nats high: what lies far above is cut off.
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
def repaired_figure(before: dict[str, float], after: dict[str, dict[str, float]], own: dict[str, str]) -> Drawn:
    """What each draw of NF4 costs without an adapter and with one: a panel for each adapter, a line a draw.

    before, after[adapter]: draw -> the loss on plays, less that on unrounded weights. own: adapter -> the draw that it
    was trained on.
    """
    figure, frames = panels(len(after), 9.6, 3.8, sharey=True)
    said = []
    for axes, (name, costs) in zip(frames, after.items(), strict=True):
        others = [cost for draw, cost in costs.items() if draw != own[name]]
        for draw, cost in costs.items():
            look = METHODS["qlora" if draw == own[name] else "control"]
            axes.plot((0, 1), (before[draw], cost), **look | ({} if draw == own[name] else {"lw": 1}))
        axes.axhline(0, color="black", lw=0.8)
        axes.set(title=name, xlim=(-0.25, 1.55), xticks=(0, 1), xticklabels=("without", "with it"))
        which = "others" if own[name] in costs else "all"
        note(axes, f"{which}\n{mean(others):+.4f}", (1, mean(others)), (8, 0), color=GRAY)
        said.append(f"{name}: {which} {mean(others):+.4f}")
        if own[name] in costs:
            note(axes, f"its own\n{costs[own[name]]:+.4f}", (1, costs[own[name]]), (8, 0))
            said[-1] += f", its own from {before[own[name]]:+.4f} to {costs[own[name]]:+.4f}"
    frames[0].set_ylabel("loss on plays above that on\nunrounded weights, nats per byte")
    alone = all(costs[own[name]] < min(cost for draw, cost in costs.items() if draw != own[name])
                for name, costs in after.items() if own[name] in costs)  # fmt: skip
    finding = (
        "Training repairs its own draw of the rounding; on others it still costs" if alone else "No own draw is best"
    )
    return figure, (
        f"{finding}. A panel for each adapter, a line for each draw of NF4 from its cost without the adapter to that "
        f"with it; circles mark the draw that it was trained on. {'; '.join(said)}."
    )
