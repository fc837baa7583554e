"""Activations: what the forward pass keeps for the backward pass, counted as it happens and predicted from the shape.

The rules for each operation stand in `lora_edu.activation_rules`; here they are added up for a whole model. The
predictions are for code like the course's GPT: fused attention, fused norms, no dropout (which would keep a mask and
one more copy of its input). On the CPU they are exact; CUDA's attention and norms keep a few numbers a token more.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lora_edu.activation_rules import block, norm_numbers, precision_of, target_names
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
    `lora_edu.activation_rules.PRECISIONS`; the loss is in float32 always. nf4: matters under autocast only, which
    keeps a 16-bit copy of each weight that is not in NF4; `NF4Linear` keeps no dequantized weight.
    """
    shape, names = _as_architecture(shape), target_names(_as_architecture(shape), targets)
    n_tokens, size = batch_size * seq_len, precision_of(precision)
    blocks = [block(shape, rank, names, i == 0, precision) for i in range(shape.n_layers)]
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
    shape = _as_architecture(shape)
    kept = block(shape, rank, target_names(shape, targets), False, precision)
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
    shape, n_tokens = _as_architecture(shape), batch_size * seq_len
    how = dict(rank=rank, targets=targets, precision=precision, nf4=nf4)
    kept = predicted_activation_bytes(shape, batch_size, seq_len, checkpointing=checkpointing, **how)
    at_loss = kept + 2 * 4 * n_tokens * shape.vocab_size  # float32 gradients, before and after the softmax
    in_block = kept - n_tokens * _after_the_blocks(shape, rank, precision)
    in_block += flowing_bytes(shape, batch_size, seq_len, precision=precision)
    in_block += recomputed_bytes(shape, batch_size, seq_len, **how) if checkpointing else 0
    return max(at_loss, in_block)


def flowing_bytes(shape: GPTConfig | Architecture, batch_size: int, seq_len: int, *, precision: str = "float32") -> int:
    """The gradients on their way through one MLP at its widest: before and after the GELU, and past the block."""
    shape, size = _as_architecture(shape), precision_of(precision)
    wide = 3 if shape.gated else 2
    return batch_size * seq_len * (size.stream * shape.d_model + wide * size.products * shape.d_ff)


def _after_the_blocks(shape: Architecture, rank: int | None, precision: str) -> int:
    """For each token: the last norm's input and statistics, a trained head's input, and the logarithms of the loss."""
    size = precision_of(precision)
    norm = size.stream * (shape.d_model + norm_numbers(shape))
    return norm + (size.products * shape.d_model if rank is None else 0) + 4 * shape.vocab_size


def _as_architecture(shape: GPTConfig | Architecture) -> Architecture:
    return Architecture.of_gpt(shape) if isinstance(shape, GPTConfig) else shape
