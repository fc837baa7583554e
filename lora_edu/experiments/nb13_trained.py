"""What the verdicts of notebook 13 are computed from where training or timing is needed: mostly stored results.

As in `nb13_measured`, each function returns {setting: number}. Nothing is written down here: another result of an
experiment gives another number.
"""

import copy
import math
from functools import cache
from statistics import mean, stdev

import numpy as np
import torch

from lora_edu.experiments import nb09, nb10_runs
from lora_edu.experiments.nb02 import best_rates as digit_rates
from lora_edu.experiments.nb04 import relative_times
from lora_edu.experiments.nb10_sizes import RANKS, READING
from lora_edu.experiments.nb13 import BEST, SIZES, Verses, balanced, verses
from lora_edu.experiments.nb13_measured import Numbers, base, results
from lora_edu.experiments.nb13_products import LAYER_TOKENS, STEP_TOKENS, product_name
from lora_edu.experiments.stored import load_results
from lora_edu.experiments.sweeps import Runs, paired, stored_runs
from lora_edu.gpt import GPTConfig
from lora_edu.memory.shapes import BASE, CONSTANTS, predicted_bytes
from lora_edu.qlora import quantize_linears

TOLERANCE = 0.004  # nats a byte; said on the page before any difference is looked at
# Standard errors over six books. Luck alone passes them once in twenty (Student's t, five degrees of freedom):
CLEAR = 2.6  # either way: is there a difference?
ABOVE = 2.0  # upward: is the one better, as a sentence says?
Gaps = dict[str, list[float]]  # setting -> one difference a seed, in nats a byte; above 0: the first is worse


# --- as good as another method: seed by seed, since seeds share their batches ----------------------------------------


def means(found: Gaps) -> Numbers:
    """The mean difference of each setting. Its name says in how many seeds the first method is worse."""
    return {f"{name} (worse in {sum(d > 0 for d in ds)} of {len(ds)} seeds)": mean(ds) for name, ds in found.items()}


def deviation(ds: list[float]) -> float:
    """A mean difference in standard errors of its own seeds; with three, luck alone passes 4.3 once in twenty."""
    return mean(ds) / (stdev(ds) / len(ds) ** 0.5)


@cache
def quality() -> Runs:
    return nb09.quality_runs()


def gaps(one: str, other: str, text: str, which: str = "loss", rank: int = 8) -> list[float]:
    """The loss of one method minus the other's, seed by seed. rank: of the first."""
    return paired(nb09.of(quality(), one, text, rank), nb09.of(quality(), other, text), which)


def lora_gaps() -> Gaps:
    """LoRA minus full fine-tuning, on plays, each at its own rate.

    Verses are no case: there the head alone does as well as everything, so that the test could not tell.
    """
    found = {f"{text}, rank 8": gaps("lora", "full", text) for text in nb09.TEXT_SIZES}
    for other, name in (("full", "everything"), ("blocks", "the same matrices")):
        found[f"all plays, rank 64 against {name}"] = gaps("lora", other, "all plays", rank=64)
    return found


def qlora_gaps() -> Gaps:
    """QLoRA minus LoRA: on the text that was learned, and on the addresses that the base knew."""
    which = {"learned": "loss", "kept": "addresses"}
    return {f"{t}, {name}": gaps("qlora", "lora", t, loss) for t in nb09.TEXT_SIZES for name, loss in which.items()}


def lora_against_full() -> Numbers:
    return means(lora_gaps())


def two_that_match() -> Numbers:
    """The same measure where two methods do end alike: QLoRA and LoRA, on plays."""
    return means({"QLoRA against LoRA, all plays": qlora_gaps()["all plays, learned"]})


def qlora_against_lora() -> Numbers:
    return means(qlora_gaps())


def noise_left(kinds: tuple[str, ...] = ("NF4", "noise", "4 x noise")) -> Numbers:
    """The loss that a damaged base still costs after training, in nats a byte, seed by seed against the whole base."""
    found = nb09.recovery(quality())
    return means({kind: found[kind][1] for kind in kinds})


def rounding_alone(text: str) -> float:
    """What NF4 costs the base before any training, in nats a byte. text: `after` (plays) or `addresses`."""
    arms = results("qlora-quality")
    return arms["nf4, not trained"][text] - arms["lora, not trained"][text]


# --- the task with an accuracy ---------------------------------------------------------------------------------------


@cache
def verse_runs() -> Runs:
    return stored_runs("verses", "loss")


def by_seed(model: str, method: str, which: str = "accuracy") -> dict:
    """Seed -> what is stored, at the method's best rate. Seeds that were not run are left out."""
    runs = verse_runs().where(model=model, method=method, lr=BEST.get((model, method), 0.0), steps=100)
    return {run.seed: getattr(run, which) for run in runs}


def accuracies(model: str, method: str, which: str = "accuracy") -> list:
    """The same as a list."""
    return list(by_seed(model, method, which).values())


def right(model: str, method: str, draw: int = 0) -> np.ndarray:
    """(verses,) of the test: 1 where the answer was right, else 0."""
    return np.array([int(r) for r in by_seed(model, method, "right")[draw]])


@cache
def test_of(model: str) -> Verses:
    """The verses that a model is tested on: the same for each method and seed."""
    return balanced(verses()[1], SIZES[model]["tested"], seed=0)


def over_books(differences: np.ndarray, model: str) -> tuple[float, float]:
    """The mean of one number a verse, and its standard error if books are the independent draws and verses are not."""
    books = test_of(model).books.numpy()
    strays = [(differences - differences.mean())[books == book].sum() for book in np.unique(books)]
    k = len(strays)
    return float(differences.mean()), (k / (k - 1) * np.square(strays).sum()) ** 0.5 / len(differences)


def above_rival(model: str, method: str, rival: str | None) -> tuple[float, float]:
    """An accuracy above a rival's, verse by verse in the mean over their common seeds, and its error over books.

    rival: None for the larger class, which is right in one half.
    """
    seeds = set(by_seed(model, method)) & set(by_seed(model, rival or method))
    ds = [right(model, method, draw) - (right(model, rival, draw) if rival else 0.5) for draw in sorted(seeds)]
    return over_books(np.mean(ds, axis=0), model)


def above_rivals() -> Numbers:
    """LoRA above its rivals, in standard errors: the larger class, and a bag of words."""
    rivals = {"the larger class": None, "a bag of words": "words"}
    found = {f"{model}, above {name}": above_rival(model, "lora", m) for model in READING for name, m in rivals.items()}
    return {name: average / error for name, (average, error) in found.items()}


def words_above_majority() -> Numbers:
    """The same of a bag of words, above the larger class."""
    average, error = above_rival("gpt", "words", None)
    return {"a bag of words above the larger class": average / error}


# --- rank and size ---------------------------------------------------------------------------------------------------


@cache
def rank_runs() -> Runs:
    return stored_runs("rank-and-size", "after")


def gains(model: str, rank: int, own_rate: bool = False, times: float = 1.0) -> dict[int, float]:
    """Seed -> the fall of the loss; own_rate: at the best of the rates that seed 0 tried; times: at one other rate."""
    runs = rank_runs().where(model=model, rank=rank)
    if own_rate:
        return {0: max(run.before - run.after for run in runs.where(seed=0))}
    return {run.seed: run.before - run.after for run in runs if getattr(run, "times", 1.0) == times}


def kept_share(model: str, rank: int, own_rate: bool = False, of: int | None = None, times: float = 1.0) -> list[float]:
    """The gain of a rank as a share of another's, for each seed that has both. of: None for the best rank's."""
    found = {r: gains(model, r, own_rate, times) for r in RANKS}
    most = found[of or max(RANKS, key=lambda r: mean(found[r].values()))]
    return [gain / most[draw] for draw, gain in found[rank].items() if draw in most]


def searched(model: str) -> bool:
    """Whether each rank was tried at other rates than the first, for seed 0."""
    return len(rank_runs().where(model=model, rank=1, seed=0)) > 1


def lost_in_the_larger() -> Numbers:
    """How much more of a larger rank's gain a rank loses in the larger model (135M) than in the smaller one (3.4M).

    Of which larger rank? The sign depends on it, so each is a setting.
    """
    pairs = [(1, 8), (1, 64), (8, 64), (1, None)]
    return {
        f"rank {rank} against {f'rank {of}' if of else 'the best'}": (
            mean(kept_share("gpt", rank, of=of)) - mean(kept_share("smollm2", rank, of=of))
        )
        for rank, of in pairs
    }


def lost_at_a_lower_rate(times: float = 0.33) -> Numbers:
    """The same difference within one model, between its rate and a third of it: nothing but the rate is another."""
    own, lower = ({rank: gains("gpt", rank, times=t)[0] for rank in RANKS} for t in (1.0, times))
    return {"rank 1 against rank 64, one model, two rates": own[1] / own[64] - lower[1] / lower[64]}


# --- learning rates --------------------------------------------------------------------------------------------------


def best_rate_moves(recipe: str = "alpha = 2r") -> Numbers:
    """The best rate at the largest rank over that at the smallest; a step of the grids is a factor of about 2."""
    stored, found = load_results("digit-rates"), {}
    for optimizer in ("plain descent", "Adam"):
        name = f"{optimizer}, {'alpha = 8' if recipe != 'alpha = 2r' else recipe}"
        best = digit_rates(stored["arms"][name], stored["settings"][name]["rates"])
        found[f"digits, {optimizer}, ranks 2 to 8"] = best[8] / best[2]
    best = nb10_runs.best_rates(nb10_runs.all_runs())[recipe]
    return found | {"our GPT, Adam, ranks 1 to 64": best[64] / best[1]}


def best_rate_moves_at_a_fixed_alpha() -> Numbers:
    """The same with alpha = 8 at each rank, where the update of the larger rank is scaled down."""
    return {"digits, plain descent, alpha = 8": next(iter(best_rate_moves("alpha = 16").values()))}


def rate_over_full() -> Numbers:
    """LoRA's best rate over full fine-tuning's, with alpha = 2r."""
    runs = nb10_runs.all_runs()
    few = [nb09.of(quality(), method, "20 kB").best_rate() for method in ("lora", "full")]
    full, by_rank = nb10_runs.best_rate(runs, "full"), nb10_runs.best_rates(runs)["alpha = 2r"]
    return {f"all plays, rank {rank}": lr / full for rank, lr in sorted(by_rank.items())} | {
        "20 kB, rank 8": few[0] / few[1]
    }


def rates_as_good() -> list[Numbers]:
    """The same with other rates that are as good: for each of full's, LoRA's nearest to ten times it, and farthest."""
    runs = nb10_runs.all_runs()
    few = [nb09.of(quality(), method, "20 kB").tied(TOLERANCE) for method in ("full", "lora")]
    ranks = sorted(nb10_runs.best_rates(runs)["alpha = 2r"])
    tried = {f"all plays, rank {rank}": nb10_runs.of_way(runs, f"lora r{rank}").tied(TOLERANCE) for rank in ranks}

    def from_ten(multiple: float) -> float:
        return abs(math.log(multiple / 10))

    return [
        {name: pick((lr / full for lr in lrs), key=from_ten) for name, lrs in tried.items()}
        | {"20 kB, rank 8": pick((lora / whole for whole in few[0] for lora in few[1]), key=from_ten)}
        for full in nb10_runs.of_way(runs, "full").tied(TOLERANCE)
        for pick in (min, max)
    ]


def one_rate_for_both() -> Numbers:
    rate = nb10_runs.best_rate(nb10_runs.all_runs(), "full")
    return {"full's own rate": rate / rate}


# --- times -----------------------------------------------------------------------------------------------------------


def products_over_float32(kind: str = "NF4") -> Numbers:
    """The time of a layer, and of a training step, over that in float32; stored, of one processor."""
    arms = results("product-times")
    names = [product_name("layer", n) for n in LAYER_TOKENS] + [product_name("step", n) for n in STEP_TOKENS]
    return {f"{name}, {kind}": arms[name][kind] for name in names if kind in arms[name]}


def integers_over_float32() -> Numbers:
    """The same of a product that really is of 8-bit integers, the rounding of its input included."""
    name = product_name("layer", LAYER_TOKENS[1])
    return {f"{name}, int8": results("product-times")[name]["int8"]}


# --- a small device --------------------------------------------------------------------------------------------------


@cache
def on_a_small_device() -> Numbers:
    """QLoRA over the 32-bit way: bytes of the model, time for one byte, peak of a training step, its time."""
    full, qlora = predicted_bytes(GPTConfig()), predicted_bytes(GPTConfig(), rank=8, nf4=True)
    films, four_bits = results("step-films"), quantize_linears(copy.deepcopy(base()), double_quant=True)
    one = torch.zeros(1, 1, dtype=torch.long)
    with torch.inference_mode():
        times = relative_times({"float32": lambda: base()(one), "NF4": lambda: four_bits(one)}, rounds=25)
    return {
        "bytes of the model": (qlora[BASE] + qlora[CONSTANTS]) / full[BASE],
        "peak memory of a training step": films["freeze, four_bits"]["peak"] / films["none"]["peak"],
        "time to write one byte": times["NF4"],
    }
