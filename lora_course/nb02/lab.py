"""The digits of notebook 02 and the network that learns them: what the notebook builds, and its search for rates.

The digits are 1,797 scans of 8x8 pixels, from the UCI set "Optical Recognition of Handwritten Digits". The network has
two linear layers, 64 -> 48 -> 10, with a tanh between them and no biases. It learns upright digits; the new task is the
same digits turned by a quarter.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lora_edu.files import data_file
from lora_edu.lora_numpy import Linear, LoRALinear

SIZES = {"train": 1000, "validation": 400, "test": 397}
RANKS = (2, 4, 8)  # of the search for rates
DESCENT_RATES = [0.008 * 2.0**step for step in range(7)]  # 0.008 to 0.512
ADAM_RATES = [0.001 * 2.0**step for step in range(7)]  # 0.001 to 0.064
RATE_ARMS = {
    "plain descent, alpha = 8": {"optimizer": "descend", "alpha": "8", "rates": DESCENT_RATES},
    "plain descent, alpha = 2r": {"optimizer": "descend", "alpha": "2r", "rates": DESCENT_RATES},
    "Adam, alpha = 8": {"optimizer": "adam", "alpha": "8", "rates": ADAM_RATES},
    "Adam, alpha = 2r": {"optimizer": "adam", "alpha": "2r", "rates": ADAM_RATES},
}
AS_TRAINED, STRONGEST = "as trained", "same update, strongest first"


class Tasks(NamedTuple):
    """The two tasks: rows of 64 numbers between -1 (paper) and 1 (ink), by part, and the labels that both share."""

    upright: dict[str, NDArray]
    rotated: dict[str, NDArray]
    labels: dict[str, NDArray]


@cache
def load_tasks() -> Tasks:
    """The digits upright and turned by a quarter, shuffled once and for all: each part of SIZES as an array (n, 64)."""
    data = load_file(data_file("digits.safetensors"))
    order = np.random.default_rng(0).permutation(len(data["images"]))
    images, ends = data["images"][order] / 8 - 1, np.cumsum(list(SIZES.values()))[:-1]  # (n, 8, 8) of 0 to 16 before
    labels = data["labels"][order].astype(int)
    rows = (images.reshape(-1, 64), np.rot90(images, axes=(1, 2)).reshape(-1, 64), labels)
    return Tasks(*(dict(zip(SIZES, np.split(each, ends), strict=True)) for each in rows))


# --- the network and its training, as notebook 02 builds them ---------------------------------------------------------


def forward(layers: Sequence, x: NDArray) -> tuple[NDArray, NDArray]:
    """x: (batch, 64) -> the hidden units, (batch, 48), and the scores, (batch, 10)"""
    hidden = np.tanh(layers[0].forward(x))
    return hidden, layers[1].forward(hidden)


def loss_and_gradients(layers: Sequence, x: NDArray, labels: NDArray) -> tuple[float, list[NDArray]]:
    """The cross-entropy in nats, and the gradient of each trained array."""
    hidden, scores = forward(layers, x)
    log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    loss = -log_p[np.arange(len(x)), labels].mean()
    grad_scores = (np.exp(log_p) - np.eye(10)[labels]) / len(x)  # dL/dscores: (batch, 10)
    *second, grad_hidden = layers[1].backward(hidden, grad_scores)
    *first, _ = layers[0].backward(x, grad_hidden * (1 - hidden**2))  # tanh' = 1 - tanh^2
    return loss, [*first, *second]


def descend(parameters: Sequence[NDArray], gradients: Sequence[NDArray], lr: float) -> None:
    """A step of plain stochastic gradient descent, in place."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter -= lr * gradient


def train(
    layers: Sequence, x: NDArray, labels: NDArray, steps: int = 400, lr: float = 0.1, seed: int = 0, update=descend
) -> list[float]:
    """Train every array that the layers name in `parameters()`, in place. Returns the loss of each batch."""
    rng, losses = np.random.default_rng(seed), []
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for batch in rng.integers(len(x), size=(steps, 50)):
        loss, gradients = loss_and_gradients(layers, x[batch], labels[batch])
        update(parameters, gradients, lr)
        losses.append(loss)
    return losses


def answers(layers: Sequence, task: dict[str, NDArray]) -> NDArray:
    """The digits that a network reads off a task's test digits: (397,)"""
    return forward(layers, task["test"])[1].argmax(axis=1)


def accuracy(layers: Sequence, task: dict[str, NDArray]) -> float:
    """The share of right answers on a task's test digits."""
    return float((answers(layers, task) == load_tasks().labels["test"]).mean())


# --- the runs ---------------------------------------------------------------------------------------------------------


@cache
def trained_base() -> tuple[Linear, Linear]:
    """The network that has learned the upright digits. Nobody may change its weights."""
    tasks, rng = load_tasks(), np.random.default_rng(1)
    first = Linear(rng.normal(size=(48, 64)) / np.sqrt(64))
    base = first, Linear(rng.normal(size=(10, 48)) / np.sqrt(48))
    train(base, tasks.upright["train"], tasks.labels["train"], steps=1000)
    for layer in base:
        layer.weight.flags.writeable = False
    return base


def adapted(rank: int, alpha: float, seed: int = 0) -> list[LoRALinear]:
    """The base with a fresh adapter at each layer."""
    rng = np.random.default_rng(seed)
    return [LoRALinear(layer.weight, rank, alpha, rng) for layer in trained_base()]


def lora(rank: int, lr: float = 0.1, seed: int = 0, alpha: float | None = None, **recipe) -> list[LoRALinear]:
    """The base with adapters, trained on the rotated digits. alpha: 2 * rank unless given; recipe: as for `train`."""
    return _trained_on_rotated(adapted(rank, alpha or 2 * rank, seed), lr, seed, recipe)


def full(lr: float = 0.3, seed: int = 0, **recipe) -> list[Linear]:
    """A copy of the base, all of whose weights are trained on the rotated digits."""
    return _trained_on_rotated([Linear(layer.weight.copy()) for layer in trained_base()], lr, seed, recipe)


def start(layers: Sequence, A: str, B: str) -> Sequence:
    """Start fresh adapters in another way, in place: A and B are each "zero" or "random"."""
    rng = np.random.default_rng(7)
    for layer in layers:
        if A == "zero":
            layer.lora_A *= 0
        if B == "random":
            layer.lora_B += rng.normal(size=layer.lora_B.shape) / 2
    return layers


class Outcome(NamedTuple):
    """What an adapter looks at in the first layer, and what it achieves."""

    rows: dict[str, NDArray]  # name of the choice of rows -> A, (rank, 64)
    responses: dict[str, NDArray]  # the same -> A x, the mean over the rotated digits of each class, (rank, 10)
    shares: NDArray  # (rank,), of the update's squared norm, strongest component first
    new: float  # share of right answers on rotated test digits
    given: NDArray  # (12,), its answers for the first twelve rotated test digits


@cache
def outcome(rank: int, seed: int = 0) -> Outcome:
    """The outcome of training at a rank from 0 (no adapter) to 10."""
    tasks = load_tasks()
    x, labels = tasks.rotated["test"], tasks.labels["test"]
    layers = lora(rank, seed=seed) if rank else trained_base()
    first, A, strengths = layers[0], {}, np.zeros(0)
    if isinstance(first, LoRALinear):
        A = {AS_TRAINED: first.lora_A, STRONGEST: turned(first)[0]}
        strengths = np.linalg.svd(first.delta_weight(), compute_uv=False)[:rank] ** 2
    responses = {name: [[(x[labels == k] @ row).mean() for k in range(10)] for row in rows] for name, rows in A.items()}
    return Outcome(
        rows=A,
        responses={name: np.array(means) for name, means in responses.items()},
        shares=strengths / strengths.sum() if rank else strengths,
        new=accuracy(layers, tasks.rotated),
        given=answers(layers, tasks.rotated)[:12],
    )


def turned(layer: LoRALinear) -> tuple[NDArray, NDArray]:
    """Other factors A, B of the same update: their components are its singular directions, strongest first."""
    rank = len(layer.lora_A)
    U, S, Vt = np.linalg.svd(layer.delta_weight(), full_matrices=False)
    root = np.sqrt(S[:rank] / layer.scaling)
    return root[:, None] * Vt[:rank], U[:, :rank] * root


def _trained_on_rotated(layers: list, lr: float, seed: int, recipe: dict) -> list:
    tasks = load_tasks()
    with np.errstate(over="ignore", invalid="ignore"):  # a rate that is too large diverges: let it
        train(layers, tasks.rotated["train"], tasks.labels["train"], lr=lr, seed=seed, **recipe)
    return layers


# --- which learning rate? ---------------------------------------------------------------------------------------------


def adam() -> Callable:
    """The update rule of Adam (adaptive moment estimation): each entry moves by about the learning rate.

    It keeps a running mean of each gradient and of its square. Both start at zero and are too small at first; dividing
    by 1 - decay^step makes up for that.
    """
    means: dict[int, NDArray] = {}
    squares: dict[int, NDArray] = {}
    step = 0

    def update(parameters: Sequence[NDArray], gradients: Sequence[NDArray], lr: float) -> None:
        nonlocal step
        step += 1
        for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            means[i] = 0.9 * means.get(i, 0) + 0.1 * gradient
            squares[i] = 0.999 * squares.get(i, 0) + 0.001 * gradient**2
            mean, square = means[i] / (1 - 0.9**step), squares[i] / (1 - 0.999**step)
            parameter -= lr * mean / (np.sqrt(square) + 1e-8)

    return update


def losses_at_rates(optimizer: str, alpha: str, rates: Sequence[float], *, ranks=RANKS, seeds: int = 8) -> dict:
    """The validation loss after 400 steps on the rotated digits: {rank: for each rate the loss of each seed}.

    optimizer: "descend" or "adam". alpha: "8" or "2r". None instead of a loss: the run has diverged (over 100 nats).
    """
    tasks = load_tasks()

    def trained_loss(rank: int, lr: float, seed: int) -> float | None:
        update = descend if optimizer == "descend" else adam()
        layers = lora(rank, lr, seed, 8 if alpha == "8" else 2 * rank, update=update)
        with np.errstate(over="ignore", invalid="ignore"):
            loss = loss_and_gradients(layers, tasks.rotated["validation"], tasks.labels["validation"])[0]
        return round(float(loss), 5) if loss < 100 else None

    return {str(rank): [[trained_loss(rank, lr, seed) for seed in range(seeds)] for lr in rates] for rank in ranks}


def best_rates(arm: dict, rates: Sequence[float]) -> dict[int, float]:
    """The rate with the lowest mean loss, for each rank. A rate at which one seed has diverged is out."""
    means = {rank: [np.inf if None in row else np.mean(row) for row in arm[str(rank)]] for rank in RANKS}
    return {rank: float(rates[int(np.argmin(losses))]) for rank, losses in means.items()}
