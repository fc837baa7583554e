"""How much of a loss is confidence? One number, the rival of whatever makes a loss fall.

A model that is wrong and sure pays for both. Divide its logits by a temperature: above 1 every guess becomes less
sure, and nothing is learned (Guo et al. 2017, "On calibration of modern neural networks", section 4.2).
"""

from bisect import bisect_left
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.training import evaluate

Seen = tuple[Tensor, Tensor]  # logits (n, vocab_size) and targets (n,)
TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(51)]  # 0.5 to 3


def one_temperature(model: nn.Module, tokens: Tensor, **windows: Any) -> tuple[float, float, float]:
    """The best temperature for the first half of a text; on its second half the loss without it and with it.

    tokens: (n,); windows: what `evaluate` takes beside them. The model returns its logits first, as our GPT does, and
    those of `transformers`.
    """
    return _temperature(*_halves(model, tokens, windows))


def and_biases(model: nn.Module, tokens: Tensor, **windows: Any) -> tuple[float, float, float, float]:
    """The same, and its loss with one more number for each byte, how often it occurs, after fitting both."""
    fitted, measured = _halves(model, tokens, windows)
    slope, biases = best_biases(*fitted)
    biased = F.cross_entropy(slope * measured[0] + biases, measured[1]).item()
    return *_temperature(fitted, measured), biased


def best_biases(logits: Tensor, targets: Tensor, price: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The slope (1,), one over the temperature, and the bias of each token (vocab_size,) with the lowest loss.

    price: of the biases' squares, so that a token that came once in targets (n,) is not taken for a frequent one.
    """
    slope, biases = torch.ones(1, requires_grad=True), torch.zeros(logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([slope, biases], max_iter=40)
    rows = max(1, 2**22 // logits.shape[1])  # at a time: of a large vocabulary all at once would fill the memory

    def loss() -> Tensor:
        search.zero_grad()
        found = price * biases.square().sum()
        found.backward()
        for some, came in zip(logits.split(rows), targets.split(rows), strict=True):
            part = F.cross_entropy(slope * some + biases, came, reduction="sum") / len(targets)
            part.backward()
            found = found.detach() + part.detach()
        return found

    search.step(loss)
    return slope.detach(), biases.detach()


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """The loss falls up to the best temperature and rises after it, so that not all have to be tried."""
    rises = lambda i: _loss(logits, targets, TEMPERATURES[i]) <= _loss(logits, targets, TEMPERATURES[i + 1])  # noqa: E731
    return TEMPERATURES[bisect_left(range(len(TEMPERATURES) - 1), True, key=rises)]


def _temperature(fitted: Seen, measured: Seen) -> tuple[float, float, float]:
    best = best_temperature(*fitted)
    return best, _loss(*measured, 1), _loss(*measured, best)


def _loss(logits: Tensor, targets: Tensor, temperature: float) -> float:
    """logits: (n, vocab_size), targets: (n,)."""
    return F.cross_entropy(logits / temperature, targets).item()


def _halves(model: nn.Module, tokens: Tensor, windows: dict) -> tuple[Seen, Seen]:
    half = len(tokens) // 2
    return _seen(model, tokens[:half], windows), _seen(model, tokens[half:], windows)


def _seen(model: nn.Module, tokens: Tensor, windows: dict) -> Seen:
    """What a model says at the windows that `evaluate` looks at."""
    seen = []

    def loss_fn(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs)[0].flatten(0, 1).float()
        seen.append((logits.cpu(), targets.flatten().long().cpu()))
        return F.cross_entropy(logits, targets.flatten().long())

    evaluate(model, tokens, loss_fn=loss_fn, **windows)
    logits, targets = zip(*seen, strict=True)
    return torch.cat(logits), torch.cat(targets)
