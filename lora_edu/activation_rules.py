"""What each operation of a block keeps for the backward pass, as rules; `block_activations` applies them in order.

A product y = x W^T needs x to compute the gradient of W, and W to compute that of x. So x is kept only if W is trained
(or has an adapter, whose A multiplies the same x), and whatever is frozen from the input up to here keeps nothing.

How many bytes a number has depends on where it arises. And where the types differ, x is cast, and the cast copy is what
is kept: a layer with float32 adapters in a bfloat16 model keeps a float32 copy of its input, a copy for each layer.
"""

from dataclasses import dataclass

from lora_edu.architectures import Architecture
from lora_edu.lora import ALL_LINEAR


@dataclass(frozen=True)
class Precision:
    """The bytes of a number, by the place where it arises."""

    stream: int  # the sum that runs past the blocks, and what norms make of it
    products: int  # what linear layers and attention compute
    adapters: int  # what A and B multiply

    @property
    def is_one(self) -> bool:
        return self.stream == self.products == self.adapters


PRECISIONS = {
    "float32": Precision(4, 4, 4),
    "bfloat16": Precision(2, 2, 2),  # the adapters too
    "bfloat16, float32 adapters": Precision(2, 2, 4),  # as PEFT and `add_lora` make them
    "autocast": Precision(4, 2, 2),  # parameters in float32; torch.autocast casts what a product needs
}


class Kept:
    """Collects what each operation of a forward pass keeps: name -> numbers for each token, and the bytes of each.

    Methods take whether their input needs a gradient and return whether their output does.
    """

    def __init__(self, shape: Architecture, rank: int | None, targets: tuple[str, ...], precision: str):
        self.shape, self.rank, self.targets, self.precision = shape, rank, targets, precision_of(precision)
        self.numbers: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.passed = {"base": 0, "adapters": 0}  # how many weights are needed again to pass a gradient on

    @property
    def bytes_per_token(self) -> int:
        return sum(number * self.sizes[name] for name, number in self.numbers.items())

    def keep(self, name: str, numbers: int, size: int) -> None:
        self.numbers[name], self.sizes[name] = numbers, size

    def linear(self, name: str, x: str, needs_grad: bool) -> bool:
        """A linear layer, with or without an adapter. Weights are no activations, but autocast's copies of them are."""
        (inner, outer), precision = self.shape.linears[name], self.precision
        self.passed["base"] += inner * outer * needs_grad
        if self.rank is None:  # trained: its own gradient needs x
            arrives_in = precision.stream if x.endswith("norm's output") else precision.products
            self.keep(x if arrives_in == precision.products else f"{x}, cast for {name}", inner, precision.products)
            return True
        if name not in self.targets:
            return needs_grad  # frozen: x is not needed, and a gradient only passes through
        self.passed["adapters"] += self.rank * (inner * needs_grad + outer)
        self.keep(x if precision.is_one else f"{x}, cast for {name}", inner, precision.adapters)  # for A's gradient
        self.keep(f"s A x of {name}", self.rank, precision.adapters)  # for B's gradient
        return True

    def norm(self, x: str, needs_grad: bool) -> bool:
        """A norm keeps its input, and a number or two for each token."""
        needs_grad |= self.rank is None
        if needs_grad:
            self.keep(x, self.shape.d_model, self.precision.stream)
            self.keep(f"statistics of {x}", norm_numbers(self.shape), self.precision.stream)
        return needs_grad


def block(shape: Architecture, rank: int | None, targets: tuple[str, ...], first: bool, precision: str) -> Kept:
    """One block's forward pass. first: the block after frozen embeddings, whose input needs no gradient."""
    d, d_ff, kept = shape.d_model, shape.d_ff, Kept(shape, rank, targets, precision)
    size = kept.precision.products
    x_grad = rank is None or not first
    n_grad = kept.norm("input of the block", x_grad)
    qkv_grad = any([kept.linear(name, "attention norm's output", n_grad) for name in ("q_proj", "k_proj", "v_proj")])
    if qkv_grad:  # fused attention: no (S, S) matrix is kept, only the logarithm of each row's softmax sum
        kept.keep("q, k, v", 3 * d, size)
        kept.keep("attention's output", d, size)
        kept.keep("log-sum of each softmax row", shape.n_heads, 4)
    x_grad |= kept.linear("o_proj", "attention's output", qkv_grad)  # the sum that goes on to the MLP
    n_grad = kept.norm("input of the MLP half", x_grad)
    up_grad = kept.linear("up_proj", "MLP norm's output", n_grad)
    gate_grad = kept.linear("gate_proj", "MLP norm's output", n_grad) if shape.gated else up_grad
    if gate_grad:
        kept.keep("GELU's input", d_ff, size)  # of a gated MLP: the SiLU's
    if shape.gated and up_grad:  # the product of gate and up keeps both for each other's gradient
        kept.keep("SiLU's output", d_ff, size)
    if shape.gated and gate_grad:
        kept.keep("up_proj's output", d_ff, size)
    kept.linear("down_proj", "gate times up" if shape.gated else "GELU's output", up_grad or gate_grad)
    return kept


def block_activations(
    shape: Architecture, rank: int | None = None, targets: str | tuple[str, ...] = ALL_LINEAR, first: bool = False,
    precision: str = "float32",
) -> dict[str, int]:  # fmt: skip
    """What one block keeps: name -> numbers for each token. rank None trains everything; else LoRA on `targets`."""
    return block(shape, rank, target_names(shape, targets), first, precision).numbers


def target_names(shape: Architecture, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the block linears that have an adapter. Raises ValueError for a name that there is not."""
    names = tuple(shape.linears) if targets == ALL_LINEAR else (targets,) if isinstance(targets, str) else targets
    if unknown := set(names) - set(shape.linears):
        raise ValueError(
            f"no linear layer of a block is named {', '.join(sorted(unknown))}; there are: {', '.join(shape.linears)}"
        )
    return tuple(names)


def precision_of(name: str) -> Precision:
    """Raises ValueError for a name that PRECISIONS has not."""
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {'; '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def norm_numbers(shape: Architecture) -> int:
    """For each token: 1 / deviation, and for a LayerNorm the mean (LLaMA's RMSNorm takes none off)."""
    return 1 if shape.gated else 2
