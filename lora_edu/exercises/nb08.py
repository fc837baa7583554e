"""The checks of notebook 08, memory."""

from lora_edu.exercises.formulas import polynomial
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.mistakes import combinations
from lora_edu.exercises.nb08_layers import never_moved, quantized_linear

__all__ = ["beside", "mlp_activations", "never_moved", "qlora_bytes", "quantized_linear"]

BITS = 4 + 8 / 64 + 32 / (64 * 256)

# --- 8.1: bytes of weights, gradients and optimizer state ------------------------------------------------------------


def _bytes(P, n, copy_alive, base=BITS / 8, trained=16.0, copy=4.0, when="alive", divide=1):
    with_copy = {"alive": copy_alive, "always": True, "never": False, "gone": not copy_alive}[when]
    return (P * base + trained * n + (copy * P if with_copy else 0)) / divide


BASE_MISTAKES = {
    4 / 8: "the constants are missing: 4.127 bits a weight, not 4.",
    4.5 / 8: "the constants are not quantized here: 4.5 bits. With double quantization it is 4.127.",
    (4 + 8 / 64 + 32 / 256) / 8: "32 / 256 bits: a second constant serves 256 first ones, and so 64 * 256 weights.",
    (4 + 8 / 64) / 8: "the second level of constants is missing: 32 bits for each 64 * 256 weights.",
    (4 + 8 / 64 + 32 / 64) / 8: "the first constants are counted twice, in 8 bits and in 32.",
    (8 + 8 / 64 + 32 / (64 * 256)) / 8: "a code of NF4 has 4 bits, not 8.",
    BITS: "the base is in bits here. A byte has 8 of them.",
    BITS / 2: "the base is divided by 2: 4.127 bits are 4.127 / 8 bytes.",
    0.0: "the base is missing: its codes and constants are alive all the time.",
    2.0: "the base is in 16 bits here. It is in NF4: 4.127 bits a weight.",
    4.0: "the base is in 32 bits here. It is in NF4: 4.127 bits a weight.",
}
TRAINED_MISTAKES = {
    12 + BITS / 8: "the adapters are in 4 bits here. What is trained stays in float32: a small step would be lost.",
    12: "12 bytes for each trained number: there are four floats, itself, its gradient and AdamW's two means.",
    8: "8 bytes for each trained number: there are four floats, itself, its gradient and AdamW's two means.",
    4: "these are the adapters alone. Training needs gradients and AdamW's two means as well.",
    0: "the adapters are missing, with their gradients and AdamW's two means: 16 bytes for each number.",
    20: "20 bytes for each trained number: AdamW keeps two means, not three. Four floats in all.",
    18: "18 bytes for each trained number: the adapters are in float32 already, no second copy is needed.",
    32: "32 bytes for each trained number: a float32 has 4 bytes, and there are four of them.",
    128: "the adapters' part is in bits here. A byte has 8 of them.",
    2: "the adapters' part is divided by 8, but its numbers have whole bytes: 16 for each.",
    1: "these are adapter numbers, not bytes: 16 bytes for each.",
}
COPY_MISTAKES = {
    2.0: "the copy is in float32: 4 bytes a weight, not 2.",
    8.0: "the copy is in float32: 4 bytes a weight, not 8.",
    32.0: "the copy is in bits here: 4 bytes a weight.",
    0.5: "the copy is in 4 bytes a weight, not in 4 bits.",
    1.0: "the copy is counted in numbers: each has 4 bytes.",
    4.0 - BITS / 8: "the copy replaces the codes here. Both are alive: add them.",
}
WHEN_MISTAKES = {
    "never": "this claims 4-bit memory while the float32 copy is alive. It takes 4 bytes a weight, on top.",
    "always": "the copy is counted although nobody holds it: only with copy_alive.",
    "gone": "the copy is counted when it is gone, and left out while it is alive.",
}
WHOLE_MISTAKES = {
    1 / 8: "this counts bits. A byte has 8 of them.",
    8: "everything is divided by 8, the base for the second time. Bytes need no division.",
}

BYTES_CASES = [(10**6, 20_000, False), (3 * 10**6, 50_000, True), (7 * 10**5, 10**5, False)]

qlora_bytes = Exercise(
    "8.1",
    _bytes,
    BYTES_CASES,
    combinations(
        _bytes,
        BYTES_CASES,
        {
            "base": (BITS / 8, BASE_MISTAKES),
            "trained": (16.0, TRAINED_MISTAKES),
            "copy": (4.0, COPY_MISTAKES),
            "when": ("alive", WHEN_MISTAKES),
            "divide": (1, WHOLE_MISTAKES),
        },
        {
            "this trains the frozen weights: gradients and optimizer state belong to the n adapter numbers only.": (
                lambda P, n, copy: _bytes(P, n, copy, trained=4) + 12 * (P + n)
            ),
            "everything is divided by 8. The base's bits need it, the floats are in bytes already.": (
                lambda P, n, copy: _bytes(P, n, copy, base=BITS, divide=8)
            ),
            "the copy is of the base only: the adapters have none.": (
                lambda P, n, copy: _bytes(P, n, copy) + (4 * n if copy else 0)
            ),
        },
    ),
    formula=polynomial(["P", "n"], 1, flags=1),
    broadly={
        "this is less than the base takes: P * 4.127 bits.": lambda got, P, n, copy: bool(got < P * BITS / 8),
        "without a copy there are two parts: P * 4.127 / 8 bytes, and four floats for each of n numbers.": (
            lambda got, P, n, copy: not copy
        ),
        "without a copy this is right. With one, 4 P bytes come on top.": lambda got, P, n, copy: copy,
    },
)

# --- 8.2: what an MLP keeps ------------------------------------------------------------------------------------------


def _mlp(d, rank, on_up, on_down, norm="right", gelu="right", up="right", down="right", both=None):
    """Numbers a token, with a mistake in one part or several. both: the same one in both linears."""
    up, down = both or up, both or down
    norms = {"right": d + 2, "missing": 0, "input": d, "statistics": 2, "one": d + 1, "vectors": 3 * d,
             "twice": 2 * d + 4, "output": 2 * d + 2}  # fmt: skip
    gelus = {"right": 4 * d, "missing": 0, "narrow": d, "both": 8 * d, "adapter": 4 * d * (on_up or on_down)}
    return norms[norm] + gelus[gelu] + _side(d, 4 * d, rank, on_up, up) + _side(4 * d, d, rank, on_down, down)


def _side(d_in, d_out, rank, adapter, kind):
    sizes = {
        "right": (d_in + rank) * adapter,
        "always": d_in + rank * adapter,
        "always, rank": d_in * adapter + rank,
        "no rank": d_in * adapter,
        "no input": rank * adapter,
        "missing": 0,
        "other side": (d_out + rank) * adapter,
        "rank twice": (d_in + 2 * rank) * adapter,
        "rank wide": (d_in + 4 * rank) * adapter,
        "output": (d_in + rank + d_out) * adapter,
        "weights": (d_in + rank + rank * (d_in + d_out)) * adapter,
        "input twice": (2 * d_in + rank) * adapter,
        "inverted": (d_in + rank) * (not adapter),
    }
    return sizes[kind]


NORM_MISTAKES = {
    "missing": "what the norm keeps is missing: its input, and two statistics. A gradient passes through it.",
    "input": "the norm's two statistics are missing.",
    "statistics": "the norm's input is missing: d numbers.",
    "one": "the norm keeps two statistics, the mean and the deviation.",
    "vectors": "the norm's statistics are one number each for a token, not d.",
    "twice": "there is one norm here. Its input and statistics are counted twice.",
    "output": "the norm's output is counted apart. It is up_proj's input: kept with that, or not at all.",
}
GELU_MISTAKES = {
    "missing": "GELU's input is missing. It has no weights, but its slope depends on where it was evaluated.",
    "narrow": "GELU's input has 4 d numbers: it is up_proj's output.",
    "both": "the GELU keeps its input alone. Its output is down_proj's input: kept with that, or not at all.",
    "adapter": "the GELU keeps its input in any case: a gradient passes through it without adapters, too.",
}
SIDE_MISTAKES = {
    "always": "{0} keeps its input without an adapter here. x is for the gradient of W, and a frozen W has none.",
    "always, rank": "s A x of {0} is counted without an adapter.",
    "no rank": "s A x of {0} is missing: rank numbers. B's gradient needs them.",
    "no input": "the input of {0}'s adapter is missing. A's gradient needs x.",
    "missing": "what {0}'s adapter keeps is missing.",
    "other side": "{0}'s input has {1} numbers: this takes its output.",
    "rank twice": "an adapter keeps one s A x, of rank numbers: {0} has it twice.",
    "rank wide": "s A x has rank numbers, whatever the width: {0} has 4 times as many here.",
    "output": "{0}'s output is counted. What the next operation needs, that one keeps.",
    "weights": "A and B of {0} are counted. They are parameters: alive anyway, and no activations.",
    "input twice": "{0} and its adapter share one input: it is counted twice.",
    "inverted": "{0} keeps its input when it has *no* adapter here. It is the other way round.",
}

UP, DOWN = (
    {kind: text.format(name, width) for kind, text in SIDE_MISTAKES.items()}
    for name, width in (("up_proj", "d"), ("down_proj", "4 d"))
)
BOTH = {kind: text.format("each linear", "d or 4 d") for kind, text in SIDE_MISTAKES.items()}
MLP_CASES = [(48, 4, False, False), (48, 4, True, False), (64, 3, False, True), (32, 5, True, True)]

mlp_activations = Exercise(
    "8.2",
    _mlp,
    MLP_CASES,
    combinations(
        _mlp,
        MLP_CASES,
        {
            "norm": ("right", NORM_MISTAKES),
            "gelu": ("right", GELU_MISTAKES),
            "both": (None, BOTH),
            "up": ("right", UP),
            "down": ("right", DOWN),
        },
        {
            "nothing is counted where there is no adapter. The norm and the GELU keep their inputs all the same.": (
                lambda d, r, up, down: _mlp(d, r, up, down) if up or down else 0
            ),
            "these are the adapters alone. The norm and the GELU keep their inputs, too.": (
                lambda d, r, up, down: _mlp(d, r, up, down, norm="missing", gelu="missing")
            ),
            "s A x is counted once. Each adapter has its own.": (
                lambda d, r, up, down: _mlp(d, r, up, down) - r * (up and down)
            ),
            "W is counted. Weights are no activations: they are there anyway.": (
                lambda d, r, up, down: _mlp(d, r, up, down) + 4 * d * d
            ),
            "both weights are counted. Weights are no activations: they are there anyway.": (
                lambda d, r, up, down: _mlp(d, r, up, down) + 8 * d * d
            ),
            "these are bytes, four for each number. How many numbers are there?": (
                lambda d, r, up, down: 4 * _mlp(d, r, up, down)
            ),
        },
    ),
    formula=polynomial(["d", "rank"], 2, flags=2),
    broadly={
        "this is less than the norm and the GELU keep without any adapter.": lambda got, d, *_: bool(got < 5 * d + 2),
        "this is more than full training keeps, adapters included: look for something counted twice, or for weights.": (
            lambda got, d, rank, *_: bool(got > 10 * d + 2 + 2 * rank)
        ),
        "without adapters the norm and the GELU keep 5 d + 2 numbers. This is another count.": (
            lambda got, d, rank, up, down: not up and not down
        ),
        "up_proj's adapter keeps d + rank numbers. With that adapter alone, this is another count.": (
            lambda got, d, rank, up, down: up and not down
        ),
        "down_proj's adapter keeps 4 d + rank numbers. With that adapter alone, this is another count.": (
            lambda got, d, rank, up, down: down and not up
        ),
        "with one adapter this is right. With both, add what each keeps.": lambda got, d, rank, up, down: up and down,
    },
)
