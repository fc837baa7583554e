"""What the stored runs of notebook 15 say: what a way learned and forgot along each of three roads down.

A way's line is straight between its runs. Where it is convex the true one sags below it, so a gap that is read at one
way's own runs is too small if the *other* way was drawn straight there, and too large in the other case.
"""

import functools
from collections.abc import Iterable

import numpy as np

from lora_edu.experiments.nb10_runs import all_runs, base_losses, of_way
from lora_edu.experiments.nb15 import CALIBRATED, DIALS, TURNED_DOWN
from lora_edu.experiments.stored import load_results
from lora_edu.experiments.sweeps import SEEDS, Runs, stored_runs

ROADS = ("rate", "dial", "steps")
Line = np.ndarray  # (n, 2): learned and forgotten of a way, from almost nothing to its best run
Point = tuple[float, float]  # learned and forgotten


def road(name: str, way: str, seed: int) -> Line:
    """Where one of ROADS leads a run of TURNED_DOWN, seed by seed; its last point is the run itself."""
    points = {"rate": _by_rate, "dial": _by_dial, "steps": _by_steps}[name](way, seed)
    return np.array(points).reshape(-1, 2)


def _by_rate(way: str, seed: int) -> list[Point]:
    runs = _runs().where(way=_kind(way), steps=100, seed=seed)
    up_to_it = sorted((run.lr, run.learned, run.forgotten) for run in runs if run.lr <= TURNED_DOWN[way]["lr"])
    return [(learned, forgotten) for _, learned, forgotten in up_to_it]


def _by_dial(way: str, seed: int) -> list[Point]:
    arm = load_results("forgetting")["arms"][f"dial of {way}, seed {seed}"]
    shares = sorted((float(share), *losses) for share, losses in arm["dial"].items())
    return [(0.0, 0.0), *(_price(*losses) for _, *losses in shares), _price(arm["plays"], arm["addresses"])]


def _by_steps(way: str, seed: int) -> list[Point]:
    options = TURNED_DOWN[way]
    short = stored_runs("forgetting", "plays").where(method=options["method"], lr=options["lr"], seed=seed)
    fewer = [_price(run.plays, run.addresses) for run in sorted(short, key=lambda run: run.steps) if run.steps < 100]
    return [*fewer, _by_rate(way, seed)[-1]] if fewer else []


@functools.cache
def _runs() -> Runs:
    return all_runs()


def _kind(way: str) -> str:
    """Full fine-tuning's two runs are one way at two rates."""
    return way.partition(",")[0]


def _price(plays: float, addresses: float) -> Point:
    """What was learned and forgotten against the base, from both losses."""
    before = base_losses()
    return before[0] - plays, addresses - before[1]


def forgotten_at(line: Line, learned: float) -> float:
    """What a way forgets at so much learning, between two of its runs; not a number outside them."""
    if not len(line):
        return float("nan")
    line = line[: line[:, 0].argmax() + 1]  # beyond, more is forgotten and no more learned
    x, y = line[line[:, 0].argsort()].T
    return float(np.interp(learned, x, y)) if x[0] <= learned <= x[-1] else float("nan")


def extra(name: str, way: str, rival: str, seed: int) -> Line:
    """(n, 2): learned, and how much more a way forgot than its rival at equal learning, at the way's own runs."""
    mine, other = road(name, way, seed), road(name, rival, seed)
    gaps = [(learned, forgotten - forgotten_at(other, learned)) for learned, forgotten in mine]
    return np.array([gap for gap in gaps if not np.isnan(gap[1])]).reshape(-1, 2)


def at_the_run(name: str, way: str, rival: str) -> list[float]:
    """How much more the run itself forgot than its rival, turned down to as much learning: a number for each seed."""
    return [line[-1, 1] for line in (extra(name, way, rival, seed) for seed in SEEDS) if len(line)]


def dialed(way: str) -> dict[float, Point]:
    """Setting of the dial -> what is learned and forgotten there: means over the seeds; at 1 the run itself."""
    lines = np.mean([road("dial", way, seed)[1:] for seed in SEEDS], axis=0)  # the first point is the base
    settings = [*sorted(DIALS[way]), 1.0]
    return {
        share: (float(learned), float(forgotten)) for share, (learned, forgotten) in zip(settings, lines, strict=True)
    }


def kept(way: str, share: float) -> Point:
    """What shares of its own learning, and of its own forgetting, a run keeps at a setting of the dial."""
    found = dialed(way)
    return found[share][0] / found[1.0][0], found[share][1] / found[1.0][1]


def by_dial(way: str, learned: float) -> float:
    """What was forgotten at so much learning along the dial: the mean over the seeds, if each seed goes so far."""
    return float(np.mean([forgotten_at(road("dial", way, seed), learned) for seed in SEEDS]))


def stopped_early(way: str) -> tuple[float, float, float]:
    """Of the run with the fewest steps: learned, forgotten, and what the dial forgets at as much learning; means."""
    runs = [road("steps", way, seed)[0] for seed in SEEDS]
    by_dial = [forgotten_at(road("dial", way, seed), learned) for seed, (learned, _) in zip(SEEDS, runs, strict=True)]
    learned, forgotten = np.mean(runs, axis=0)
    return float(learned), float(forgotten), float(np.mean(by_dial))


def spread(gaps: list[float]) -> str:
    """The smallest and the largest gap."""
    return f"{min(gaps):+.2f} to {max(gaps):+.2f}" if gaps else "-"


def confidence(way: str, before: dict[str, tuple[float, float, float]]) -> list[float]:
    """Learned without and with a temperature, forgotten without and with one; means over two seeds.

    before: of the base, for each text the temperature and the loss without it and with it, as the arms have them.
    """
    arms = load_results("forgetting")["arms"]
    runs = [arms[f"confidence of {way}, seed {seed}"]["confidence"] for seed in CALIBRATED]
    lost = {text: np.mean(np.subtract([run[text] for run in runs], before[text]), axis=0) for text in before}
    return [float(value) for value in (*-lost["shakespeare"][1:], *lost["speeches"][1:])]


def at_tied_rates(runs: Runs, ways: Iterable[str]) -> list[list[str]]:
    """A row for each rate that a way may call its best: way, rate, learned, forgotten, number of seeds."""
    rows = []
    for way in ways:
        for lr in of_way(runs, way).tied():
            some = [run for run in of_way(runs, way) if run.lr == lr]
            learned, forgotten = np.mean([(run.learned, run.forgotten) for run in some], axis=0)
            rows.append([way, f"{lr:g}", f"{learned:.3f}", f"{forgotten:.3f}", f"{len(some)}"])
    return rows
