"""Bad arguments are refused in one sentence: which argument, what it must be, what came.

check(whole(1), steps=steps, batch_size=batch_size)
ValueError: steps must be a whole number of at least 1, got 0
"""

import math
from collections.abc import Callable
from numbers import Integral, Number, Real
from typing import Any, NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """What an argument must be, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


def check(rule: Rule, **arguments) -> None:
    """Raise ValueError for the first argument that breaks the rule, TypeError if it is not even a number."""
    for name, value in arguments.items():
        if not rule.holds(value):
            error = ValueError if isinstance(value, Number) else TypeError
            raise error(f"{name} must be {rule.wanted}, got {value!r}")


def whole(least: int) -> Rule:
    """A whole number from `least` on. True and False are numbers to Python, and not meant."""

    def holds(value) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and value >= least

    return Rule(f"a whole number of at least {least}", holds)


def optional(rule: Rule) -> Rule:
    """None, or what the rule asks for."""
    return Rule(f"None or {rule.wanted}", lambda value: value is None or rule.holds(value))


def _real(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


POSITIVE = Rule("positive and finite", lambda value: _real(value) and value > 0)
NOT_NEGATIVE = Rule("0 or larger and finite", lambda value: _real(value) and value >= 0)
SHARE = Rule("at least 0 and below 1", lambda value: _real(value) and 0 <= value < 1)


def check_tokens(name: str, tokens: Any, vocab_size: int | None = None) -> None:
    """Raise TypeError for what is no tensor of whole numbers, ValueError for tokens that a vocabulary does not have."""
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.is_complex():
        what = f"a tensor of {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be a tensor of tokens, which are whole numbers, got {what}")
    if vocab_size is not None and tokens.numel():
        least, most = tokens.min().item(), tokens.max().item()
        if least < 0 or most >= vocab_size:
            wrong = least if least < 0 else most
            raise ValueError(f"{name} must be from 0 to {vocab_size - 1}, the model's vocabulary, got {wrong}")
