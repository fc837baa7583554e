"""What the stored runs of notebook 10 say: the loss of each way on held-out plays, at which rates, beside which others.

Of rates that tie, the best is one that was run with the most seeds.
"""

import functools
import math
from collections.abc import Iterable
from types import SimpleNamespace

from lora_course.nb09 import lab as nb09
from lora_course.nb10.lab import HALF, PLACES, SCALINGS, rank_way
from lora_course.running.sweeps import TIE, Runs, stored_runs

RANKS = (1, 2, 4, 8, 64)
COMPARED = (1, 8, 64)  # ranks that were swept with each scaling
IN_FULL = {"full": 3_356_160, "blocks": 3_145_728}  # numbers trained: everything, the matrices that adapters are given
A_RANK = 18_432  # numbers that one rank on all of these takes


@functools.cache
def all_runs() -> Runs:
    """Every stored run on all plays, by its `way`: this notebook's, and those of 09, which follow the same protocol."""
    ours, found = stored_runs("lora-price", "plays") + stored_runs("lora-where", "plays"), Runs()
    for run in nb09.quality_runs().where(text="all plays") + ours:
        if run.loss < math.inf:
            adapter = getattr(run, "trained", run.rank * A_RANK)
            more = {"plays": run.loss, "way": way_of(run), "numbers": IN_FULL.get(run.method, adapter)}
            found.append(SimpleNamespace(**vars(run) | more))
    return found


def way_of(run: SimpleNamespace) -> str:
    """What a run trains, in a few words: "full", "lora r8", "q v", "up down, rank 2"."""
    if run.method in ("full", "blocks"):
        return run.method
    places = {place: way for way, place in (PLACES | HALF).items()}
    scaling = next(name for name, scale in SCALINGS.items() if scale(run.rank) == run.scaling)
    return places.get((tuple(run.targets), run.rank)) or rank_way(run.method, run.rank, scaling)


def best_rate(runs: Runs, way: str) -> float:
    return runs.where(way=way).best_rate(TIE)


def at_best(runs: Runs, way: str) -> Runs:
    """The runs of a way at its own best rate, one for each seed."""
    return runs.where(way=way).best(TIE)


def two_best(runs: Runs, ways: Iterable[str]) -> dict[str, float]:
    """How far apart the losses of each way's two best rates are, with seed 0."""
    losses = {way: sorted(runs.where(way=way).sweep().values()) for way in ways}
    return {way: some[1] - some[0] for way, some in losses.items()}


def best_rates(runs: Runs) -> dict[str, dict[int, float]]:
    """Scaling -> rank -> best of three rates or more. All scalings are the same at rank 8."""
    eight = best_rate(runs, rank_way("lora", 8))
    found = {}
    for scaling in SCALINGS:
        ways = {rank: rank_way("lora", rank, scaling) for rank in RANKS}
        swept = [rank for rank, way in ways.items() if len({run.lr for run in runs.where(way=way)}) > 2]
        found[scaling] = {rank: best_rate(runs, ways[rank]) for rank in swept} | {8: eight}
    return found


def multiples(runs: Runs) -> dict[str, dict[int, str]]:
    """Scaling -> rank -> LoRA's best rate over that of the same matrices in full: a range where rates tie."""
    full, found = runs.where(way="blocks").tied(), {}
    for scaling in SCALINGS:
        ties = {rank: swept(runs, rank, scaling).tied() for rank in COMPARED}
        ends = {rank: (rates[0] / full[-1], rates[-1] / full[0]) for rank, rates in ties.items()}
        found[scaling] = {r: f"{low:g} to {high:g}" if low < high else f"{low:g}" for r, (low, high) in ends.items()}
    return found


def regret(runs: Runs, lr: float) -> dict[str, dict[int, float]]:
    """Scaling -> rank -> what one rate for every rank costs: nats above the scaling's own best rate at that rank."""
    found: dict[str, dict[int, float]] = {}
    for scaling in SCALINGS:
        for rank in COMPARED:
            here = swept(runs, rank, scaling).sweep()
            found.setdefault(scaling, {})[rank] = here[lr] - min(here.values())
    return found


def swept(runs: Runs, rank: int, scaling: str) -> Runs:
    """The runs at one rank and scaling: at rank 8 all scalings are one."""
    return runs.where(way=rank_way("lora", rank, "alpha = 2r" if rank == 8 else scaling))
