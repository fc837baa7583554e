import copy
import json

import numpy as np
import peft
import pytest
import torch
from conftest import moved
from safetensors.torch import load_file, save_file
from stopped_runs import refused
from torch import nn

from lora_edu import GPT, peft_io, tensor_files
from lora_edu.lora import adapter_state, add_lora, load_adapter_state, lora_layers, merge, unload
from lora_edu.peft_io import CONFIG, WEIGHTS, load_adapter, save_adapter
from lora_edu.variants import RsLoRALinear, add_variant
from tests.conftest import TINY

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def adapted(tiny_gpt):
    """A model with adapters that do something, alpha != rank, on layers that are not square too."""
    return moved(add_lora(tiny_gpt, rank=3, alpha=7, targets=("q_proj", "up_proj")), 0.3)


@pytest.fixture
def base(tiny_gpt):
    return copy.deepcopy(tiny_gpt)


@pytest.mark.parametrize("compiled", [False, True])
def test_round_trip(base, adapted, tmp_path, compiled):
    model = torch.compile(adapted, backend="eager") if compiled else adapted
    save_adapter(model, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, WEIGHTS]
    assert not torch.allclose(base(TOKENS)[0], adapted(TOKENS)[0], atol=1e-2)
    load_adapter(base, tmp_path / "a")
    assert torch.equal(base(TOKENS)[0], adapted(TOKENS)[0])
    assert [p.requires_grad for p in base.parameters()] == [p.requires_grad for p in adapted.parameters()]
    load_adapter_state(model, adapter_state(base))


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_safetensors_file_of_something_else(base, adapted, tmp_path):
    save_adapter(adapted, tmp_path)
    save_file({"wte.weight": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"does not hold a LoRA adapter in PEFT's format: wte\.weight"):
        load_adapter(base, tmp_path)


def test_a_pickle_is_not_opened(base, tmp_path):
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors .*is a pickle and is not opened"):
        load_adapter(base, tmp_path)


def test_a_failed_save_keeps_the_old_adapter(adapted, tmp_path, monkeypatch):
    save_adapter(adapted, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(OSError, match="cannot write to the folder"):
        save_adapter(adapted, tmp_path / WEIGHTS)
    monkeypatch.setattr(peft_io, "save_file", lambda state, path, metadata: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(adapted, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["head", "bare"])
def test_adapters_on_layers_at_the_top(tmp_path, kind):
    """Loaded here and by PEFT, and what PEFT saves again is loaded here."""

    def build():
        torch.manual_seed(0)
        return GPT(TINY) if kind == "head" else nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 7))

    def output(model):
        return model(TOKENS)[0] if kind == "head" else model(torch.ones(5, 12))

    model = moved(add_lora(build(), 2, 8, "lm_head" if kind == "head" else ("0", "2")))
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(), tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path, tmp_path / "theirs"):
        assert torch.equal(output(load_adapter(build(), folder)), output(model))
    assert torch.allclose(output(theirs), output(model), atol=1e-5)


# --- what is saved is what is heard ----------------------------------------------------------------------------------


def set_all(**values):
    """A change of every adapted layer of a model."""
    return lambda model: [vars(layer).update(values) for layer in lora_layers(model).values()]


@pytest.mark.parametrize("variant", ["LoRA", "rsLoRA"])
@pytest.mark.parametrize("change", [{}, {"scaling": 0.55}, {"alpha": 40}, {"scaling": 0.1, "alpha": 3}])
def test_the_strength_that_is_heard_is_saved(base, tmp_path, variant, change):
    """The dial of notebook 00, turned before saving."""
    model = moved(add_variant(copy.deepcopy(base), variant, 3, 7), 0.3)
    set_all(**change)(model)
    loaded = load_adapter(base, save_adapter(model, tmp_path))
    assert torch.allclose(loaded(TOKENS)[0], model(TOKENS)[0], atol=1e-5)
    config = json.loads((tmp_path / CONFIG).read_text())
    if variant == "LoRA" and "scaling" not in change:
        assert config["lora_alpha"] == 7 and type(config["lora_alpha"]) is int


def of_two_kinds(model):
    attention = model.blocks[0].attention
    attention.v_proj = RsLoRALinear(attention.v_proj, 3, 7)


DIFFERENT, NOT_POSITIVE = "differ in rank, alpha, dropout or kind", "scaling times rank, must be positive"
NO_ONE_FILE = {
    "no strength": (set_all(scaling=0.0), NOT_POSITIVE),
    "a negative one": (set_all(scaling=-1.0), NOT_POSITIVE),
    "none at all": (set_all(scaling=float("nan")), NOT_POSITIVE),
    "LoRA and rsLoRA": (of_two_kinds, DIFFERENT),
    "another rank": (lambda model: setattr(next(iter(lora_layers(model).values())), "rank", 2), DIFFERENT),
    "merged": (merge, "the adapters are merged into the weights"),
    "taken out": (unload, "no adapters"),
}


@pytest.mark.parametrize(("change", "message"), NO_ONE_FILE.values(), ids=NO_ONE_FILE)
def test_what_no_one_file_holds_is_not_saved(adapted, tmp_path, change, message):
    change(adapted)
    with pytest.raises(ValueError, match=message):
        save_adapter(adapted, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alpha", [np.int64(4), np.float32(0.1), np.float64(4)])
def test_a_number_of_numpy_as_alpha(base, tmp_path, alpha):
    save_adapter(model := add_lora(copy.deepcopy(base), 2, alpha), tmp_path)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    model.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert next(iter(lora_layers(load_adapter(base, tmp_path)).values())).scaling == pytest.approx(float(alpha) / 2)


def test_a_factor_with_other_strides_is_saved(base, tmp_path):
    """An SVD gives such views, which safetensors refuses."""
    add_lora(base, 4, 4, "q_proj")
    for layer in lora_layers(base).values():
        layer.lora_A.data = layer.lora_A.data.T.contiguous().T
    assert not layer.lora_A.is_contiguous()
    save_adapter(base, tmp_path)


# --- two files that belong together ----------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_save_that_was_killed_is_the_old_adapter_or_the_new_or_refused(base, adapted, tmp_path, killed_after):
    outputs, folders = [], []
    for name, alpha in (("old", 7), ("new", 70)):
        for layer in lora_layers(adapted).values():
            layer.scaling = alpha / layer.rank
        folders.append(save_adapter(adapted, tmp_path / name))
        outputs.append(adapted(TOKENS)[0])
    for name in (WEIGHTS, CONFIG)[:killed_after]:  # in the order in which they are written
        (tmp_path / "old" / name).write_bytes((tmp_path / "new" / name).read_bytes())
    if killed_after == 1:
        with pytest.raises(ValueError, match="does not belong to the adapter_config.json beside it"):
            load_adapter(base, tmp_path / "old")
        assert not lora_layers(base)
    else:
        assert torch.allclose(load_adapter(base, tmp_path / "old")(TOKENS)[0], outputs[killed_after // 2], atol=1e-5)


BIASES, FLIPPED = "and here biases stay frozen", "is damaged, or does not belong to"
CHANGED = [
    ({"lora_bias": True}, "uses lora_bias, which this course's layers cannot represent"),
    *(({f"{kind}_pattern": {"q_proj": 2}}, f"uses {kind}_pattern") for kind in ("rank", "alpha")),
    ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
    ({"peft_type": "IA3"}, "describes a IA3 adapter"),
    *(({"init_lora_weights": start}, "which changes the base, too") for start in ("OLoRA", "pissa_niter_4")),
    *(({"bias": bias}, f"bias is '{bias}', {BIASES}") for bias in ("all", "lora_only")),
    *(
        ({name: value}, FLIPPED)
        for name, value in {"lora_alpha": 8, "use_rslora": True, "use_dora": True, "lora_dropout": 0.5, "r": 2}.items()
    ),
    *(({"use_rslora": value}, "use_rslora must be true or false") for value in ("false", "no", [0], "true")),
    ({"use_dora": "false"}, "use_dora must be true or false"),
    *(({"r": value}, "r must be a whole number of at least 1") for value in (0, -1, 2.5, True, "2")),
    *(({"lora_alpha": value}, "lora_alpha must be positive and finite") for value in (0, 1e40, None)),
]


@pytest.mark.parametrize(("change", "message"), CHANGED, ids=str)
def test_a_changed_config_is_refused(base, adapted, tmp_path, change, message):
    config = json.loads((save_adapter(adapted, tmp_path) / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with refused(base, ValueError, message):
        load_adapter(base, tmp_path)


def test_a_config_may_be_in_another_layout_and_no_other(base, adapted, tmp_path):
    """The seal is over both files; one over the weights alone, as before 0.1.0, is refused."""
    state = load_file(save_adapter(adapted, tmp_path) / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(dict(reversed(config.items()))))
    load_adapter(copy.deepcopy(base), tmp_path)
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt", "sha256": tensor_files.seal(state, {})})
    with pytest.raises(ValueError, match="does not belong to the adapter_config.json beside it: save the adapter"):
        load_adapter(base, tmp_path)


UNLIKE = [
    ({"r": 10**11}, torch.float32, r"the config says r = 100000000000, and .*lora_A is \(3, 16\)"),  # no room is made
    ({}, torch.float8_e4m3fn, "float8_e4m3fn, with which nothing is computed"),
]


@pytest.mark.parametrize(("config", "kind", "message"), UNLIKE)
def test_a_file_without_a_seal_that_is_not_as_its_config_says(base, adapted, tmp_path, config, kind, message):
    folder = save_adapter(adapted, tmp_path)
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | config))
    save_file({name: one.to(kind) for name, one in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with refused(base, ValueError, message):
        load_adapter(base, folder)
