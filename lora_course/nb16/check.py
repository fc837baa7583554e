"""The checks of notebook 16, a reward: what a roll-out is compared with, and how far from the base it is."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["advantages", "beside", "divergence"]

# --- 16.1: what a roll-out is compared with --------------------------------------------------------------------------


def _paid():
    """Cases (rewards,): of few roll-outs, of whole numbers and of others."""
    yield (np.array([[0.0, -1, 0, -1], [-1, 0, 0, 0], [0, 0, -1, 0]]),)
    for seed, shape in enumerate([(2, 3), (5, 4), (4, 7)]):
        yield (np.random.default_rng(seed).normal(size=shape),)


TO_GO, OTHERS = "rewards[:, ::-1].cumsum(axis=1)[:, ::-1]", "(to_go.sum(axis=0) - to_go) / (len(rewards) - 1)"


@exercise(
    "16.1",
    list(_paid()),
    taught={
        f"{TO_GO} -> rewards.sum(axis=1, keepdims=True) + 0 * rewards": "Your answer credits every byte with the whole "
        "roll-out. A byte cannot change what was paid before it: add up from its own place on.",
        f"{TO_GO} -> rewards.cumsum(axis=1)": "Your answer adds up what was paid *until* a byte. It answers for what "
        "comes from it on.",
        f"{TO_GO} -> rewards[:, ::-1].cumsum(axis=1)": "Your answer adds up from the end, and leaves the sums in that "
        "order: its first column belongs to the last byte.",
        f"{OTHERS} -> to_go.mean(axis=0)": "Your answer compares with the mean of all roll-outs, its own among them. "
        "That shrinks every difference: leave it out.",
        "return to_go - others -> return (to_go - to_go.mean(axis=0)) / to_go.std(axis=0)": "Your answer divides by "
        "the spread, and its mean holds the roll-out itself. Compare with the mean of the others, and leave the size.",
        "return to_go - others -> return to_go": "Your answer has no baseline. Subtract what the *other* roll-outs got "
        "from the same place on.",
        f"{OTHERS} -> to_go.mean()": "Your answer compares every byte with one mean of all places. Compare it with the "
        "same place of the other roll-outs.",
    },
    noticed={
        "one number for every byte is asked for, in the shape of the rewards.": lambda got, rewards: (
            got.shape != rewards.shape
        ),
        "over all roll-outs, the advantages of a place must add up to 0.": lambda got, rewards: (
            abs(got.sum(axis=0)).max() > 1e-6
        ),
    },
)
def advantages(rewards):
    to_go = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]  # what was paid from each byte on
    others = (to_go.sum(axis=0) - to_go) / (len(rewards) - 1)  # what the other roll-outs got from there on
    return to_go - others  # how the two are compared


# --- 16.2: how far from the base -------------------------------------------------------------------------------------


def _written():
    """Cases (now, before): log probabilities of what was written, some likelier now, some less likely."""
    for seed, shape in enumerate([(2, 3), (3, 5), (6, 2)]):
        yield tuple(np.log(np.random.default_rng(seed).uniform(0.05, 0.95, size=(2, *shape))))


RATIO, EACH = "log_ratio = before - now", "np.exp(log_ratio) - 1 - log_ratio"


@exercise(
    "16.2",
    list(_written()),
    taught={
        f"{RATIO} -> log_ratio = now - before": "Your answer has the sign the wrong way round. The model wrote these "
        "bytes, so the exponential is of the base's log probability minus the model's.",
        f"{EACH} -> -log_ratio": "Your answer is the mean log ratio itself. It is right on average, but on few bytes "
        "it can be negative: add what is 0 on average.",
        f"{EACH} -> np.abs(log_ratio)": "Your answer takes magnitudes. Their mean is no divergence: bytes that are "
        "less likely now must count against the others.",
        f"{EACH} -> log_ratio**2 / 2": "Your answer takes half the square. That is close for small changes only.",
        f"{EACH} -> np.exp(now) * (now - before)": "Your answer weights each byte with its probability. The model drew "
        "them with that probability already: a plain mean.",
        "return each.mean() -> return each.sum()": "Your answer adds up. Nats a *byte* are asked for.",
    },
    noticed={
        "one number is asked for: the mean over all bytes.": lambda got, *case: got.ndim > 0,
        "this estimate is never negative.": lambda got, *case: got < 0,
    },
)
def divergence(now, before):
    log_ratio = before - now  # how much likelier a byte was before
    each = np.exp(log_ratio) - 1 - log_ratio  # what each byte says of the divergence
    return each.mean()  # what is made of all bytes
