"""How much of a loss is confidence? One number, the rival of whatever makes a loss fall.

A model that is wrong and sure pays for both. Divide its logits by a temperature: above 1 every guess becomes less
sure, and nothing is learned (Guo et al. 2017, "On calibration of modern neural networks", section 4.2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.training import evaluate

TEMPERATURES = [round(0.5 + 0.05 * i, 2) for i in range(51)]  # 0.5 to 3


def one_temperature(model: nn.Module, tokens: Tensor, **windows: Any) -> tuple[float, float, float]:
    """The best temperature for the first half of a text; on its second half the loss without it and with it.

    tokens: (n,); windows: what `evaluate` takes beside them. The model returns its logits first, as our GPT does, and
    those of `transformers`.
    """
    half = len(tokens) // 2
    fitted, measured = _logits(model, tokens[:half], windows), _logits(model, tokens[half:], windows)
    best = min(TEMPERATURES, key=lambda temperature: _loss(*fitted, temperature))
    return best, _loss(*measured, 1), _loss(*measured, best)


def and_biases(model: nn.Module, tokens: Tensor, **windows: Any) -> float:
    """The same with one more number for each byte: how often it occurs. Loss on the second half, after fitting both."""
    half = len(tokens) // 2
    (logits, targets), measured = _logits(model, tokens[:half], windows), _logits(model, tokens[half:], windows)
    slope, biases = torch.ones(1, requires_grad=True), torch.zeros(logits.shape[1], requires_grad=True)
    search = torch.optim.LBFGS([slope, biases], max_iter=40)

    def loss() -> Tensor:
        search.zero_grad()
        found = F.cross_entropy(slope * logits + biases, targets) + 1e-5 * biases.square().sum()
        found.backward()
        return found

    search.step(loss)
    with torch.no_grad():
        return F.cross_entropy(slope * measured[0] + biases, measured[1]).item()


def _loss(logits: Tensor, targets: Tensor, temperature: float) -> float:
    """logits: (n, vocab_size), targets: (n,)."""
    return F.cross_entropy(logits / temperature, targets).item()


def _logits(model: nn.Module, tokens: Tensor, windows: dict) -> tuple[Tensor, Tensor]:
    """The logits (n, vocab_size) and targets (n,) of the windows that `evaluate` looks at."""
    seen = []

    def loss_fn(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs)[0].flatten(0, 1).float()
        seen.append((logits.cpu(), targets.flatten().long().cpu()))
        return F.cross_entropy(logits, targets.flatten().long())

    evaluate(model, tokens, loss_fn=loss_fn, **windows)
    logits, targets = zip(*seen, strict=True)
    return torch.cat(logits), torch.cat(targets)
