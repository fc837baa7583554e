"""How good a model is on a text it has not trained on: the mean loss, in nats per token."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_edu import distributed
from lora_edu.texts import check_length

LossFn = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, inputs (B, S), targets (B, S)) -> the mean loss


def model_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model whose forward returns (logits, loss), such as the course's GPT."""
    return model(inputs, targets)[1]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: Tensor,
    *,
    seq_len: int = 256,
    max_windows: int = 64,
    batch_size: int = 16,
    loss_fn: LossFn = model_loss,
    autocast: bool | None = None,
) -> float:
    """The mean loss in nats per token over windows spread evenly over a text: no randomness, so runs can be compared.

    tokens: (n,) of any integer type: uint8 for bytes, int64 for those of a tokenizer. Uses at most `max_windows`
    windows of `seq_len` tokens each. Several processes share the windows: all of them must call this, and all get the
    same number.
    """
    check_length(tokens, seq_len)
    device = next(model.parameters()).device
    count = min(max_windows, (len(tokens) - 1) // seq_len)
    starts = torch.linspace(0, len(tokens) - seq_len - 1, count).long()[:, None]
    windows = tokens[starts + torch.arange(seq_len + 1)].long()  # (count, seq_len + 1)
    own = windows[distributed.rank() :: distributed.processes()]
    was_training = model.training
    model.eval()
    total = 0.0
    with mixed_precision(device, autocast):
        for batch in own.split(batch_size) if len(own) else ():
            batch = batch.to(device)
            total += loss_fn(model, batch[:, :-1], batch[:, 1:]).item() * len(batch)
    model.train(was_training)
    return distributed.total(total) / count


def mixed_precision(device: torch.device, enabled: bool | None) -> torch.autocast:
    """Compute in bfloat16 where that is safe. enabled: None means yes on a CUDA GPU and no on the CPU."""
    enabled = device.type == "cuda" if enabled is None else enabled
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
