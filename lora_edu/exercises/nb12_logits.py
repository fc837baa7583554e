"""The checks of exercises 12.2 and 12.4: the loss of the token that follows, and the rounding of Q4_1."""

import numpy as np

from lora_edu.exercises.exercise import exercise

# --- 12.2: one ahead -------------------------------------------------------------------------------------------------


def _tokens():
    for seed, (batch, seq, vocab) in enumerate([(1, 5, 7), (3, 4, 6)]):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=(batch, seq, vocab)), rng.integers(0, vocab, size=(batch, seq))


ASKED = "scores[:, :-1], tokens[:, 1:, None]"
SUM = "np.exp(logits).sum(axis=-1, keepdims=True)"


@exercise(
    "12.2",
    list(_tokens()),
    taught={
        f"{ASKED} -> scores, tokens[..., None]": "Your answer asks each position for its own token, which the "
        "model has been given. Ask for the one that follows.",
        f"{ASKED} -> scores[:, :-2], tokens[:, 2:, None]": "Your answer asks for the token two places ahead: "
        "it shifts twice, as section 3 warns.",
        f"{ASKED} -> scores[:, 1:], tokens[:, :-1, None]": "Your answer asks each position for the token "
        "before it. Ask for the one that follows.",
        f"{ASKED} -> scores, np.roll(tokens, -1, axis=1)[..., None]": "Your answer asks the last position for the "
        "first token of its sequence. Nothing follows it: leave it out.",
        f"{ASKED} -> scores.reshape(1, -1, logits.shape[-1])[:, :-1], tokens.reshape(1, -1)[:, 1:, None]": (
            "Your answer asks the last position of a sequence for the first token of the next one. Shift within each "
            "sequence."
        ),
        f"logits - np.log({SUM}) -> np.exp(logits) / {SUM}": "Your answer averages probabilities. A loss is the mean "
        "of their logarithms, with a minus.",
        "return -found.mean() -> return np.exp(-found.mean())": "Your answer is the perplexity. Its logarithm is the "
        "loss, {result:.4g} nats here.",
    },
    also=(
        *(
            f"{ASKED} -> scores{rows}, tokens{columns}[..., None]"
            for rows, columns in (
                ("[:, 1:]", "[:, 1:]"),
                ("[:, :-1]", "[:, :-1]"),
                ("[:, -2:-1]", "[:, -1:]"),
                ("[:, 1:-1]", "[:, 2:]"),
                ("[:, :-2]", "[:, 1:-1]"),
                ("[:1, :-1]", "[:1, 1:]"),
                ("[:, :-1][tokens[:, 1:] != 0][None]", "[:, 1:][tokens[:, 1:] != 0][None]"),
            )
        ),
        f"{ASKED} -> scores, np.roll(tokens, 1, axis=1)[..., None]",
        f"np.log({SUM}) -> {SUM}",
        f"np.log({SUM}) -> 0",
        f"np.log({SUM}) -> logits.max(axis=-1, keepdims=True)",
        f"logits - np.log({SUM}) -> np.log(1 - np.exp(logits) / {SUM})",
        f"logits - np.log({SUM}) -> (p := np.exp(logits) / {SUM}) - np.log(np.exp(p).sum(axis=-1, keepdims=True))",
        *(f"logits - np.log({SUM}) -> (logits - np.log({SUM})) / np.log({base})" for base in (2, 10)),
        *(f"sum(axis=-1, -> sum(axis={axis}," for axis in ("1", "(1, 2)", "None")),
        *(f"return -found.mean() -> return -found.{each}" for each in ("sum(axis=1).mean()", "mean(axis=1).sum()")),
        *(f"return -found.mean() -> return -found.mean(axis={axis})" for axis in (1, 0)),
        "return -found.mean() -> return -found.sum() / tokens.size",
        "return -found.mean() -> return -np.median(found)",
        "return -found.mean() -> return np.exp(found.mean())",
        "return -found.mean() -> return -np.log(np.exp(found).mean())",
    ),
    noticed={
        "one number is asked for: the mean over all positions that have a token that follows.": (
            lambda got, *case: got.ndim > 0
        ),
        "a loss is never below zero: it is minus the logarithm of a probability.": lambda got, *case: got < 0,
    },
)
def shifted_loss(logits, tokens):
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))  # the logarithms of the probabilities
    found = np.take_along_axis(scores[:, :-1], tokens[:, 1:, None], axis=-1)[
        ..., 0
    ]  # which position is asked for which token
    return -found.mean()  # what becomes of all logarithms


# --- 12.4: Q4_1 ------------------------------------------------------------------------------------------------------


def _weights(n_blocks, seed, shift):
    rng = np.random.default_rng(seed)
    return rng.normal(size=32 * n_blocks) * np.repeat(rng.uniform(0.5, 2, n_blocks), 32) + shift


def _are_levels(got, weights):
    """Whether each weight is one of the 16 values of its block."""
    blocks = weights.reshape(-1, 32)
    levels = np.linspace(blocks.min(axis=1), blocks.max(axis=1), 16, axis=1)[:, None]
    return (np.abs(got.reshape(-1, 32, 1) - levels).min(axis=2) < 1e-5).all()


RUNS = "blocks = weights.reshape(-1, 32)"
LOW, HIGH = "low = blocks.min(axis=1, keepdims=True)", "high = blocks.max(axis=1, keepdims=True)"
ABSMAX = "np.abs(blocks).max(axis=1, keepdims=True)"
ROUNDED = "np.round((blocks - low) / step)"


@exercise(
    "12.4",
    [(_weights(4, 0, 0.3),), (_weights(6, 1, -0.5),)],
    taught={
        "(high - low) / 15 -> (high - low) / 16": "Your answer divides the range by 16. There are 16 values, and so 15 "
        "steps between them.",
        f"(high - low) / 15 -> (high - low) / 16 & {ROUNDED} -> np.minimum({ROUNDED}, 15)": "Your answer has 16 steps "
        "and cuts the last one off. 16 values from the smallest weight to the largest have 15 steps between them.",
        f"{LOW} -> low = -{ABSMAX} & {HIGH} -> high = {ABSMAX}": "Your answer lays the values from -absmax to absmax, "
        "as NF4 does. They go from the smallest weight of the block to the largest.",
        f"{LOW} -> low = 0 & (high - low) / 15 -> {ABSMAX} / 7": "Your answer has zero in the middle of the values, as "
        "int4 does. Q4_1 keeps a smallest value and a step for each block.",
        f"{LOW} -> low = 0": "Your answer counts the steps from 0. The first value is the smallest weight of the "
        "block: take it off first.",
        f"{RUNS} -> blocks = weights.reshape(1, -1)": "Your answer has one smallest value and one step for all "
        "weights. Each run of 32 has its own.",
        f"{RUNS} -> blocks = weights.reshape(-1, 64)": "Your answer has blocks of 64 weights, as NF4 has. The runs of "
        "Q4_1 have 32.",
    },
    also=(
        f"{RUNS} -> blocks = weights.reshape(-1, 16)",
        f"{RUNS} -> blocks = weights.reshape(-1, 32).T & return (codes * step + low) -> return (codes * step + low).T",
        f"{RUNS} -> blocks = weights.reshape(32, -1).T & return (codes * step + low) -> return (codes * step + low).T",
        f"{LOW} -> low = 0 & {HIGH} -> high = {ABSMAX}",
        f"{LOW} -> low = 0 & (high - low) / 15 -> {ABSMAX} / 8",
        f"{LOW} -> low = blocks.mean(axis=1, keepdims=True)",
        *(f"(high - low) / 15 -> (high - low) / {steps}" for steps in (14, 17, 255)),
        f"{ROUNDED} -> np.minimum({ROUNDED}, 14)",
        f"{ROUNDED} -> np.clip({ROUNDED}, -8, 7)",
        f"{ROUNDED} -> (blocks - low) / step",
        *(f"return (codes * step + low) -> return {back}" for back in ("codes", "(codes + low)", "(codes * step)")),
        "return (codes * step + low) -> return (blocks - codes * step - low)",
    ),
    noticed={
        "as many weights come back as were given, in one row.": lambda got, weights: got.size != weights.size,
        "the numbers come back in blocks. One row of `n` is asked for: `.reshape(-1)`.": (
            lambda got, weights: got.ndim > 1
        ),
        "these are values of their blocks, but not for every weight the nearest one.": _are_levels,
    },
)
def q4_1(weights):
    blocks = weights.reshape(-1, 32)  # the runs of 32 weights
    low = blocks.min(axis=1, keepdims=True)  # the smallest value of each run
    high = blocks.max(axis=1, keepdims=True)  # the largest value of each run
    step = (high - low) / 15  # the step
    codes = np.round((blocks - low) / step)  # how the steps are counted and rounded
    return (codes * step + low).reshape(-1)  # the way back from codes to weights
