"""What the stored runs of notebook 16 say: e's and divergence of each way, beside one bias and beside picked roll-outs.

A run is judged by what it was trained for: what its bytes cost, plus beta times its divergence. Ways are compared at
equal divergence: `bias_line` and `picked_line` say what a bias, and what picking, make of the same KL.
"""

from types import SimpleNamespace

import numpy as np

from lora_course.running.stored import load_results
from lora_course.running.sweeps import Runs

UNSAID = {"beta": 0.3, "reward": "no e", "rank": 8, "repeat": 0, "lr": 0.0}
FEWEST = 8  # roll-outs: where fewer carry the weights, nothing is read off them


def all_runs() -> Runs:
    """Every stored run and bias with its last look (`e`, `kl`, `words` ...), its `way`, and its training's `loss`."""
    stored, found = load_results("reward"), Runs()
    for arm, measured in stored["arms"].items():
        if looks := measured.get("looks"):
            run = UNSAID | stored["settings"][arm] | looks[max(looks, key=int)]
            run |= {"way": arm.partition(", lr")[0], "seed": run["repeat"], "looks": looks}
            found.append(SimpleNamespace(**run | {"loss": run["e"] + run["beta"] * run["kl"]}))
    return found


def at_best(way: str) -> Runs:
    """The runs of a way at its own best rate, one for each seed."""
    return all_runs().where(way=way).best()


def looks_of(way: str) -> dict[int, dict]:
    """Step -> what was measured then, of a run that was filmed."""
    (run,) = all_runs().where(way=way, seed=0)
    return {int(step): look for step, look in run.looks.items()}


def mean(runs: Runs, which: str) -> float:
    return float(np.mean([getattr(run, which) for run in runs]))


# --- the rivals' lines ------------------------------------------------------------------------------------------------


def bias_line() -> np.ndarray:
    """(n, 2): KL of a bias on e, and its share of e's. The smallest KL first."""
    return np.array(sorted((run.kl, run.e) for run in all_runs().where(method="bias")))


def picked_line() -> np.ndarray:
    """The same of roll-outs picked afterwards, as far as more than a few carry the weights."""
    looks = load_results("reward")["arms"]["picked"]["strengths"].values()
    return np.array([(look["kl"], look["e"]) for look in looks if look["carried_by"] >= FEWEST])


def below(line: np.ndarray, runs: Runs) -> np.ndarray:
    """By how much each run lies below a line at its own divergence: straight between two points, NaN outside."""
    there = np.interp([run.kl for run in runs], line[:, 0], line[:, 1], left=np.nan, right=np.nan)
    return there - [run.e for run in runs]


def lead(one: str, other: str) -> np.ndarray:
    """How much farther below one bias one way ends than another, each at its own KL, seed by seed."""
    return below(bias_line(), at_best(one)) - below(bias_line(), at_best(other))


def th_rows() -> list[tuple[str, float, float]]:
    """Who writes how many th in 1,000 bytes, and at which KL: seed 0 of each way."""
    ways = {"base": "bias 0", "one bias": "bias -3", "rank 1": "lora r1", "256 constants": "constants"}
    ways |= {"by the last byte": "by last byte"}
    runs = {name: next(run for run in at_best(way) if run.seed == 0) for name, way in ways.items()}
    return [(name, 1000 * run.th, run.kl) for name, run in runs.items()]
