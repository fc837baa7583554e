"""Activations: what the forward pass keeps for the backward pass, counted as it happens and predicted tensor by tensor.

A product y = x W^T needs x to compute the gradient of W, and W to compute that of x. So x is kept only if W is trained
(or has an adapter, whose A multiplies the same x), and whatever is frozen from the input up to here keeps nothing.
The rules for each operation stand in `_Kept`; `block_activations` applies them in the order of a block's forward pass.

Counted are float32 tensors on the CPU. CUDA's attention keeps two numbers more (its random state), which weigh nothing.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lora_edu.gpt import GPTConfig
from lora_edu.lora import ALL_LINEAR
from lora_edu.memory import BLOCK_LINEARS


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

    def __init__(self, rank: int | None, targets: tuple[str, ...]):
        self.numbers: dict[str, int] = {}
        self.rank, self.targets = rank, targets

    def linear(self, name: str, x: str, width: int, needs_grad: bool) -> bool:
        """A linear layer, with or without an adapter. The weight itself is no activation."""
        if self.rank is None:  # trained: its own gradient needs x
            self.numbers[x] = width
            return True
        if name in self.targets:  # A's gradient needs x, B's gradient needs A x
            self.numbers |= {x: width, f"A x of {name}": self.rank}
            return True
        return needs_grad  # frozen: x is not needed, and a gradient only passes through

    def norm(self, x: str, width: int, needs_grad: bool) -> bool:
        """A LayerNorm keeps its input, and the mean and 1 / deviation of each token."""
        needs_grad |= self.rank is None
        if needs_grad:
            self.numbers |= {x: width, f"mean and deviation of {x}": 2}
        return needs_grad


def block_activations(
    config: GPTConfig, rank: int | None = None, targets: str | tuple[str, ...] = ALL_LINEAR, first: bool = False
) -> dict[str, int]:
    """What one block keeps: name -> numbers for each token. rank None trains everything; else LoRA on `targets`.

    first: the block after frozen embeddings, whose input needs no gradient.
    """
    d, kept = config.d_model, _Kept(rank, _target_names(targets))
    x_grad = rank is None or not first
    n_grad = kept.norm("input of the block", d, x_grad)
    qkv_grad = any([kept.linear(name, "attention norm's output", d, n_grad) for name in ("q_proj", "k_proj", "v_proj")])
    if qkv_grad:  # fused attention: no (S, S) matrix is kept, only the logarithm of each row's softmax sum
        kept.numbers |= {"q, k, v": 3 * d, "attention's output": d, "log-sum of each softmax row": config.n_heads}
    x_grad |= kept.linear("o_proj", "attention's output", d, qkv_grad)  # the sum that goes on to the MLP
    n_grad = kept.norm("input of the MLP half", d, x_grad)
    up_grad = kept.linear("up_proj", "MLP norm's output", d, n_grad)
    if up_grad:
        kept.numbers["GELU's input"] = 4 * d
    kept.linear("down_proj", "GELU's output", 4 * d, up_grad)
    return kept.numbers


def predicted_activation_bytes(
    config: GPTConfig,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    checkpointing: bool = False,
) -> int:
    """The bytes that a forward pass of the course's GPT keeps, in float32, from its configuration alone.

    rank: None for full fine-tuning, else LoRA on `targets`. A base in NF4 changes nothing here: `NF4Linear` keeps no
    dequantized weight. checkpointing: each block keeps its input only. While the backward pass runs, one block's
    activations come on top: see `recomputed_bytes`.
    """
    n_tokens, d, full = batch_size * seq_len, config.d_model, rank is None
    blocks = [block_activations(config, rank, targets, first=index == 0) for index in range(config.n_layers)]
    if checkpointing:
        blocks = [{"input of the block": d} for _ in blocks]
    # The last norm keeps its input, mean and deviation; the loss keeps the logarithms of the probabilities.
    per_token = sum(sum(block.values()) for block in blocks) + (d + 2) + config.vocab_size
    if full:
        per_token += d  # the trained head keeps its input
    integers = n_tokens + (n_tokens + seq_len if full else 0)  # targets; for trained embeddings, tokens and positions
    return 4 * n_tokens * per_token + 8 * integers + 4  # the last 4: how many tokens the mean was taken over


def recomputed_bytes(
    config: GPTConfig,
    batch_size: int,
    seq_len: int,
    *,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
) -> int:
    """With checkpointing: what one block adds while the backward pass is in it. Its input is there already."""
    inner = block_activations(config, rank, targets)
    return 4 * batch_size * seq_len * (sum(inner.values()) - config.d_model)


def _target_names(targets: str | tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(BLOCK_LINEARS) if targets == ALL_LINEAR else (targets,) if isinstance(targets, str) else targets
    if unknown := set(names) - set(BLOCK_LINEARS):
        raise ValueError(
            f"no linear layer of a block is named {', '.join(sorted(unknown))}; there are: {', '.join(BLOCK_LINEARS)}"
        )
    return names
