"""What the stored runs with few numbers say: how much of rank 8's gain each way has, by three lessons (notebook 10).

A run is measured by what it was trained for, on held-out text: a loss. Its gain is what the loss fell by from the
base's, as a share of what it fell by with rank 8 (the mean over the seeds).
"""

import statistics
from types import SimpleNamespace

from lora_course.nb10 import lab_runs
from lora_course.nb10.lab_few import WAYS
from lora_course.running.stored import load_results
from lora_course.running.sweeps import TIE, Runs, stored_runs

BETA = 0.3  # what the reward's training pays for a nat of KL
LESSONS = ("plays", "reward", "what the reward wrote")


def paid(measured: dict) -> float:
    """What a byte costs by the reward's own prices: its chance to be an e, and its KL from the base."""
    return measured["e"] + BETA * measured["kl"]


def all_runs(lesson: str) -> tuple[float, Runs]:
    """The base's loss, and every stored run with `way`, `lr`, `seed` and `loss`. lesson: one of LESSONS."""
    if lesson == "plays":
        ranks = Runs(run for run in lab_runs.all_runs() if run.way in WAYS)
        few = Runs(run for run in stored_runs("few-numbers", "plays") if run.steps == 100)
        for run in few:
            run.way, run.numbers = run.what, run.trained
        return load_results("nf4-draws")["arms"]["full precision"]["plays"], Runs(ranks + few)
    stored = load_results("few-rewarded")
    found, reads = Runs(), lesson != "reward"
    for arm, how in stored["settings"].items():
        if how.get("read", False) == reads:
            measured = stored["arms"][arm]
            found.append(_run(how["what"], how, measured["nll"] if reads else paid(measured)))
    if reads:
        return next(run.loss for run in found if run.lr == 0), Runs(run for run in found if run.lr)
    by_reward = load_results("reward")
    for arm, how in by_reward["settings"].items():
        if (way := arm.partition(", lr")[0]) in WAYS:
            found.append(_run(way, how, paid(by_reward["arms"][arm]["looks"]["40"])))
    return paid(by_reward["arms"]["bias 0"]["looks"]["0"]), found


def _run(way: str, how: dict, loss: float) -> SimpleNamespace:
    return SimpleNamespace(way=way, lr=how["lr"], seed=how["repeat"], loss=loss)


def best(lesson: str, way: str) -> Runs:
    """The runs of a way at its own best rate, one for each seed."""
    return all_runs(lesson)[1].where(way=way).best(TIE if lesson == "plays" else 0)


def scale(lesson: str) -> tuple[float, float]:
    """The base's loss, and what rank 8 gains from there: the mean over its seeds."""
    base = all_runs(lesson)[0]
    return base, base - statistics.mean(run.loss for run in best(lesson, "lora r8"))


def shares(lesson: str) -> dict[str, list[float]]:
    """Way -> its gain as a share of rank 8's, seed by seed; the fewest numbers first."""
    base, whole = scale(lesson)
    ran = {run.way for run in all_runs(lesson)[1]}
    return {way: [(base - run.loss) / whole for run in best(lesson, way)] for way in WAYS if way in ran}


def one_bias() -> float:
    """The share of rank 8's gain by the reward that one number has: notebook 16's best bias on e."""
    base, whole = scale("reward")
    arms = load_results("reward")["arms"]
    least = min(paid(arm["looks"]["0"]) for name, arm in arms.items() if name.startswith("bias "))
    return (base - least) / whole
