"""What the stored runs of notebook 16 say: e's and divergence of each way, beside one bias and beside picked roll-outs.

A run is judged by what it was trained for: what its bytes cost, plus beta times its divergence. Ways are compared at
equal divergence: `bias_line` and `picked_line` say what one bias, and what picking, make of the same KL.
"""

from types import SimpleNamespace

import numpy as np

from lora_edu.experiments.nb16 import UNREAL
from lora_edu.experiments.stored import load_results
from lora_edu.experiments.sweeps import Runs

UNSAID = {"beta": 0.3, "reward": "no e", "rank": 8, "repeat": 0, "lr": 0.0}
FEWEST = 8  # roll-outs: where fewer carry the weights, nothing is read off them


def all_runs() -> Runs:
    """Every stored run and bias with its last look (`e`, `kl`, `words` ...), its `way`, and the `loss` of its training.

    `cost` is what its reward charges a byte: its e's, and for `words` the words that are not real as well.
    """
    stored, found = load_results("reward"), Runs()
    for arm, measured in stored["arms"].items():
        if looks := measured.get("looks"):
            run = UNSAID | stored["settings"][arm] | looks[max(looks, key=int)]
            run |= {"way": arm.partition(", lr")[0], "seed": run["repeat"], "looks": looks}
            run |= {"random": measured.get("random"), "charged": run["e"] + UNREAL * run["unreal"]}
            run["cost"] = run["charged"] if run["reward"] == "words" else run["e"]
            found.append(SimpleNamespace(**run | {"loss": run["cost"] + run["beta"] * run["kl"]}))
    return found


def at_best(way: str) -> Runs:
    """The runs of a way at its own best rate, one for each seed."""
    return all_runs().where(way=way).best()


def bias_line(which: str = "e") -> np.ndarray:
    """(n, 2): KL of a bias on e, and its share of e's, or another number. The smallest bias first."""
    return np.array(sorted((run.kl, getattr(run, which)) for run in all_runs().where(method="bias")))


def picked_line(which: str = "e") -> np.ndarray:
    """The same of roll-outs picked afterwards, as far as more than a few carry the weights."""
    looks = load_results("reward")["arms"]["picked"]["strengths"].values()
    return np.array([(look["kl"], look[which]) for look in looks if look["carried_by"] >= FEWEST])


def at_kl(line: np.ndarray, kl: float) -> float:
    """What a line has at a divergence: along the straight line between two of its points, NaN outside of them."""
    return float(np.interp(kl, *line.T, left=np.nan, right=np.nan))


def below_bias(runs: Runs, which: str = "e") -> list[float]:
    """By how much each run lies below one bias at its own divergence."""
    line = bias_line(which)
    return [at_kl(line, run.kl) - getattr(run, which) for run in runs]


def way_there(e: float, kl: float) -> float:
    """How far below one bias a share of e's lies, as a share of the way down to picked roll-outs at this divergence."""
    bias, picked = at_kl(bias_line(), kl), at_kl(picked_line(), kl)
    return (bias - e) / (bias - picked)


def beside(runs: Runs) -> list[float]:
    """Means over the seeds: KL, e's, those of one bias and of picked roll-outs at equal KL, real words, the bias's."""
    lines = (bias_line(), picked_line(), bias_line("words"))
    rows = [
        (run.kl, run.e, *(at_kl(line, run.kl) for line in lines[:2]), run.words, at_kl(lines[2], run.kl))
        for run in runs
    ]
    return np.mean(rows, axis=0).tolist()


def lead(one: str, other: str) -> list[float]:
    """How much farther below one bias one way ends than another, each at its own KL, seed by seed."""
    return [a - b for a, b in zip(below_bias(at_best(one)), below_bias(at_best(other)), strict=True)]
