"""What learning costs, in notebook 10: forgetting compared at equal learning, by the rate and by the dial.

Between two runs the line of a way is straight, and the true one sags below it: forgetting grows ever faster. So a gap
read at one way's own runs is too small if the *other* way was drawn straight there, and too large in the other case.
"""

from collections.abc import Iterable

import numpy as np

from lora_edu.experiments import load_results
from lora_edu.experiments.nb10 import DIALED, SEEDS
from lora_edu.experiments.nb10_runs import base_losses, best_rate, forgotten_at, front, of_way
from lora_edu.experiments.sweeps import Runs
from lora_edu.figures.drawing import Drawn, panels, styled
from lora_edu.figures.looks import METHODS

REFERENCES = {"full": "everything, in full", "blocks": "the same matrices, in full"}
LOOKS = {
    "lora r1": METHODS["lora"] | {"ls": ":", "label": "LoRA, rank 1"},
    "lora r8": METHODS["lora"] | {"label": "LoRA, rank 8"},
    "lora r64": METHODS["lora"] | {"ls": "-", "label": "LoRA, rank 64"},
    "qlora r8": METHODS["qlora"] | {"ls": "-.", "label": "QLoRA, rank 8"},
    "blocks": METHODS["blocks"] | {"label": "the same matrices, in full"},
    "full": METHODS["full"] | {"label": "everything, in full"},
}
HALF = "full, half the rate"

# --- by the rate -----------------------------------------------------------------------------------------------------


def extra(runs: Runs, way: str, other: str) -> dict[tuple[float, int], float]:
    """(rate, seed) -> how much more a way forgets than another does at equal learning with the same seed, in nats.

    Runs at rates up to the best one count, where the other way has runs on both sides.
    """
    chosen = [run for run in of_way(runs, way) if run.lr <= best_rate(runs, way) and way != other]
    gaps = {
        (run.lr, run.seed): run.forgotten - forgotten_at(front(runs, other, run.seed), run.learned) for run in chosen
    }
    return {run: gap for run, gap in gaps.items() if not np.isnan(gap)}


def spread(gaps: dict[tuple[float, int], float]) -> str:
    """The smallest and the largest gap, of how many runs and seeds."""
    if not gaps:
        return "-"
    seeds = len({seed for _, seed in gaps})
    return f"{min(gaps.values()):+.3f} to {max(gaps.values()):+.3f} (runs {len(gaps)}, seeds {seeds})"


def at_tied_rates(runs: Runs, ways: Iterable[str]) -> list[list[str]]:
    """A row for each rate that a way may call its best: way, rate, learned, forgotten, number of seeds."""
    rows = []
    for way in ways:
        for lr in of_way(runs, way).tied():
            some = [run for run in of_way(runs, way) if run.lr == lr]
            learned, forgotten = np.mean([(run.learned, run.forgotten) for run in some], axis=0)
            rows.append([way, f"{lr:g}", f"{learned:.3f}", f"{forgotten:.3f}", f"{len(some)}"])
    return rows


# --- by the dial -----------------------------------------------------------------------------------------------------


def dial_of(way: str) -> dict[int, np.ndarray]:
    """Seed -> (n, 3): share, learned, forgotten of the best run of a way, turned down by the dial; share 0 first."""
    arms, (plays, addresses) = load_results("lora-price")["arms"], base_losses()
    lines = {}
    for seed in SEEDS:
        if arm := arms.get(f"dial of {way}, seed {seed}"):
            turned = sorted((float(share), *losses) for share, losses in arm["dial"].items())
            turned.append((1.0, arm["plays"], arm["addresses"]))
            lines[seed] = np.array(
                [(0.0, 0.0, 0.0), *((share, plays - one, other - addresses) for share, one, other in turned)]
            )
    return lines


def dialed(way: str) -> np.ndarray:
    """(n, 2): learned and forgotten along the dial, the mean over seeds."""
    lines = dial_of(way)
    return np.mean(list(lines.values()), axis=0)[:, 1:] if lines else np.empty((0, 2))


def dial_gaps(way: str, other: str, share: float, read_at: str) -> dict[int, tuple[float, float]]:
    """Seed -> (learned, how much more `way` forgets there than `other`), read where `read_at` stands at this share.

    Empty where one of the two does not learn as much, or has no dial.
    """
    ways, found = {way: dial_of(way), other: dial_of(other)}, {}
    (along,) = {way, other} - {read_at}  # the way that is drawn straight between its points
    for seed in sorted(ways[way].keys() & ways[other].keys()):
        here = {round(point[0], 2): point for point in ways[read_at][seed]}.get(share)
        line = ways[along][seed][: ways[along][seed][:, 1].argmax() + 1, 1:]
        if here is not None and here[1] <= line[-1, 0]:
            gap = forgotten_at(line, here[1]) - here[2]
            found[seed] = (float(here[1]), float(gap if read_at == other else -gap))
    return found


DIALED_RIVALS = {
    "full": "everything, in full",
    HALF: "the same, half the rate",
    "blocks": "the same matrices, in full",
}


def about(way: str, learned: float) -> float:
    """The setting of a way's dial at which it has learned about so much."""
    line = np.mean(list(dial_of(way).values()), axis=0)
    return round(float(line[np.abs(line[:, 1] - learned).argmin(), 0]), 2)


def dial_table(ways: Iterable[str]) -> list[list[str]]:
    """A row for each reading: way, where, and the gap of each seed beside each rival.

    At a rival's own settings the gap is an upper bound ("at most"), at this way's a lower one ("at least").
    """
    rows = []
    for way in ways:
        readings = [("where the rival learned about 0.9", 0.0)] + [(f"at its {k:g}", k) for k in (0.75, 0.9, 1.0)]
        for where, share in readings:
            cells = []
            for rival in DIALED_RIVALS:
                known = dial_of(rival)
                read_at, at = (way, share) if share else (rival, about(rival, 0.9) if known else 0.0)
                gaps = [f"{gap:+.3f}" for _, gap in (dial_gaps(way, rival, at, read_at).values() if known else ())]
                cells.append(f"at {'least' if share else 'most'} {', '.join(gaps)}" if gaps else "-")
            rows.append([way, where, *cells])
    return rows


# --- the picture -----------------------------------------------------------------------------------------------------


@styled
def price_figure(runs: Runs) -> Drawn:
    """Forgotten against learned. Left: each way through its rates up to the best. Right: its best run, turned down."""
    figure, frames = panels(2, 10, 4.3, sharey=True)
    for way, look in LOOKS.items():
        frames[0].plot(*front(runs, way).T, **look, ms=5)
        if len(dialed(way)):
            frames[1].plot(*dialed(way).T, **look, ms=5)
    if len(dialed(HALF)):
        half = METHODS["full"] | {"marker": "v", "ls": "--", "label": "everything, half the rate"}
        frames[1].plot(*dialed(HALF).T, **half, ms=5)
        frames[1].legend(handles=frames[1].lines[-1:], loc="upper left")
    frames[0].set_ylabel("forgotten: nats per byte lost on addresses")
    frames[0].legend(loc="upper left")
    titles = ("by the rate, seed 0: full lies lowest", "by the dial: what is turned down decides")
    for axes, title in zip(frames, titles, strict=True):
        axes.set(xlabel="learned: nats per byte won on plays", xlim=(0.55, 1.13), ylim=(0, 0.47))
        axes.set_title(title)
    beside = {
        rival: np.mean([gap for _, gap in dial_gaps("lora r8", rival, 0.75, "lora r8").values()])
        for rival in ("full", HALF)
    }
    seeds = ", ".join(f"{way} {len(dial_of(way))}" for way in DIALED if dial_of(way))
    return figure, (
        "Turned down by a smaller rate, full fine-tuning forgets least at equal learning. By the dial rank 8 at "
        f"three quarters lies {beside['full']:+.3f} or more above full, {beside[HALF]:+.3f} above it from half the "
        "rate. Two panels, "
        f"forgotten against learned, a line for each way; points are rates of seed 0, or settings of the dial, means "
        f"over seeds: {seeds}."
    )
