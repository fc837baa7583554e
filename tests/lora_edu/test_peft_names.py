"""The names in an adapter's two files: those of the plain model, each of one layer, and PEFT finds the same layers."""

import copy
import json

import peft
import pytest
import torch
from conftest import moved, random_gpt
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from lora_edu import LoRALinear, load_adapter, save_adapter
from lora_edu.lora import adapter_state, add_lora, load_adapter_state, lora_layers
from lora_edu.peft_io import CONFIG, WEIGHTS
from tests.other_models import tiny_llama

TOKENS = torch.arange(12)[None]
PART = ["blocks.0.attention.q_proj", "blocks.1.mlp.up_proj"]


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def with_a_block(wrap):
    """One of its blocks is wrapped, and not the model."""

    def changed(model):
        model.blocks[1] = wrap(model.blocks[1])
        return model

    return changed


def compiled(module):
    return torch.compile(module, backend="eager")


WRAPPED = {
    "DDP": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "compiled, then DDP": lambda model: nn.parallel.DistributedDataParallel(compiled(model)),
    "DataParallel, then compiled": lambda model: compiled(nn.DataParallel(model)),
    "AveragedModel": AveragedModel,
    "a compiled block": with_a_block(compiled),
    "a checkpointed block": with_a_block(checkpoint_wrapper),
    "a DDP block": with_a_block(nn.parallel.DistributedDataParallel),
}


@pytest.mark.parametrize("targets", [PART, ["q_proj"]], ids=["a part", "a name"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_is_wrapped_around_a_model_is_no_part_of_a_name(wrap, targets, tmp_path, one_process):
    base = random_gpt()
    model = moved(add_lora(copy.deepcopy(base), 2, 4, targets))
    plain, logits = save_adapter(model, tmp_path / "plain"), model(TOKENS)[0]
    wrapped = wrap(model)
    folder = save_adapter(wrapped, tmp_path / "wrapped")
    for name in (CONFIG, WEIGHTS):
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    assert torch.equal(load_adapter(copy.deepcopy(base), folder)(TOKENS)[0], logits)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(base, folder).eval()(TOKENS)[0], logits)
    load_adapter_state(wrapped, {name: 2 * tensor for name, tensor in adapter_state(wrapped).items()})


def test_the_base_of_a_wrapped_model_is_named(tmp_path):
    model = add_lora(tiny_llama(), 2, 4)
    model.config._name_or_path = "somebody/small"
    written = json.loads((save_adapter(nn.DataParallel(model), tmp_path) / CONFIG).read_text())
    assert (written["base_model_name_or_path"], written["task_type"]) == ("somebody/small", "CAUSAL_LM")


class Own(nn.Module):
    """A reader's model, whose part has the name that DDP gives to what it wraps."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        return self.out(self.module(x))


class Below(nn.Module):
    """A layer at the top, and another one of its name below."""

    def __init__(self):
        super().__init__()
        self.a, self.sub = nn.Linear(6, 6), nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})

    def forward(self, x):
        return self.sub["b"](self.sub["a"](self.a(x)))


def linear(*sides):
    return nn.Linear(*sides)


OF_OTHER_MAKE = {
    "names": (lambda: nn.Sequential(linear(6, 8), nn.Tanh(), linear(8, 4)), ["0", "2"]),
    "a container": (lambda: nn.Sequential(nn.Sequential(linear(6, 8), nn.Tanh()), linear(8, 4)), ["0.0", "1"]),
    "a container, below": (lambda: nn.Sequential(nn.Sequential(nn.Tanh(), linear(6, 8)), linear(8, 4)), ["0.1"]),
    "two deep": (lambda: nn.Sequential(*(nn.Sequential(linear(6, 6), nn.ReLU()) for _ in range(3))), ["0.0", "2.0"]),
    "a dictionary": (lambda: nn.Sequential(nn.Sequential(linear(6, 6), nn.GELU(), linear(6, 6))), ["0.0", "0.2"]),
    "one at the top": (Below, ["a"]),
    "one below": (Below, ["sub.a"]),
    "both": (Below, ["a", "sub.a"]),
    "a part named module": (Own, ["module.1"]),
}


@pytest.mark.parametrize(("build", "paths"), OF_OTHER_MAKE.values(), ids=OF_OTHER_MAKE)
def test_a_name_that_several_modules_have_is_not_written(build, paths, tmp_path):
    """PEFT would take containers for targets, and stop."""
    base, x = build(), torch.randn(5, 6)
    model = copy.deepcopy(base).requires_grad_(False)
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, LoRALinear(model.get_submodule(path), 2, 8))
    save_adapter(moved(model), tmp_path)
    ours = load_adapter(copy.deepcopy(base), tmp_path)
    assert lora_layers(ours).keys() == set(paths) and torch.equal(ours(x), model(x))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    torch.testing.assert_close(theirs(x), model(x))
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_adapter(copy.deepcopy(base), tmp_path / "theirs")(x), model(x))


@pytest.mark.parametrize(("targets", "written"), [(["q_proj"], ["q_proj"]), (PART, PART)])
def test_names_where_they_do_and_paths_where_they_do_not(targets, written, tmp_path):
    config = json.loads((save_adapter(add_lora(random_gpt(), 2, 4, targets), tmp_path) / CONFIG).read_text())
    assert config["target_modules"] == written
