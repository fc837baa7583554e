"""What the stored results say: the figures of notebook 09, sections 6 and 7.

`runs` is everywhere what `lora_course.nb09.lab.quality_runs` returns.
"""

from statistics import mean

from lora_course.drawing.looks import BLUE, METHODS, NAMES
from lora_course.drawing.style import Drawn, listed, note, panels, picture
from lora_course.nb09.lab import TEXT_SIZES, of
from lora_course.nb09.lab_moved import MIRROR, OWN
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
