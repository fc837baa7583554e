"""torch.compile changes the speed and nothing else: not the losses, not the gradients, not what QLoRA keeps."""

import copy
from functools import partial

import pytest
import torch

from lora_edu import GPT, GPTConfig, NF4Linear, add_lora, quantize_linears, train
from lora_edu.engine import compiling, distributed
from lora_edu.memory.activations import measured_activations
from lora_edu.training import trainable_parameters

CPU = torch.device("cpu")
CONFIG = GPTConfig(context=128, n_layers=1, n_heads=2, d_model=64)
QUICK = dict(batch_size=4, seq_len=16, device="cpu", progress=False, lr=1e-2)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def qlora(config=CONFIG, device="cpu", **options):
    model = quantize_linears(GPT(config, **options).to(device))
    return add_lora(model, rank=4, alpha=8, targets="all-linear").train()


def batch(config=CONFIG, device="cpu", batch_size=4):
    tokens = torch.randint(0, 256, (batch_size, config.context + 1)).to(device)
    return tokens[:, :-1].clone(), tokens[:, 1:].clone()


def loss_and_gradients(model, call, tokens, targets, autocast):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = call(tokens, targets)[1]
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in trainable_parameters(model)]


# --- a compiled model ----------------------------------------------------------------------------------------------


WAYS = [  # the first is always tried, the others, a compilation each, in `test-all`
    pytest.param("aot_eager", qlora, True),
    pytest.param("aot_eager", lambda: GPT(CONFIG).train(), False, marks=pytest.mark.slow),
    pytest.param("aot_eager", partial(qlora, checkpointing="non-reentrant"), False, marks=pytest.mark.slow),
    pytest.param("inductor", qlora, False, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("backend", "build", "autocast"), WAYS)
def test_losses_and_gradients_are_those_without_it(backend, build, autocast):
    model, (tokens, targets) = build(), batch()
    loss, gradients = loss_and_gradients(model, model, tokens, targets, autocast)
    compiled = torch.compile(model, backend=backend, fullgraph=True)  # fullgraph: an error if something is left out
    loss_compiled, gradients_compiled = loss_and_gradients(model, compiled, tokens, targets, autocast)
    assert loss_compiled == pytest.approx(loss, rel=1e-6)
    tolerance = 2e-2 if autocast else 1e-5
    for ours, theirs in zip(gradients_compiled, gradients, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def kept_weights(model, backend, device="cpu"):
    """The tensors that a compiled forward pass keeps and that have the shape of a weight, in either order."""
    sizes = {(layer.out_features, layer.in_features) for layer in model.modules() if isinstance(layer, NF4Linear)}
    sizes |= {size[::-1] for size in sizes}
    compiled = torch.compile(model, backend=backend)
    tokens, targets = batch(model.config, device)
    kept = measured_activations(model, lambda: compiled(tokens, targets))
    return [tensor for tensor in kept if tuple(tensor.shape) in sizes]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("aot_eager_decomp_partition", marks=pytest.mark.slow)])
def test_no_dequantized_weight_is_kept(backend):
    assert kept_weights(qlora(), backend) == []


@pytest.mark.slow
def test_without_checkpointing_full_weights_are_kept(monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(compiling, "checkpoint", lambda function, x, **options: function(x))
    assert len(kept_weights(qlora(), "aot_eager")) >= 1


# --- the decision --------------------------------------------------------------------------------------------------


def test_where_it_is_on_and_how_to_switch_it_off(tiny_gpt, monkeypatch):
    assert compiling.BACKENDS == {"cuda": "inductor"} and compiling.compiled(tiny_gpt, CPU) is tiny_gpt
    monkeypatch.setitem(compiling.BACKENDS, "cpu", "aot_eager")
    compiled = compiling.compiled(tiny_gpt, CPU)
    assert compiled is not tiny_gpt and next(compiled.parameters()) is next(tiny_gpt.parameters())
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    assert compiling.compiler_problem(CPU, "eager") == "not with several processes"
    monkeypatch.undo()
    monkeypatch.setitem(compiling.BACKENDS, "cpu", "aot_eager")
    monkeypatch.setenv("LORA_EDU_COMPILE", "0")
    assert compiling.compiled(tiny_gpt, CPU) is tiny_gpt


def test_a_missing_compiler_is_one_line(tiny_gpt, monkeypatch, capsys):
    def broken(graph, inputs):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setitem(compiling.BACKENDS, "cpu", broken)
    assert compiling.compiled(tiny_gpt, CPU) is tiny_gpt
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and printed[0].startswith("torch.compile is not used (") and "C compiler" in printed[0]


@pytest.mark.parametrize("build", [GPT, pytest.param(qlora, marks=pytest.mark.slow)], ids=["full", "QLoRA"])
def test_the_training_loop_gives_the_same_curve(build, tiny_gpt, tiny_text, monkeypatch):
    config = GPTConfig(context=16, n_layers=2, n_heads=2, d_model=32)
    plain = build(config)
    other = copy.deepcopy(plain)
    history = train(plain, tiny_text, 6, **QUICK)
    monkeypatch.setitem(compiling.BACKENDS, "cpu", "aot_eager")
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda model, compile=torch.compile, **how: calls.append(model) or compile(model, **how)
    )
    compiled = train(other, tiny_text, 6, compile=True, **QUICK)
    assert other in calls  # it was compiled indeed
    assert compiled.train_loss == pytest.approx(history.train_loss, rel=1e-4)
    assert compiled.validation_loss[-1][1] == pytest.approx(history.validation_loss[-1][1], rel=1e-4)


def test_the_type_to_compute_in_is_kept_inside_autocast():
    """It was autocast's, so that the same model gave other numbers."""
    layer, x = torch.nn.Linear(64, 64), torch.rand(4, 64)
    model = NF4Linear.from_linear(layer, compute_dtype=torch.float32)
    compiled = torch.compile(model, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), model(x))
