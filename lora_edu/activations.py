"""Activations: what the forward pass keeps for the backward pass, counted as it happens and predicted tensor by tensor.

A product y = x W^T needs x to compute the gradient of W, and W to compute that of x. So x is kept only if W is trained
(or has an adapter, whose A multiplies the same x), and whatever is frozen from the input up to here keeps nothing.
The rules for each operation stand in `_Kept`; `block_activations` applies them in the order of a block's forward pass.

Counted are float32 tensors on the CPU. CUDA's attention keeps two numbers more (its random state), which weigh nothing.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lora_edu.architectures import Architecture
from lora_edu.gpt import GPTConfig
from lora_edu.lora import ALL_LINEAR


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
    return sum(
        tensor.untyped_storage().nbytes() for tensor in measured_activations(model, lambda: model(tokens, targets))
    )


class _Kept:
    """Collects what each operation of a forward pass keeps: name -> numbers for each token.

    Methods take whether their input needs a gradient and return whether their output does.
    """

    def __init__(self, shape: Architecture, rank: int | None, targets: tuple[str, ...]):
        self.numbers: dict[str, int] = {}
        self.shape, self.rank, self.targets = shape, rank, targets

    def linear(self, name: str, x: str, width: int, needs_grad: bool) -> bool:
        """A linear layer, with or without an adapter. The weight itself is no activation."""
        if self.rank is None:  # trained: its own gradient needs x
            self.numbers[x] = width
            return True
        if name in self.targets:  # A's gradient needs x, B's gradient needs s A x
            self.numbers |= {x: width, f"s A x of {name}": self.rank}
            return True
        return needs_grad  # frozen: x is not needed, and a gradient only passes through

    def norm(self, x: str, width: int, needs_grad: bool) -> bool:
        """A norm keeps its input, and a number or two for each token."""
        needs_grad |= self.rank is None
        if needs_grad:
            self.numbers |= {x: width, f"statistics of {x}": _norm_numbers(self.shape)}
        return needs_grad


def block_activations(
    shape: Architecture, rank: int | None = None, targets: str | tuple[str, ...] = ALL_LINEAR, first: bool = False
) -> dict[str, int]:
    """What one block keeps: name -> numbers for each token. rank None trains everything; else LoRA on `targets`.

    first: the block after frozen embeddings, whose input needs no gradient.
    """
    d, d_ff, kept = shape.d_model, shape.d_ff, _Kept(shape, rank, target_names(shape, targets))
    x_grad = rank is None or not first
    n_grad = kept.norm("input of the block", d, x_grad)
    qkv_grad = any([kept.linear(name, "attention norm's output", d, n_grad) for name in ("q_proj", "k_proj", "v_proj")])
    if qkv_grad:  # fused attention: no (S, S) matrix is kept, only the logarithm of each row's softmax sum
        kept.numbers |= {"q, k, v": 3 * d, "attention's output": d, "log-sum of each softmax row": shape.n_heads}
    x_grad |= kept.linear("o_proj", "attention's output", d, qkv_grad)  # the sum that goes on to the MLP
    n_grad = kept.norm("input of the MLP half", d, x_grad)
    up_grad = kept.linear("up_proj", "MLP norm's output", d, n_grad)
    gate_grad = kept.linear("gate_proj", "MLP norm's output", d, n_grad) if shape.gated else up_grad
    if gate_grad:
        kept.numbers["GELU's input"] = d_ff  # of a gated MLP: the SiLU's
    if shape.gated and up_grad:  # the product of gate and up keeps both for each other's gradient
        kept.numbers["SiLU's output"] = d_ff
    if shape.gated and gate_grad:
        kept.numbers["up_proj's output"] = d_ff
    kept.linear("down_proj", "GELU's output" if not shape.gated else "gate times up", d_ff, up_grad or gate_grad)
    return kept.numbers


def predicted_activation_bytes(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    checkpointing: bool = False,
    bytes_per_number: int = 4,
) -> int:
    """The bytes that a forward pass with a loss keeps, from the model's shape alone; exact for the course's GPT.

    rank: None for full fine-tuning, else LoRA on `targets`. A base in NF4 changes nothing here: `NF4Linear` keeps no
    dequantized weight. checkpointing: each block keeps its input only. While the backward pass runs, one block's
    activations come on top: see `recomputed_bytes`. bytes_per_number: 4 for float32, 2 for a model that computes in 16
    bits throughout (the loss stays in float32).
    """
    shape = _as_architecture(shape)
    n_tokens, full = batch_size * seq_len, rank is None
    blocks = [sum(block_activations(shape, rank, targets, first=i == 0).values()) for i in range(shape.n_layers)]
    if checkpointing:
        blocks = [shape.d_model] * shape.n_layers
    # The last norm keeps its input, mean and deviation; a trained head keeps its own input.
    per_token = sum(blocks) + (shape.d_model + _norm_numbers(shape)) + (shape.d_model if full else 0)
    loss = 4 * n_tokens * shape.vocab_size + 4  # the logarithms of the probabilities, and how many tokens there were
    integers = n_tokens  # targets; for trained embeddings, tokens and positions too
    if full:
        integers += n_tokens + (seq_len if shape.positions else 0)
    return bytes_per_number * n_tokens * per_token + loss + 8 * integers


def recomputed_bytes(
    shape: GPTConfig | Architecture,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    bytes_per_number: int = 4,
) -> int:
    """With checkpointing: what one block adds while the backward pass is in it. Its input is there already."""
    shape = _as_architecture(shape)
    inner = sum(block_activations(shape, rank, targets).values()) - shape.d_model
    return bytes_per_number * batch_size * seq_len * inner


def target_names(shape: Architecture, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of the block linears that have an adapter. Raises ValueError for a name that there is not."""
    names = tuple(shape.linears) if targets == ALL_LINEAR else (targets,) if isinstance(targets, str) else targets
    if unknown := set(names) - set(shape.linears):
        raise ValueError(
            f"no linear layer of a block is named {', '.join(sorted(unknown))}; there are: {', '.join(shape.linears)}"
        )
    return tuple(names)


def _as_architecture(shape: GPTConfig | Architecture) -> Architecture:
    return Architecture.of_gpt(shape) if isinstance(shape, GPTConfig) else shape


def _norm_numbers(shape: Architecture) -> int:
    """For each token: 1 / deviation, and for a LayerNorm the mean (LLaMA's RMSNorm takes none off)."""
    return 1 if shape.gated else 2
