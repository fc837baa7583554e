"""What the stored runs of notebook 15 say: their points, a line through logarithms, and how well it predicts."""

import functools
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np

from lora_course.nb15.lab import NEW, OLD, SHORT
from lora_course.running.stored import load_results
from lora_course.running.sweeps import SEEDS, UNSAID

LEAST = 0.005  # nats forgotten: below it chance decides, and a logarithm would make much of it
CANDIDATES = {
    "norm of the update": "norm",
    "learned": "learned",
    "KL(trained || base), new text": "kl",
    "KL(base || trained), new text": "kl_back",
    "KL(base || trained), old text": "kl_old_back",
}
Point = SimpleNamespace
Line = tuple[float, float]  # slope and intercept of log forgotten over log of something


@functools.cache
def points() -> list[Point]:
    """Every stored point: what it measured, its run's `way` and settings, and which `part` of it: "1", "0.5" ..."""
    stored, found = load_results("forgetting"), []
    for arm, measured in stored["arms"].items():
        settings = UNSAID | {"text": NEW} | stored["settings"][arm]
        seed, way = settings.pop("repeat", 0), way_of(settings)
        for part, values in measured["points"].items():
            found.append(Point(arm=arm, part=part, seed=seed, way=way, **settings | values))
    return found


def way_of(settings: dict) -> str:
    """ "lora r8", "full" ..., "short and hot", "verses" or "one bias"."""
    if settings["method"] == "bias":
        return "one bias"
    if settings["text"] != NEW:
        return "verses"
    method = f"lora r{settings['rank']}" if settings["method"] == "lora" else settings["method"]
    return "short and hot" if (method, settings["lr"], settings["steps"]) in SHORT else method


def on_plays(whole: bool = False, short: bool = True) -> list[Point]:
    """Points of runs on plays that learned, and forgot LEAST or more. whole: runs alone. short: the hot ones, too."""
    out = {"verses", "one bias"} | (set() if short else {"short and hot"})
    some = [p for p in points() if p.way not in out and (p.part == "1" or not whole)]
    return [p for p in some if p.forgotten >= LEAST and p.learned > 0]  # the others have no logarithm


def line(some: Iterable[Point], which: str = "kl", what: str = "forgotten") -> Line:
    """The line nearest to log forgotten over the log of a candidate, by least squares."""
    x, y = np.log([(getattr(p, which), getattr(p, what)) for p in some]).T
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def says(law: Line, value: float) -> float:
    """What a line says is forgotten."""
    slope, intercept = law
    return float(np.exp(intercept) * value**slope)


def r_squared(some: Iterable[Point], which: str, what: str = "forgotten") -> float:
    """The share of the spread of log forgotten that the line through these points explains.

    what: "forgotten", in nats, or "forgotten_hits": in percent of the bytes whose favorite was right.
    """
    some = [p for p in some if getattr(p, what) > 0]
    law, y = line(some, which, what), np.log([getattr(p, what) for p in some])
    left = y - np.log([says(law, getattr(p, which)) for p in some])
    return float(1 - left.var() / y.var())


def each_seed(which: str) -> list[float]:
    """R squared over the runs of seed 0, of 1 and of 2: runs of one seed share their batches."""
    return [r_squared([p for p in on_plays(whole=True) if p.seed == seed], which) for seed in SEEDS]


def over_the_line(some: Iterable[Point], law: Line) -> list[float]:
    """What each point forgot, as a multiple of what the line says at its KL."""
    return [p.forgotten / says(law, p.kl) for p in some]


def told_by_the_other() -> dict[str, list[float]]:
    """What the runs of adapters forgot, as multiples of a line through full fine-tuning alone, and the reverse."""
    points = {method: [p for p in on_plays(short=False) if p.method == method] for method in ("full", "lora")}
    runs = {method: [p for p in some if p.part == "1"] for method, some in points.items()}
    return {one: over_the_line(runs[one], line(points[other])) for one, other in (("lora", "full"), ("full", "lora"))}


def rewards() -> list[Point]:
    """Notebook 16's runs that were paid for writing no e: `kl` on their own roll-outs, and what they forgot."""
    stored = load_results("reward")
    before = stored["arms"]["film, lr 0.003, seed 0"]["looks"]["0"]["addresses"]
    found = []
    for arm, settings in stored["settings"].items():
        if settings["method"] in ("lora", "qlora", "full") and not settings.keys() & {"reward", "film"}:
            last = list(stored["arms"][arm]["looks"].values())[-1]
            found.append(Point(arm=arm, way="a reward", kl=last["kl"], forgotten=last["addresses"] - before))
    return [point for point in found if point.forgotten >= LEAST]


def times_at_equal(some: str, held: str, part: str = "1", other: str = "full, lr 0.001") -> list[float]:
    """How many times as much a run forgot as the other's dial at equal `held`: a number a seed.

    part: of the run, "1" for all of it, "0.5" for it turned down to half. Between two settings of the dial the line is
    straight in logarithms. Where it does not reach there is no number.
    """
    found = []
    for run in (p for p in points() if p.arm.startswith(f"{some}, seed") and p.part == part and p.steps == 100):
        dial = [p for p in points() if p.arm.startswith(f"{other}, seed {run.seed}") and p.steps == 100]
        x, y = np.log(sorted((getattr(p, held), p.forgotten) for p in dial if p.part[0].isdigit())).T
        at = np.log(getattr(run, held))
        if x[0] <= at <= x[-1]:
            found.append(float(run.forgotten / np.exp(np.interp(at, x, y))))
    return found


def confidence(before: dict[str, tuple], seed: int) -> dict[str, list[float]]:
    """What rank 8 and full fine-tuning learned and forgot: as it is, and if each, the base too, has one temperature.

    before: of the base, for each text the temperature and the loss without it and with it.
    """
    arms, rows = load_results("forgetting")["arms"], {}
    for name, arm in {"rank 8": "lora r8, lr 0.01", "full": "full, lr 0.001"}.items():
        for what, text, sign in (("learned", NEW, -1), ("forgot", OLD, 1)):
            after = arms[f"{arm}, seed {seed}"]["confidence"][text]
            rows[f"{name} {what}"] = [sign * (now - was) for now, was in zip(after[1:], before[text][1:], strict=True)]
    return rows


def parts_of(arm: str) -> dict[str, Point]:
    """The points of one run, by part."""
    return {p.part: p for p in points() if p.arm == arm}
