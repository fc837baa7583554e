"""What the stored runs of notebook 15 say: what a way learned and forgot along each of three roads down.

A way's line is straight between its runs. Where it is convex the true one sags below it, so a gap that is read at one
way's own runs is too small if the *other* way was drawn straight there.
"""

from collections.abc import Iterable

import numpy as np

from lora_course.nb10.lab_runs import all_runs, base_losses
from lora_course.nb15.lab import CALIBRATED, DIALS, LORA, SMALL, TURNED_DOWN
from lora_course.running.stored import load_results
from lora_course.running.sweeps import SEEDS, Runs, stored_runs

ROADS = ("rate", "dial", "steps")
Line = np.ndarray  # (n, 2): learned and forgotten of a way, from almost nothing to its best run
Point = tuple[float, float]  # learned and forgotten


def road(name: str, way: str, seed: int) -> Line:
    """Where one of ROADS leads a run of TURNED_DOWN, seed by seed; its last point is the run itself."""
    options, stored = TURNED_DOWN[way], stored_runs("forgetting", "plays").where(seed=seed)
    if name == "dial":
        arm = dial_arm(way, seed)
        losses = [*(arm["dial"][f"{share:g}"] for share in sorted(DIALS[way])), (arm["plays"], arm["addresses"])]
        return np.array([(0.0, 0.0), *(_price(*both) for both in losses)])
    kind = way.partition(",")[0]  # full fine-tuning's two runs are one way at two rates
    runs = [run for run in all_runs().where(way=kind, seed=seed) if run.lr <= options["lr"]]
    small = stored.where(method="lora", lr=SMALL) if way == LORA else []
    points = sorted(_price(run.plays, run.addresses) for run in [*small, *runs])
    if name == "steps":
        runs = [run for run in stored.where(method=options["method"], lr=options["lr"]) if run.steps < 100]
        fewer = sorted((run.steps, *_price(run.plays, run.addresses)) for run in runs)
        points = [*(point[1:] for point in fewer), points[-1]]
    return np.array(points)


def at_small_rate() -> list[float]:
    """Of LORA at the rate SMALL: the norm by which it moved, learned, forgotten; means over the seeds."""
    runs = stored_runs("forgetting", "plays").where(method="lora", lr=SMALL)
    return np.mean([(run.norm, *_price(run.plays, run.addresses)) for run in runs], axis=0).tolist()


def dial_arm(way: str, seed: int) -> dict:
    """A run that the dial turned down, as it is stored: both losses, at each setting too, and the norm it moved by."""
    return load_results("forgetting")["arms"][f"dial of {way}, seed {seed}"]


def _price(plays: float, addresses: float) -> Point:
    """What was learned and forgotten against the base, from both losses."""
    before = base_losses()
    return before[0] - plays, addresses - before[1]


def mean_road(name: str, way: str) -> Line:
    """The mean of a way's lines over the seeds, as far back from the end as each of them goes."""
    lines = [road(name, way, seed) for seed in SEEDS]
    return np.mean([line[-min(map(len, lines)) :] for line in lines], axis=0)


def forgotten_at(line: Line, learned: float) -> float:
    """What a way forgets at so much learning, between two of its runs; not a number outside them."""
    line = line[: line[:, 0].argmax() + 1]  # beyond, more is forgotten and no more learned
    x, y = line[line[:, 0].argsort()].T
    return float(np.interp(learned, x, y, left=np.nan, right=np.nan))


def at_the_run(name: str, way: str, rival: str) -> list[float]:
    """How much more the run itself forgot than its rival, turned down to as much learning: a number for each seed."""
    ends = [road("rate", way, seed)[-1] for seed in SEEDS]
    return [end[1] - forgotten_at(road(name, rival, seed), end[0]) for seed, end in zip(SEEDS, ends, strict=True)]


def dialed(way: str) -> dict[float, Point]:
    """Setting of the dial -> what is learned and forgotten there: means over the seeds; at 1 the run itself."""
    lines = mean_road("dial", way)[1:]  # the first point is the base
    return dict(zip([*sorted(DIALS[way]), 1.0], map(tuple, lines.tolist()), strict=True))


def kept(way: str, share: float) -> Point:
    """What shares of its own learning, and of its own forgetting, a run keeps at a setting of the dial."""
    found = dialed(way)
    return found[share][0] / found[1.0][0], found[share][1] / found[1.0][1]


def moved(way: str) -> float:
    """The norm of what a run changed in the matrices of the blocks, as a share of theirs: the mean over the seeds."""
    return float(np.mean([dial_arm(way, seed)["norm"] for seed in SEEDS]))


def by_dial(way: str, learned: float) -> float:
    """What was forgotten at so much learning along the dial: the mean over the seeds, if each seed goes so far."""
    return float(np.mean([forgotten_at(road("dial", way, seed), learned) for seed in SEEDS]))


def spread(gaps: list[float]) -> str:
    """The smallest and the largest gap."""
    return f"{min(gaps):+.2f} to {max(gaps):+.2f}"


def confidence(way: str, before: dict[str, list[float]]) -> list[float]:
    """Learned as it is, with a temperature, and with byte frequencies too; forgotten likewise: means over two seeds.

    before: of the base, for each text the temperature and the three losses, as the arms have them.
    """
    arms = load_results("forgetting")["arms"]
    runs = [arms[f"confidence of {way}, seed {seed}"]["confidence"] for seed in CALIBRATED]
    lost = {text: np.mean(np.subtract([run[text] for run in runs], before[text]), axis=0) for text in before}
    return [float(value) for value in (*-lost["shakespeare"][1:], *lost["speeches"][1:])]


def at_tied_rates(runs: Runs, ways: Iterable[str]) -> list[list[str]]:
    """A row for each rate that a way may call its best: way, rate, learned, forgotten, number of seeds."""
    rows = []
    for way in ways:
        for lr in runs.where(way=way).tied():
            some = [run for run in runs.where(way=way) if run.lr == lr]
            learned, forgotten = np.mean([(run.learned, run.forgotten) for run in some], axis=0)
            rows.append([way, f"{lr:g}", f"{learned:.3f}", f"{forgotten:.3f}", f"{len(some)}"])
    return rows
