"""Bad arguments are refused in one sentence: which argument, what it must be, what came.

check(whole(1), steps=steps, batch_size=batch_size)
ValueError: steps must be a whole number of at least 1, got 0
"""

import functools
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Number, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Rule(NamedTuple):
    """What an argument must be, in words and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


def check(rule: Rule, **arguments: Any) -> None:
    """Raise ValueError for the first argument that breaks the rule, TypeError if it is not even a number."""
    for name, value in arguments.items():
        if not rule.holds(value):
            error = ValueError if isinstance(value, Number) else TypeError
            raise error(f"{name} must be {rule.wanted}, got {value!r}")


def whole(least: int) -> Rule:
    """A whole number from `least` on. True and False are numbers to Python, and not meant."""

    def holds(value: Any) -> bool:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least

    return Rule(f"a whole number of at least {least}", holds)


def optional(rule: Rule) -> Rule:
    """None, or what the rule asks for."""
    return Rule(f"None or {rule.wanted}", lambda value: value is None or rule.holds(value))


def is_real(value: Any) -> bool:
    """Whether this is a finite number, and neither True nor False."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1023  # what is longer no float can hold
    return isinstance(value, Real) and math.isfinite(value)


STRENGTH = Rule(  # alpha: what it scales is in float32, with room above and below
    "positive and finite, from 1e-30 to 1e30", lambda value: is_real(value) and 1e-30 <= value <= 1e30
)
BITS = Rule("a whole number from 2 to 8", lambda value: whole(2).holds(value) and value <= 8)
POSITIVE = Rule("positive and finite", lambda value: is_real(value) and value > 0)
NOT_NEGATIVE = Rule("0 or larger and finite", lambda value: is_real(value) and value >= 0)
SHARE = Rule("at least 0 and below 1", lambda value: is_real(value) and 0 <= value < 1)
FACTOR = Rule("from 0 to 1", lambda value: is_real(value) and 0 <= value <= 1)
TRUTH = Rule("True or False", lambda value: isinstance(value, bool))
CALLABLE = Rule("a function", callable)
GENERATOR = Rule("a torch.Generator", lambda value: isinstance(value, torch.Generator))
PAIR = Rule(
    "two numbers, each at least 0 and below 1",
    lambda value: isinstance(value, Sequence) and len(value) == 2 and all(map(SHARE.holds, value)),
)

# What the arguments of `train` must be.
TRAINING = {
    "steps": whole(1), "batch_size": whole(1), "seq_len": whole(1), "warmup_steps": whole(0), "seed": whole(0),
    "lr": POSITIVE, "max_grad_norm": POSITIVE, "weight_decay": NOT_NEGATIVE, "betas": PAIR, "final_lr_factor": FACTOR,
    "eval_every": optional(whole(1)), "eval_windows": whole(1), "checkpoint_every": whole(1), "compile": TRUTH,
    "autocast": optional(TRUTH), "loss_fn": CALLABLE, "on_evaluation": optional(CALLABLE),
}  # fmt: skip


def check_model(model: Any) -> None:
    """Raise TypeError for what is no torch module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")


def one_loss(loss: Any) -> Tensor:
    """What `loss_fn` returned. Raises TypeError unless it is one number in a tensor."""
    if not (isinstance(loss, Tensor) and loss.is_floating_point() and loss.numel() == 1):
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss_fn must return the mean loss, a tensor of one number, got {what}")
    return loss


# --- tokens ----------------------------------------------------------------------------------------------------------


def check_tokens(name: str, tokens: Any, vocab_size: int | None = None) -> None:
    """Raise TypeError for what is no tensor of whole numbers, ValueError for tokens that a vocabulary does not have."""
    counts = isinstance(tokens, Tensor) and not (tokens.is_floating_point() or tokens.is_complex())
    if not counts or tokens.dtype == torch.bool:
        what = f"a tensor of {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be a tensor of tokens, which are whole numbers, got {what}")
    if vocab_size is not None and tokens.numel():
        tokens = tokens if tokens.dtype == torch.uint8 else tokens.long()  # torch has no minimum of uint16
        least, most = tokens.min().item(), tokens.max().item()
        if least < 0 or most >= vocab_size:
            wrong = least if least < 0 else most
            raise ValueError(
                f"{name} must be from 0 to {vocab_size - 1}, the model's vocabulary, got {wrong}: "
                "encode the text in the way that belongs to this model"
            )


def check_targets(targets: Any, tokens: Tensor) -> None:
    """Raise TypeError or ValueError unless there is one target, a whole number, for each token."""
    check_tokens("targets", targets)
    if targets.shape != tokens.shape:
        raise ValueError(f"targets must have the shape of tokens, {tuple(tokens.shape)}, got {tuple(targets.shape)}")
    if not targets.numel():
        raise ValueError(f"there is no token in tokens of shape {tuple(tokens.shape)}: nothing has no mean loss")


def with_checked_tokens(forward: Callable) -> Callable:
    """A model's forward(tokens, targets) that refuses what it cannot read in one sentence.

    Whether each token is in the vocabulary is looked at only after an IndexError, so that a training step does not pay
    for it. A GPU does not tell: there, torch stops with "device-side assert triggered", and the same batch on the CPU
    says which token it was.
    """

    @functools.wraps(forward)
    def call(self: Any, tokens: Tensor, targets: Tensor | None = None) -> Any:
        check_tokens("tokens", tokens)
        if tokens.ndim != 2:  # a text alone would be read as many texts of one token
            raise ValueError(f"tokens must have the shape (B, S), got {tuple(tokens.shape)}: one text is tokens[None]")
        if targets is not None:
            check_targets(targets, tokens)
        try:
            return forward(self, tokens, targets)
        except IndexError:
            check_tokens("tokens", tokens, self.config.vocab_size)
            if targets is not None:
                check_tokens("targets", targets[targets != -100], self.config.vocab_size)  # torch skips -100
            raise

    return call
