"""LoRALinear and the model-wide functions: each test fails for one of the well-known mistakes."""

import pytest
import torch
from conftest import moved
from stopped_runs import refused
from torch import nn

from lora_edu import trainable_summary
from lora_edu.lora import LoRALinear, adapter_state, add_lora, load_adapter_state, merge, unload

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def adapted(rank=3, alpha=12.0, **options):
    """A layer that is not square, with alpha != rank and a B that is not zero."""
    layer = LoRALinear(nn.Linear(12, 20), rank, alpha, **options)
    nn.init.normal_(layer.lora_B)
    return layer


def test_a_starts_uniform_within_one_over_the_root_of_its_inputs():
    A = LoRALinear(nn.Linear(400, 30), 20, 1.0).lora_A  # as PEFT's does
    assert 0.99 / 20 < A.abs().max() <= 1 / 20 and A.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.03)


def test_only_adapters_are_trained(tiny_gpt):
    add_lora(tiny_gpt, rank=2, alpha=8)
    names = {name for name, parameter in tiny_gpt.named_parameters() if parameter.requires_grad}
    factors = [f"attention.{proj}_proj.lora_{factor}" for proj in "qv" for factor in "AB"]
    assert names == {f"blocks.{block}.{factor}" for block in (0, 1) for factor in factors}
    assert trainable_summary(tiny_gpt).trainable == 2 * 2 * (16 + 16) * 2
    assert str(trainable_summary(tiny_gpt)).startswith("256 of ")


def test_dropout_is_in_the_branch_and_only_in_training():
    layer = adapted(dropout=0.5)
    base = layer.base(X)
    layer.eval()
    assert torch.equal(layer(X), layer(X))
    layer.train()
    outputs = []
    for forward in (layer, lambda x: base + 4.0 * (layer.dropout(x) @ layer.lora_A.T @ layer.lora_B.T)):  # before A
        torch.manual_seed(2)
        outputs.append(forward(X))
    assert torch.allclose(*outputs, atol=1e-5) and not torch.equal(layer(X), layer(X))
    nn.init.zeros_(layer.lora_B)
    assert torch.equal(layer(X), base)  # dropout never touches the base path


def test_unload_gives_the_base_back(tiny_gpt):
    tokens = torch.randint(0, 256, (2, 20))
    base, layers = tiny_gpt(tokens)[0], dict(tiny_gpt.named_modules())
    unload(moved(add_lora(tiny_gpt, rank=2, alpha=8), 0.1))
    assert torch.equal(tiny_gpt(tokens)[0], base) and dict(tiny_gpt.named_modules()) == layers
    moved(add_lora(tiny_gpt, rank=2, alpha=8), 0.1)  # and adapters can be added again
    merged = merge(tiny_gpt)(tokens)[0]
    assert torch.equal(unload(tiny_gpt)(tokens)[0], merged)  # what was merged stays


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_state_that_does_not_fit_changes_nothing(tiny_gpt):
    state = adapter_state(moved(add_lora(tiny_gpt, rank=2, alpha=8), 0.1))
    first = next(iter(state))
    bad = [
        ({name: t for name, t in state.items() if name != first}, f"no tensor {first}"),
        (state | {"blocks.9.q_proj.lora_A": torch.zeros(2, 16)}, "there is an unexpected tensor blocks.9.q_proj"),
        (state | {first: torch.zeros(2, 24)}, r"another model: .* shape \(2, 24\) and not \(2, 16\)"),
        (state | {first: torch.full((2, 16), float("nan"))}, "not finite"),
        (state | {first: state[first].int()}, f"{first} holds torch.int32 and not floating-point numbers"),
    ]
    for wrong, message in bad:
        with refused(tiny_gpt, ValueError, message):
            load_adapter_state(tiny_gpt, wrong)
