"""What each operation of a block keeps for the backward pass, as rules; `block_activations` applies them in order.

A product y = x W^T needs x to compute the gradient of W, and W to compute that of x. So x is kept only if W is trained
(or has an adapter, whose A multiplies the same x), and whatever is frozen from the input up to here keeps nothing.

How many bytes a number has depends on where it arises. And where the types differ, x is cast, and the cast copy is what
is kept: a layer with float32 adapters in a bfloat16 model keeps a float32 copy of its input, a copy for each layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lora_edu.checks import check, optional, whole
from lora_edu.gpt import GPTConfig
from lora_edu.layers import ALL_LINEAR
from lora_edu.memory.shapes import GRADIENTS, Architecture, predicted_bytes, target_names


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

    def norm_of_heads(self, x: str, heads: int, needs_grad: bool) -> bool:
        """A norm of each head of the queries or of the keys."""
        needs_grad |= self.rank is None
        if needs_grad:
            self.keep(x, heads * self.shape.head_width, self.precision.products)
            self.keep(f"statistics of {x}", heads, self.precision.products)
        return needs_grad


def block(shape: Architecture, rank: int | None, targets: tuple[str, ...], first: bool, precision: str) -> Kept:
    """One block's forward pass. first: the block after frozen embeddings, whose input needs no gradient."""
    d_ff, kept = shape.d_ff, Kept(shape, rank, targets, precision)
    size = kept.precision.products
    x_grad = rank is None or not first
    n_grad = kept.norm("input of the block", x_grad)
    wants = {name: kept.linear(name, "attention norm's output", n_grad) for name in ("q_proj", "k_proj", "v_proj")}
    if shape.head_norms:
        wants["q_proj"] = kept.norm_of_heads("queries before their norm", shape.n_heads, wants["q_proj"])
        wants["k_proj"] = kept.norm_of_heads("keys before their norm", shape.kv_heads, wants["k_proj"])
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


def block_activations(
    shape: Architecture, rank: int | None = None, targets: str | tuple[str, ...] = ALL_LINEAR, first: bool = False,
    precision: str = "float32",
) -> dict[str, int]:  # fmt: skip
    """What one block keeps: name -> numbers for each token. rank None trains everything; else LoRA on `targets`."""
    return block(shape, rank, target_names(shape.linears, targets), first, precision).numbers


def precision_of(name: str) -> Precision:
    """Raises ValueError for a name that PRECISIONS has not."""
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {'; '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def norm_numbers(shape: Architecture) -> int:
    """For each token: 1 / deviation, and for a LayerNorm the mean (LLaMA's RMSNorm takes none off)."""
    return 1 if shape.gated else 2


# --- activations -----------------------------------------------------------------------------------------------------
# Activations: what the forward pass keeps for the backward pass, counted as it happens and predicted from the shape.
#
# The rules for each operation stand in `lora_edu.memory.activations`; here they are added up for a whole model. The
# predictions are for code like the course's GPT: fused attention, fused norms, no dropout (which would keep a mask and
# one more copy of its input). On the CPU they are exact; CUDA's attention and norms keep a few numbers a token more.


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


def predicted_activation_bytes(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    checkpointing: bool = False,
    precision: str = "float32",
    nf4: bool = False,
) -> int:
    """The bytes that a forward pass with a loss keeps, from the model's shape alone; exact for the course's GPT.

    rank: None for full fine-tuning, else LoRA on `targets`. checkpointing: each block keeps its input only; what comes
    on top while the backward pass runs is `recomputed_bytes`. precision: one of
    `lora_edu.memory.activations.PRECISIONS`; the loss is in float32 always. nf4: matters under autocast only, which
    keeps a 16-bit copy of each weight that is not in NF4; `NF4Linear` keeps no dequantized weight.
    """
    shape = as_architecture(shape, rank, batch_size, seq_len)
    names = target_names(shape.linears, targets)
    n_tokens, size = batch_size * seq_len, precision_of(precision)
    first, other = (block(shape, rank, names, is_first, precision) for is_first in (True, False))
    blocks = [first] + [other] * (shape.n_layers - 1)  # from the second on, all are alike
    per_token = sum(size.stream * shape.d_model if checkpointing else kept.bytes_per_token for kept in blocks)
    per_token += _after_the_blocks(shape, rank, precision)
    copies = 0
    if precision == "autocast":
        copies = shape.d_model * shape.vocab_size  # the head
        copies += (
            0 if checkpointing else sum(kept.passed["adapters"] + kept.passed["base"] * (not nf4) for kept in blocks)
        )
    integers = n_tokens  # targets; for trained embeddings, tokens and positions too
    if rank is None:
        integers += n_tokens + (seq_len if shape.positions else 0)
    return n_tokens * per_token + 4 + 2 * copies + 8 * integers  # 4: how many tokens there were


def recomputed_bytes(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    precision: str = "float32",
    nf4: bool = False,
) -> int:
    """With checkpointing: what one block adds while the backward pass is in it. Its input is there already."""
    shape = as_architecture(shape, rank, batch_size, seq_len)
    kept = block(shape, rank, target_names(shape.linears, targets), False, precision)
    inner = kept.bytes_per_token - kept.precision.stream * shape.d_model
    copies = kept.passed["adapters"] + kept.passed["base"] * (not nf4) if precision == "autocast" else 0
    return batch_size * seq_len * inner + 2 * copies


def predicted_peak_bytes(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    checkpointing: bool = False,
    precision: str = "float32",
    nf4: bool = False,
) -> int:
    """The most that activations take together with the gradients that flow back through them: two moments compete.

    At the loss: all that is kept, and two gradients as large as the logits. In the last block: the loss and the last
    norm are done, and `flowing_bytes` are on their way; with checkpointing, what the block computed again is there too.
    Gradients of trained parameters, which stay, are not counted here. Within 1% for LoRA on the CPU; under autocast,
    where gradients are there in two types for a moment, the true peak is up to a fifth more.
    """
    how = dict(rank=rank, targets=targets, checkpointing=checkpointing, precision=precision, nf4=nf4)
    return sum(peak_parts(shape, batch_size, seq_len, **how))


def peak_parts(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    checkpointing: bool = False,
    precision: str = "float32",
    nf4: bool = False,
) -> tuple[int, int]:
    """The same in two parts: what the layers take at the peak, and what the logits take there. None in a block."""
    shape, n_tokens = as_architecture(shape, rank, batch_size, seq_len), batch_size * seq_len
    how = dict(rank=rank, targets=targets, precision=precision, nf4=nf4)
    kept = predicted_activation_bytes(shape, batch_size, seq_len, checkpointing=checkpointing, **how)
    one = 4 * n_tokens * shape.vocab_size  # kept: logarithms; on top: float32 gradients, before and after the softmax
    at_loss = kept + 2 * one
    in_block = kept - n_tokens * _after_the_blocks(shape, rank, precision)
    in_block += flowing_bytes(shape, batch_size, seq_len, precision=precision)
    in_block += recomputed_bytes(shape, batch_size, seq_len, **how) if checkpointing else 0
    return (at_loss - 3 * one, 3 * one) if at_loss >= in_block else (in_block, 0)


def flowing_bytes(shape: GPTConfig | Architecture, batch_size: int, seq_len: int, *, precision: str = "float32") -> int:
    """The gradients on their way through one MLP at its widest: the one past the block; and at `down_proj`'s input the
    one through W, the one through A and their sum, less the input, which is let go by then."""
    shape, size = as_architecture(shape, None, batch_size, seq_len), precision_of(precision)
    wide = 3 if shape.gated else 2
    return batch_size * seq_len * (size.stream * shape.d_model + wide * size.products * shape.d_ff)


def _after_the_blocks(shape: Architecture, rank: int | None, precision: str) -> int:
    """For each token: the last norm's input and statistics, a trained head's input, and the logarithms of the loss."""
    size = precision_of(precision)
    norm = size.stream * (shape.d_model + norm_numbers(shape))
    return norm + (size.products * shape.d_model if rank is None else 0) + 4 * shape.vocab_size


def as_architecture(shape: GPTConfig | Architecture, rank: int | None, batch_size: int, seq_len: int) -> Architecture:
    """The shape as an Architecture. Raises TypeError or ValueError for what is none, and for numbers below 1."""
    check(whole(1), batch_size=batch_size, seq_len=seq_len)
    check(optional(whole(1)), rank=rank)
    if not isinstance(shape, GPTConfig | Architecture):
        raise TypeError(f'shape must be an Architecture, such as ARCHITECTURES["LLaMA 7B"], got {shape!r}')
    return Architecture.of_gpt(shape) if isinstance(shape, GPTConfig) else shape


# --- step memory -----------------------------------------------------------------------------------------------------
# The peak memory of a QLoRA step in mixed precision, predicted from the model's shape: the course's GPT, adapters on
# all block linears, nothing compiled, no checkpointing.
#
# What stays between two steps is in `lora_edu.memory.shapes`, what the forward pass keeps is above. On top come
# temporary copies. With many tokens the peak is in the last block's MLP, where `down_proj`'s adapter holds its wide
# input three times: as it came, in float32 for a moment (adapters are float32), and in 16 bits again (autocast casts it
# back). `tests/test_cuda.py` holds this against a measurement, `benchmarks/gpu.py` against a GPU's own count.


def step_peak_bytes(config: GPTConfig, batch_size: int, seq_len: int, rank: int) -> int:
    """The most memory at one moment of a training step: weights, constants, adapters, AdamW's state, the batch, and
    the activations with their temporary copies. Not counted: what the libraries of a GPU take for themselves.
    """
    n_tokens = batch_size * seq_len
    resident = predicted_bytes(config, nf4=True, rank=rank)
    resident = sum(resident.values()) - resident[GRADIENTS]  # they are not there yet
    inputs = 8 * n_tokens  # the targets are kept anyway
    kept = predicted_activation_bytes(config, batch_size, seq_len, rank=rank, precision="autocast", nf4=True)
    return resident + inputs + kept + max(_temporary_bytes(config, n_tokens).values())


def _temporary_bytes(config: GPTConfig, n_tokens: int) -> dict[str, int]:
    """What three moments add to all that is kept, or are still without: name -> bytes."""
    d, loss = config.d_model, 4 * config.vocab_size  # of a token: float32 logarithms of the probabilities
    # In the last MLP the final norm (its input and two statistics) and the loss are still to come. The MLP holds its
    # own input, float32, and GELU's output, 16 bits.
    in_mlp = 4 * d + 2 * 4 * d - (4 * d + 8) - loss
    return {
        # the float32 copy of the adapter's input; the product with W is there
        "down_proj's adapter": n_tokens * (in_mlp + 4 * 4 * d + 2 * d),
        # W in 16 bits, and what it is decoded with: float32 values, and an index of 4 bytes for two of them; the
        # adapter's own copy of its input is not there yet
        "down_proj's product": n_tokens * (in_mlp - 2 * 4 * d) + (2 + 4 + 2) * 4 * d * d,
        # two gradients of the logits
        "the loss": n_tokens * 2 * loss,
    }
