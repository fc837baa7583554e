"""Several adapters in one: a weighted sum of updates, without touching the base.

    w1 * s B1 A1 + w2 * s B2 A2 = s [w1 B1, w2 B2] [A1; A2]

Side by side, the factors give the sum exactly, and the ranks add up. Averaging A with A and B with B does not: the
product of two sums has cross terms, B1 A2 and B2 A1, that no training ever saw.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def combine(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """One adapter whose update is the weighted sum of several: its rank is the sum of their ranks.

    states: what `adapter_state` returns, of models with the same layers and the same scaling s = alpha / rank.
    Load the result into a model with adapters of that rank and an alpha that keeps s:
    `add_lora(model, rank=r1 + r2, alpha=s * (r1 + r2))`. An adapter with another scaling needs its weight times
    (its scaling / s). Raises ValueError for states of different models and for weights that do not fit.
    """
    _check_combination(states, weights)
    combined = {}
    for name in states[0]:
        parts = [state[name] for state in states]
        if name.endswith("lora_A"):
            combined[name] = torch.cat(parts, dim=0)  # (r1 + r2, in_features)
        else:
            scaled = [weight * part for weight, part in zip(weights, parts, strict=True)]
            combined[name] = torch.cat(scaled, dim=1)  # (out_features, r1 + r2)
    return combined


def _check_combination(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> None:
    if not states or len(states) != len(weights):
        raise ValueError(f"each adapter needs one weight, got {len(states)} adapters and {len(weights)} weights")
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be finite, got {list(weights)}")
    for number, state in enumerate(states[1:], 2):
        if different := sorted(state.keys() ^ states[0].keys()):
            raise ValueError(f"adapters 1 and {number} sit on different layers: only one of them has {different[0]}")
        for name, tensor in state.items():
            side = 1 if name.endswith("lora_A") else 0  # the side that is not the rank
            if tensor.shape[side] != states[0][name].shape[side]:
                raise ValueError(
                    f"adapters 1 and {number} belong to different models: {name} has shapes "
                    f"{tuple(states[0][name].shape)} and {tuple(tensor.shape)}"
                )
