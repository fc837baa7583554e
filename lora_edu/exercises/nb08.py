"""The checks of notebook 08, memory: counting. Those of a layer and of what never moved are in `nb08_layers`."""

from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb08_layers import never_moved, quantized_linear

__all__ = ["beside", "mlp_activations", "never_moved", "qlora_bytes", "quantized_linear"]

# --- 8.1: bytes of weights, gradients and optimizer state ------------------------------------------------------------


@exercise(
    "8.1",
    [(10**6, 20_000, False), (3 * 10**6, 50_000, True), (7 * 10**5, 10**5, False)],
    taught={
        "8 / 64 + 32 / (64 * 256) -> 32 / 64": "Your answer keeps a float32 for each block, 4.5 bits a weight. Double "
        "quantization leaves {bits:.3f}.",
        "(64 * 256) -> 256": "Your answer lets 256 weights share a constant of the second level. It serves 256 blocks, "
        "and so 64 * 256 weights.",
        "1 + 1 + 2 -> 1 + 1 + 1": "Your answer has three floats for each trained number. AdamW keeps two means: four "
        "in all, {trained:,} bytes.",
        "1 + 1 + 2 -> 1 + 1 + 2 + 0.5": "Your answer has a copy of the adapters in 16 bits. They are in float32 "
        "already: {trained:,} bytes are all.",
        "4 * n * floats -> 4 * n * floats + 12 * P": "Your answer trains the frozen weights, too. Gradients and "
        "AdamW's means belong to the {n:,} adapter numbers alone.",
        "base + trained + copy -> trained + (copy if copy_alive else base)": "The copy replaces the codes in your "
        "answer. Both are alive: the base takes {base:,.0f} bytes beside it.",
        "if copy_alive else 0 -> if False else 0": "Your answer leaves the float32 copy out. While "
        "somebody holds it, it takes 4 bytes a weight beside the codes.",
    },
    also=(
        "1 + 1 + 2 -> 1 + 1",
        "1 + 1 + 2 -> 1",
        "1 + 1 + 2 -> 0.25",
        "1 + 1 + 2 -> 0.5",
        "1 + 1 + 2 -> 5",
        "1 + 1 + 2 -> 3 + bits / 32",
        "4 + 8 / 64 + 32 / (64 * 256) -> 0",
        "8 / 64 + 32 / (64 * 256) -> 8 / 64 + 32 / 64",
        "4 * P if -> 4 * (P + n) if",
        "if copy_alive else 0 -> if not copy_alive else 0",
        *(f"4 + 8 / 64 + 32 / (64 * 256) -> {bits}" for bits in (4, 16, 32)),
        *(f"4 * P if -> {size} * P if" for size in (32, 0.5)),
    ),
    noticed={
        "this is less than the base takes: P * 4.127 bits.": lambda got, P, n, copy: got < 0.99 * P * 4.127 / 8,
    },
)
def qlora_bytes(P, n, copy_alive):
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # the bits of a base weight
    base = P * bits / 8  # the bytes of the base
    floats = 1 + 1 + 2  # the floats of each trained number
    trained = 4 * n * floats  # the bytes of what is trained
    copy = 4 * P if copy_alive else 0  # the bytes of the float32 copy
    return base + trained + copy  # the sum


# --- 8.2: what an MLP keeps ------------------------------------------------------------------------------------------


@exercise(
    "8.2",
    [(48, 4, False, False), (48, 4, True, False), (64, 3, False, True), (32, 5, True, True)],
    taught={
        "d + rank if adapter_on_up else 0 -> d + rank * adapter_on_up & 4 * d + rank if adapter_on_down else 0 -> "
        "4 * d + rank * adapter_on_down": "A linear without an adapter keeps its input in your "
        "answer. That is for the gradient of W, and a frozen W has none.",
        "up = d + rank -> up = d & down = 4 * d + rank -> down = 4 * d": "Your answer keeps an adapter's input alone. "
        "B's gradient needs s A x as well: {rank} numbers.",
        "up = d + rank -> up = 4 * d + rank & down = 4 * d + rank -> down = d + rank": "Your answer takes a linear's "
        "output for its input. up_proj takes {d} numbers, down_proj 4 times as many.",
        "up = d + rank -> up = d + rank + 5 * d * rank & down = 4 * d + rank -> down = 4 * d + rank + 5 * d * rank": (
            "Your answer counts A and B. They are parameters: alive anyway, and no activations."
        ),
        "gelu = 4 * d -> gelu = 0": "The GELU keeps nothing in your answer. It has no weights, but its slope depends "
        "on its input: {gelu} numbers.",
        "gelu = 4 * d -> gelu = 8 * d": "The GELU keeps its output too in your answer. That is down_proj's input: kept "
        "with that, or not at all.",
        "norm = d + 2 -> norm = 0": "The norm keeps nothing in your answer. It is frozen, but a gradient passes "
        "through: its input and two statistics, {norm} numbers.",
    },
    also=(
        *(f"norm = d + 2 -> norm = {kept}" for kept in ("2", "3 * d", "2 * d + 4", "2 * d + 2")),
        *(f"gelu = 4 * d -> gelu = {kept}" for kept in ("d", "4 * d * (adapter_on_up or adapter_on_down)")),
        "down = 4 * d + rank -> down = 4 * d + rank - rank * adapter_on_up",
        "d + rank if adapter_on_up else 0 -> d * adapter_on_up + rank & 4 * d + rank if adapter_on_down else 0 -> "
        "4 * d * adapter_on_down + rank",
        *(
            f"up = d + rank -> up = {up} & down = 4 * d + rank -> down = {down}"
            for up, down in (
                ("rank", "rank"),
                ("0", "0"),
                ("2 * d + rank", "8 * d + rank"),
                ("d + 4 * rank", "4 * (d + rank)"),
            )
        ),
        "return norm + gelu + up + down -> return norm + gelu + up + down if up + down else 0",
        "return norm + gelu + up + down -> return norm + gelu + up + down + 4 * d * d",
        "return norm + gelu + up + down -> return norm + gelu + up + down + 8 * d * d",
        "return norm + gelu + up + down -> return 4 * (norm + gelu + up + down)",
    ),
    noticed={
        "this is less than the norm and the GELU keep without any adapter.": lambda got, d, *case: got < 5 * d + 2,
        "this is more than full training keeps, adapters included: is something counted twice, or are weights?": (
            lambda got, d, rank, *case: got > 10 * d + 2 + 2 * rank
        ),
    },
)
def mlp_activations(d, rank, adapter_on_up, adapter_on_down):
    norm = d + 2  # what the norm keeps
    gelu = 4 * d  # what the GELU keeps
    up = d + rank if adapter_on_up else 0  # what up_proj keeps
    down = 4 * d + rank if adapter_on_down else 0  # what down_proj keeps
    return norm + gelu + up + down  # the sum
