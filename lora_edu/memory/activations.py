"""Activations: what a forward pass keeps for the backward pass, counted as it happens and predicted from the shape.

Rules say what each operation of a block keeps; `block` applies them in order, `Step` adds up a whole model.

A product y = x W^T needs x to compute the gradient of W, and W to compute that of x. So x is kept only if W is trained
(or has an adapter, whose A multiplies the same x), and whatever is frozen from the input up to here keeps nothing.

How many bytes a number has depends on where it arises. And where the types differ, x is cast, and the cast copy is what
is kept: a layer with float32 adapters in a bfloat16 model keeps a float32 copy of its input, a copy for each layer.

The predictions are for code like the course's GPT: fused attention, fused norms, no dropout (which would keep a mask
and one more copy of its input). On the CPU they are exact; CUDA's attention and norms keep a few numbers a token more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lora_edu.checks import check, optional, whole
from lora_edu.gpt import GPTConfig
from lora_edu.layers import ALL_LINEAR
from lora_edu.memory.shapes import Architecture, as_architecture, target_names


@dataclass(frozen=True)
class Precision:
    """The bytes of a number, by the place where it arises."""

    stream: int  # the sum that runs past the blocks, and what norms make of it
    products: int  # what linear layers and attention compute
    adapters: int  # what A and B multiply


PRECISIONS = {
    # In 4 bits, too, after PEFT's cast: bitsandbytes' products return their input's type.
    "float32": Precision(4, 4, 4),
    "bfloat16": Precision(2, 2, 2),  # the adapters too
    "bfloat16, float32 adapters": Precision(2, 2, 4),  # as PEFT and `add_lora` make them
    "autocast": Precision(4, 2, 2),  # parameters in float32; torch.autocast casts what a product needs
}


class BlockActivations:
    """What each operation of a block's forward pass keeps, collected one by one: name -> bytes for each token.

    Methods take whether their input needs a gradient and return whether their output does.
    """

    def __init__(self, shape: Architecture, rank: int | None, targets: tuple[str, ...], precision: str):
        self.shape, self.rank, self.targets, self.precision = shape, rank, targets, PRECISIONS[precision]
        self.bytes: dict[str, int] = {}  # for each token
        self.passed = {"base": 0, "adapters": 0}  # how many weights are needed again to pass a gradient on

    @property
    def bytes_per_token(self) -> int:
        return sum(self.bytes.values())

    def keep(self, name: str, numbers: int, size: int) -> None:
        self.bytes[name] = numbers * size

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
        cast = "" if len({*vars(precision).values()}) == 1 else f", cast for {name}"
        self.keep(x + cast, inner, precision.adapters)  # for A's gradient
        self.keep(f"s A x of {name}", self.rank, precision.adapters)  # for B's gradient
        return True

    def norm(self, x: str, needs_grad: bool, heads: int = 0) -> bool:
        """A norm keeps its input, and a number or two for each token; of queries or keys, a number for each head."""
        needs_grad |= self.rank is None
        if needs_grad:
            shape, size = self.shape, self.precision.products if heads else self.precision.stream
            self.keep(x, heads * shape.head_width or shape.d_model, size)
            self.keep(f"statistics of {x}", heads or norm_numbers(shape), size)
        return needs_grad


def block(
    shape: Architecture, rank: int | None, targets: tuple[str, ...], first: bool, precision: str
) -> BlockActivations:
    """One block's forward pass. first: the block after frozen embeddings, whose input needs no gradient."""
    d_ff, kept = shape.d_ff, BlockActivations(shape, rank, targets, precision)
    size = kept.precision.products
    x_grad = rank is None or not first
    n_grad = kept.norm("input of the block", x_grad)
    wants = {name: kept.linear(name, "attention norm's output", n_grad) for name in ("q_proj", "k_proj", "v_proj")}
    if shape.head_norms:
        wants["q_proj"] = kept.norm("queries before their norm", wants["q_proj"], shape.n_heads)
        wants["k_proj"] = kept.norm("keys before their norm", wants["k_proj"], shape.kv_heads)
    qkv_grad = any(wants.values())
    if qkv_grad:  # fused attention: no (S, S) matrix is kept, only the logarithm of each row's softmax sum
        kept.keep("q, k, v", sum(shape.linears[name][1] for name in wants), size)
        kept.keep("attention's output", shape.linears["o_proj"][0], size)
        kept.keep("log-sum of each softmax row", shape.n_heads, 4)
    o_grad = kept.linear("o_proj", "attention's output", qkv_grad)
    if shape.norms_after:
        o_grad = kept.norm("o_proj's output", o_grad)
    x_grad |= o_grad  # the sum that goes on to the MLP
    n_grad = kept.norm("input of the MLP half", x_grad)
    if shape.n_experts:
        experts(kept, n_grad)
        return kept
    up_grad = kept.linear("up_proj", "MLP norm's output", n_grad)
    gate_grad = kept.linear("gate_proj", "MLP norm's output", n_grad) if shape.gated else up_grad
    if gate_grad:
        kept.keep("GELU's input", d_ff, size)  # of a gated MLP: the SiLU's
    if shape.gated and up_grad:  # the product of gate and up keeps both for each other's gradient
        kept.keep("SiLU's output", d_ff, size)
    if shape.gated and gate_grad:
        kept.keep("up_proj's output", d_ff, size)
    down_grad = kept.linear("down_proj", "gate times up" if shape.gated else "GELU's output", up_grad or gate_grad)
    if shape.norms_after:
        kept.norm("down_proj's output", down_grad)
    return kept


def experts(kept: BlockActivations, needs_grad: bool) -> None:
    """The MLP half of a mixture. Its experts have no adapters, and the choice of the router needs what each put out."""
    shape, size = kept.shape, kept.precision.products
    if not needs_grad:
        return
    if kept.rank is None:  # trained: the gradients of the two tensors need their inputs
        kept.keep("experts' inputs", shape.experts_used * shape.d_model, size)
        kept.keep("gate times up", shape.mlp_width, size)
    kept.keep("SiLU's input", shape.mlp_width, size)
    kept.keep("SiLU's output", shape.mlp_width, size)
    kept.keep("up's output", shape.mlp_width, size)
    kept.keep("experts' outputs", shape.experts_used * shape.d_model, size)
    kept.keep("probabilities of the router", shape.n_experts, 4)


def norm_numbers(shape: Architecture) -> int:
    """For each token: 1 / deviation, and for a LayerNorm the mean (LLaMA's RMSNorm takes none off)."""
    return 1 if shape.gated else 2


def measured_activations(model: nn.Module, forward: Callable[[], object]) -> list[Tensor]:
    """Run `forward` and return the tensors that autograd keeps for the backward pass, one for each storage.

    A tensor that two operations keep is there once. The model's parameters and buffers are not activations.
    """
    ours = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # storage address -> tensor; holding the tensor keeps its address from being reused

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in ours:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return list(kept.values())


def measured_activation_bytes(model: nn.Module, tokens: Tensor, targets: Tensor) -> int:
    """The bytes kept by one forward pass with a loss; tokens and targets: (B, S) int64, two tensors of their own."""
    kept = measured_activations(model, lambda: model(tokens, targets))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


# --- a whole model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A training step: its activations follow from this alone. Bytes; the loss is in float32 always.

    rank: None for full fine-tuning, else LoRA on `targets`. checkpointing: each block keeps its input only. precision:
    one of PRECISIONS. nf4: matters under autocast only, which keeps a 16-bit copy of each weight that is not in NF4.
    Raises TypeError or ValueError for a name that is unknown, and numbers below 1.
    """

    shape: Architecture
    batch_size: int
    seq_len: int
    rank: int | None = None
    targets: str | tuple[str, ...] = ALL_LINEAR
    checkpointing: bool = False
    precision: str = "float32"
    nf4: bool = False

    def __post_init__(self) -> None:
        check(whole(1), batch_size=self.batch_size, seq_len=self.seq_len)
        check(optional(whole(1)), rank=self.rank)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {'; '.join(PRECISIONS)}, got {self.precision!r}")
        if self.shape.n_experts and self.precision == "autocast":
            raise ValueError("autocast is not counted for a mixture of experts: choose another precision")

    @property
    def n_tokens(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def size(self) -> Precision:
        return PRECISIONS[self.precision]

    @property
    def kept(self) -> int:
        """What the forward pass, with its loss, keeps: exact for the course's GPT."""
        shape, blocks = self.shape, [self._block(first=True)] + [self._block()] * (self.shape.n_layers - 1)
        input_of_a_block = self.size.stream * shape.d_model
        per_token = sum(input_of_a_block if self.checkpointing else kept.bytes_per_token for kept in blocks)
        per_token += self._after_the_blocks()
        copies = 0 if self.checkpointing else sum(map(self._copies, blocks))
        copies += 2 * shape.d_model * shape.vocab_size * (self.precision == "autocast")  # of the head
        integers = self.n_tokens  # targets; for trained embeddings, tokens and positions too
        if self.rank is None:
            integers += self.n_tokens + (self.seq_len if shape.positions else 0)
        return self.n_tokens * per_token + 4 + copies + 8 * integers  # 4: how many tokens there were

    @property
    def recomputed(self) -> int:
        """With checkpointing: what one block adds while the backward pass is in it. Its input is there already."""
        kept = self._block()
        return self.n_tokens * (kept.bytes_per_token - self.size.stream * self.shape.d_model) + self._copies(kept)

    @property
    def flowing(self) -> int:
        """The gradients on their way through one MLP at its widest: the one past the block; and at `down_proj`'s input
        the one through W, the one through A and their sum, less the input, which is let go by then. Under autocast more
        is there before: the input of an adapter on `down_proj`, cast to float32 and, for a moment, back to 16 bits."""
        size, d, f = self.size, self.shape.d_model, self.shape.mlp_width
        if self.precision == "autocast" and self.rank and "down_proj" in self._block().targets:
            return self.n_tokens * (size.stream + size.products) * (d + f)
        return self.n_tokens * (size.stream * d + (3 if self.shape.gated else 2) * size.products * f)

    @property
    def peak_parts(self) -> tuple[int, int]:
        """The most that activations take together with the gradients that flow back through them, in two parts: what
        the layers take at that moment, and what the logits take. Two moments compete.

        At the loss: all that is kept, and two gradients as large as the logits. In the last block, where the loss and
        the last norm are done: what flows, and with checkpointing, what the block computed again. Gradients of trained
        parameters, which stay, are not counted. Within 1% for LoRA on the CPU; under autocast, where gradients are
        there in two types for a moment, within 2%, with checkpointing within 7%.
        """
        one = 4 * self.n_tokens * self.shape.vocab_size  # kept: logarithms; on top: gradients around the softmax
        at_loss = self.kept + 2 * one
        in_block = self.kept - self.n_tokens * self._after_the_blocks() + self.flowing
        in_block += self.recomputed if self.checkpointing else 0
        return (at_loss - 3 * one, 3 * one) if at_loss >= in_block else (in_block, 0)

    def _block(self, first: bool = False) -> BlockActivations:
        return block(self.shape, self.rank, target_names(self.shape.linears, self.targets), first, self.precision)

    def _copies(self, kept: BlockActivations) -> int:
        """Autocast's copies of a block's weights, those that a gradient passes through."""
        numbers = kept.passed["adapters"] + kept.passed["base"] * (not self.nf4)
        return 2 * numbers if self.precision == "autocast" else 0

    def _after_the_blocks(self) -> int:
        """For each token: the last norm's input and statistics, a trained head's input, the logarithms of the loss."""
        norm = self.size.stream * (self.shape.d_model + norm_numbers(self.shape))
        head = self.size.products * self.shape.d_model if self.rank is None else 0
        return norm + head + 4 * self.shape.vocab_size


def predicted_activation_bytes(shape: GPTConfig | Architecture, batch_size: int, seq_len: int, **how: Any) -> int:
    """The bytes that a forward pass with a loss keeps, from the model's shape alone.

    batch_size: how many sequences. seq_len: how many tokens each has.
    how: `rank`, `targets`, `checkpointing`, `precision` and `nf4`, and what is raised: see `Step`.
    """
    return Step(as_architecture(shape), batch_size, seq_len, **how).kept


def predicted_peak_bytes(shape: GPTConfig | Architecture, batch_size: int, seq_len: int, **how: Any) -> int:
    """The most that activations and the gradients through them take in a step. how, and errors: see `Step`."""
    return sum(Step(as_architecture(shape), batch_size, seq_len, **how).peak_parts)
