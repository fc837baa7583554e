from contextlib import contextmanager

import pytest
import torch

from lora_edu.engine import kernels
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.memory.activations import _temporary_bytes, predicted_activation_bytes, step_peak_bytes
from lora_edu.memory.peak import PeakMemory
from lora_edu.models.pretrain import SIZES
from lora_edu.qlora import quantize_linears
from lora_edu.training import trainable_parameters, training_step

SHAPES = [  # n_layers, d_model, n_heads, seq_len, batch_size, rank
    (2, 64, 2, 64, 4, 4),
    (3, 128, 4, 128, 4, 8),
    (4, 256, 4, 128, 4, 8),
    (2, 384, 6, 96, 3, 2),
]


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    n_layers, d_model, n_heads, seq_len, batch_size, rank = request.param
    config = GPTConfig(context=seq_len, n_layers=n_layers, n_heads=n_heads, d_model=d_model)
    model = add_lora(quantize_linears(GPT(config)), rank, 2 * rank, "all-linear").train()
    tokens, targets = torch.randint(0, 256, (2, batch_size, seq_len)).unbind()
    return model, tokens.clone(), targets.clone(), (config, batch_size, seq_len, rank)


def optimizer_tensors(optimizer):
    return [value for state in optimizer.state.values() for value in state.values()]


@contextmanager
def fresh_memory(n_values, dtype, device):
    yield torch.empty(n_values, dtype=dtype, device=device)


def test_the_peak_of_a_step_is_predicted_within_two_percent(case, monkeypatch):
    """As on a GPU: a layer is decoded in one piece, into memory that is free again after its product."""
    monkeypatch.setattr(kernels, "CHUNK_VALUES", {"cpu": kernels.CHUNK_VALUES["cuda"]})
    monkeypatch.setattr(kernels, "scratch", fresh_memory)
    model, tokens, targets, shape = case
    optimizer = torch.optim.AdamW(trainable_parameters(model))
    training_step(model, tokens, targets, optimizer, autocast=True)
    optimizer.zero_grad(set_to_none=True)
    resident = [*model.parameters(), *model.buffers(), tokens, targets, *optimizer_tensors(optimizer)]
    with PeakMemory(resident) as memory:
        training_step(model, tokens, targets, optimizer, autocast=True)
    there_before = sum(tensor.nbytes for tensor in [*model.parameters(), *optimizer_tensors(optimizer)])
    there_before += sum(buffer.nbytes for name, buffer in model.named_buffers() if "codebook" not in name)
    measured = memory.peak + there_before + tokens.nbytes
    assert measured == pytest.approx(step_peak_bytes(*shape), rel=0.02)
    config, batch_size, seq_len, _ = shape
    without = step_peak_bytes(*shape) - max(_temporary_bytes(config, batch_size * seq_len).values())
    assert measured > 1.05 * without  # the temporary copies are needed for it: without them the test fails


def test_at_the_size_of_the_gpu_preset_activations_are_nearly_everything():
    config = SIZES["gpu"].config
    total = step_peak_bytes(config, 32, 512, 8)
    kept = predicted_activation_bytes(config, 32, 512, rank=8, precision="autocast", nf4=True)
    assert 2.9e9 < total < 3.2e9 and kept > 0.9 * total
