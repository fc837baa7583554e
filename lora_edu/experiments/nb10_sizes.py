"""Must the rank grow with the model? Adapters of three ranks on two models, forty times apart in size (notebook 10)

Both read the King James Bible for a few steps: the course's GPT, and SmolLM2.
"""

from statistics import mean

import torch

from lora_edu.experiments.sweeps import stored_runs
from lora_edu.lora import add_lora
from lora_edu.models.pretrain import load_base
from lora_edu.models.pretrained import load_pretrained, next_token_loss, tokenize
from lora_edu.texts import Text, load_text
from lora_edu.training import evaluate, model_loss, train

RANKS = (1, 8, 64)
READING = {  # steps, sequences of 256 tokens a step, rate; windows of the test
    "gpt": {"steps": 30, "batch_size": 4, "lr": 5e-3, "windows": 32},
    "smollm2": {"steps": 12, "batch_size": 1, "lr": 2e-3, "windows": 8},
}


def loss_at_rank(
    model: str, rank: int, draw: int = 0, times: float = 1.0, *, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Train an adapter of this rank on the King James Bible: the loss on held-out books before and after.

    times: of the model's rate in READING. In nats a token, which is a byte for the course's GPT. alpha is 2 * rank, so
    that s = 2 at every rank. Under Adam each component of B A then moves by about the rate, so a larger rank moves the
    weight farther in as many steps: each rank needs rates of its own.
    """
    how = dict(READING[model])
    how["lr"] *= times
    windows, text, loss_fn = how.pop("windows"), load_text("king-james"), model_loss
    if model == "gpt":
        network = load_base("laptop", device="cpu")
    else:
        network, tokenizer = load_pretrained("smollm2", device="cpu")
        text, loss_fn = Text(*(tokenize(tokenizer, part) for part in text)), next_token_loss
    network.requires_grad_(False)

    def loss() -> float:
        tested = dict(seq_len=256, max_windows=windows, batch_size=2, loss_fn=loss_fn)
        return round(evaluate(network, text.validation, **tested), 5)

    before = loss()
    torch.manual_seed(seed + draw)
    add_lora(network, rank=rank, alpha=2 * rank, targets="all-linear")
    train(network, text, **how, seq_len=256, seed=seed + draw, eval_windows=1, loss_fn=loss_fn, progress=progress)
    return {"before": before, "after": loss()}


TIMES = {"gpt": (0.33, 1.0, 3.0, 10.0), "smollm2": (0.33, 1.0, 3.0)}  # of the rate, for seed 0


def rank_name(model: str, rank: int, times: float = 1.0, draw: int = 0) -> str:
    return f"{model}, rank {rank}, " + (f"rate x {times:g}, " if times != 1 else "") + f"seed {draw}"


RANK_ARMS = {
    rank_name(model, rank, times, draw): {"model": model, "rank": rank, "draw": draw}
    | ({"times": times} if times != 1 else {})
    for draw in range(3)
    for model, factors in TIMES.items()
    for rank in RANKS
    for times in (factors if draw == 0 else (1.0,))
}


def kept(model: str, rank: int = 1, of: int = 64) -> tuple[float, float]:
    """A rank's gain as a share of another's: at one rate for both, the mean over seeds, and each at its own, seed 0."""

    def gains(of_rank: int) -> tuple[float, float]:
        return mean(gains_of(model, of_rank, times=1.0)), max(gains_of(model, of_rank, seed=0))

    return tuple(mine / other for mine, other in zip(gains(rank), gains(of), strict=True))


def gains_of(model: str, rank: int, **settings) -> list[float]:
    """The fall of the loss in each run with these settings. times: of the rate that all ranks share."""
    runs = stored_runs("rank-and-size", "after").where(model=model, rank=rank, **settings)
    return [run.before - run.after for run in runs]


def most_won(model: str) -> tuple[float, float]:
    """Nats a token: the loss before, and the most that any run won of it, whatever its rank, rate and seed."""
    runs = stored_runs("rank-and-size", "after").where(model=model)
    return runs[0].before, max(run.before - run.after for run in runs)


def best_times(model: str, rank: int) -> float:
    """The factor of TIMES at which seed 0 won most."""
    runs = stored_runs("rank-and-size", "after").where(model=model, rank=rank, seed=0)
    return min(runs, key=lambda run: run.after).times


def little(model: str) -> str:
    """In words: how much there was to win, and where the best rates lie among those that were tried."""
    before, won = most_won(model)
    best = ", ".join(f"x {best_times(model, rank):g} at rank {rank}" for rank in (1, 64))
    tried = ", ".join(f"{factor:g}" for factor in TIMES[model])
    return f"{model}: won at most {won:.2f} of {before:.2f}; best of x {tried}: {best}"
