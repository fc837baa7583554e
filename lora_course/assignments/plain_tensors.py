"""Helpers of what the checks of assignment 2 look at.

An observer gives the parts of an exercise: numbers or words, or True where nothing is wrong; what is wrong is raised as
a Complaint. A part is a function that is called on its own, so that an error in it costs that part alone. Tensors are
compared as plain lists: nothing here rests on functions that a notebook could replace.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_course.assignments.looking import Complaint


def numbers(rng: np.random.Generator, *shape: int) -> Tensor:
    """Normal numbers of this shape, float32."""
    return torch.tensor(rng.normal(size=shape)).float()


def bits(tensor: Tensor) -> list:
    """A tensor's numbers as a nested list: equal lists mean equal to the bit."""
    return tensor.detach().to(torch.float64).tolist()


def all_bits(module: nn.Module) -> dict[str, list]:
    return {name: bits(tensor) for name, tensor in module.state_dict().items()}


def near(got: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree up to rounding in float32."""
    if got.shape != expected.shape:
        return False
    pairs = list(zip(flat(got), flat(expected), strict=True))
    return max(abs(g - e) for g, e in pairs) <= 1e-5 * max(abs(e) for _, e in pairs)


def flat(tensor: Tensor) -> list[float]:
    return bits(tensor.detach().reshape(-1))


def fine(complaints: dict[str, bool], numbers: Any = None) -> bool:
    """complaint -> whether it applies. True; raises Complaint with those that apply, and what was computed."""
    if said := "; ".join(complaint for complaint, applies in complaints.items() if applies):
        raise Complaint(said, numbers)
    return True


def refusal(run: Callable, model: nn.Module, state: Callable[[nn.Module], Any] = all_bits) -> str:
    """Whether run(model) raises ValueError and leaves the state as it was: "refused", or what happens instead."""
    before = state(model)
    try:
        run(model)
    except ValueError:
        return "refused" if state(model) == before else "refused, but the model was changed"
    except Exception as error:
        return f"{type(error).__name__} instead of ValueError"
    return "no ValueError"


def all_refused(said: dict[str, str], numbers: Any = None) -> bool:
    """what -> its `refusal`. True; raises Complaint with what was not refused, and what was computed."""
    return fine({f"{what}: {how}": how != "refused" for what, how in said.items()}, numbers)
