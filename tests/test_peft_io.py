import copy
import json
import os

import numpy as np
import pytest
import torch
from conftest import moved
from torch import nn

from lora_edu import files, tensor_files
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import adapter_state, add_lora, load_adapter_state, lora_layers, merge
from lora_edu.peft_io import CONFIG, WEIGHTS, load_adapter, save_adapter
from lora_edu.qlora import quantize_linears
from lora_edu.variants import RsLoRALinear, add_variant, loftq_start
from tests.conftest import TINY

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def adapted(tiny_gpt):
    """A model with adapters that do something, alpha != rank, on layers that are not square too."""
    return moved(add_lora(tiny_gpt, rank=3, alpha=7, targets=("q_proj", "up_proj")), 0.3)


@pytest.fixture
def base(tiny_gpt):
    return copy.deepcopy(tiny_gpt)


class LogitsOnly(nn.Module):
    """PEFT wants a model with a config that behaves like a dictionary."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt, self.config = gpt, {"model_type": "custom"}

    def forward(self, tokens):
        return self.gpt(tokens)[0]


def test_round_trip(base, adapted, tmp_path):
    save_adapter(adapted, tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, WEIGHTS]
    assert not torch.allclose(base(TOKENS)[0], adapted(TOKENS)[0], atol=1e-2)
    load_adapter(base, tmp_path / "a")
    assert torch.equal(base(TOKENS)[0], adapted(TOKENS)[0])
    assert [p.requires_grad for p in base.parameters()] == [p.requires_grad for p in adapted.parameters()]


def test_the_same_adapter_is_the_same_file(adapted, tmp_path):
    files = {(save_adapter(adapted, tmp_path / str(number)) / WEIGHTS).read_bytes() for number in range(6)}
    assert len(files) == 1


def test_peft_loads_what_we_save(base, adapted, tmp_path):
    import peft

    save_adapter(adapted, tmp_path)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path)
    assert torch.allclose(loaded(TOKENS)[0], adapted(TOKENS)[0], atol=1e-5)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_we_load_what_peft_saves(base, tmp_path, use_rslora):
    import peft

    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["v_proj", "down_proj"], init_lora_weights=False, use_rslora=use_rslora
    )
    theirs = peft.get_peft_model(LogitsOnly(copy.deepcopy(base)), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(LogitsOnly(base), tmp_path)
    assert torch.allclose(ours(TOKENS), theirs(TOKENS), atol=1e-5)


def test_loading_onto_a_quantized_base(base, adapted, tmp_path):
    save_adapter(adapted, tmp_path)
    load_adapter(quantize_linears(base), tmp_path)
    assert torch.allclose(base(TOKENS)[0], adapted(TOKENS)[0], atol=0.5)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_an_adapter_of_another_model_names_both_shapes_and_changes_nothing(adapted, tmp_path):
    save_adapter(adapted, tmp_path)
    other = GPT(GPTConfig(context=32, n_layers=2, n_heads=2, d_model=24))
    with pytest.raises(ValueError, match=r"made for another model: .* shape \(3, 16\), this model needs \(3, 24\)"):
        load_adapter(other, tmp_path)
    assert not lora_layers(other) and all(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize("content", [b"", b"short", b"\x80\x04K\x01.", None])
def test_a_truncated_or_foreign_file(base, adapted, tmp_path, content):
    save_adapter(adapted, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-50] if content is None else content)
    with pytest.raises(ValueError, match="(is damaged|is a pickle).*: save the adapter again"):
        load_adapter(base, tmp_path)


def test_a_safetensors_file_of_something_else(base, adapted, tmp_path):
    from safetensors.torch import save_file

    save_adapter(adapted, tmp_path)
    save_file({"wte.weight": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"does not hold a LoRA adapter in PEFT's format: wte\.weight"):
        load_adapter(base, tmp_path)


def test_a_pickle_is_not_opened(base, tmp_path):
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors .*is a pickle and is not opened"):
        load_adapter(base, tmp_path)


def test_nothing_to_save(base, adapted, tmp_path):
    with pytest.raises(ValueError, match="no adapters"):
        save_adapter(base, tmp_path)
    with pytest.raises(ValueError, match="merged"):
        save_adapter(merge(adapted), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(adapted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the folder"):
        save_adapter(adapted, tmp_path / "file")


def test_a_failed_save_keeps_the_old_adapter(adapted, tmp_path, monkeypatch):
    from lora_edu import peft_io

    save_adapter(adapted, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    monkeypatch.setattr(peft_io, "save_file", lambda state, path, metadata: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(adapted, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_shipped_adapter_fits_the_shipped_base():
    from lora_edu.models.pretrain import load_base

    model = load_adapter(load_base("laptop", device="cpu"), files.data_file("shakespeare-adapter"))
    assert len(lora_layers(model)) == 24 and model.config != TINY


@pytest.mark.parametrize("kind", ["head", "bare"])
def test_adapters_on_layers_at_the_top(tmp_path, kind):
    def build():
        torch.manual_seed(0)
        return GPT(TINY) if kind == "head" else nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 7))

    targets, x = ("lm_head" if kind == "head" else ("0", "2")), TOKENS if kind == "head" else torch.randn(5, 12)
    model, other = moved(add_lora(build(), 2, 8, targets)), build()
    load_adapter(other, save_adapter(model, tmp_path))
    outputs = [m(x)[0] if kind == "head" else m(x) for m in (model, other)]
    assert torch.equal(*outputs)
    import peft

    theirs = peft.PeftModel.from_pretrained(build(), tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(build(), tmp_path / "theirs")
    assert torch.equal(ours(x)[0] if kind == "head" else ours(x), outputs[0])


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '{"peft_type": "LORA"}', '{"peft_type": "LORA", "r": "8"}', "{"]
)
def test_a_config_that_is_none(base, adapted, tmp_path, content):
    (save_adapter(adapted, tmp_path) / CONFIG).write_text(content)
    with pytest.raises(ValueError, match=rf"{CONFIG} .*|{CONFIG}: r must be a number, got"):
        load_adapter(base, tmp_path)
    assert not lora_layers(base) and all(p.requires_grad for p in base.parameters())


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_no_regular_file(base, adapted, tmp_path, name, make):
    save_adapter(adapted, tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(ValueError, match="is not a regular file: save the adapter again"):
        load_adapter(base, tmp_path)


# --- what is saved is what is heard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["LoRA", "rsLoRA"])
@pytest.mark.parametrize("change", [{}, {"scaling": 0.55}, {"alpha": 40}, {"scaling": 0.1, "alpha": 3}])
def test_the_strength_that_is_heard_is_saved(base, tmp_path, variant, change):
    """The dial of notebook 00, turned before saving."""
    model = moved(add_variant(copy.deepcopy(base), variant, 3, 7), 0.3)
    for layer in lora_layers(model).values():
        vars(layer).update(change)
    loaded = load_adapter(base, save_adapter(model, tmp_path))
    assert torch.allclose(loaded(TOKENS)[0], model(TOKENS)[0], atol=1e-5)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert "scaling" in change or (config["lora_alpha"] == 7 and type(config["lora_alpha"]) is int)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_no_file_holds(adapted, tmp_path, strength):
    for layer in lora_layers(adapted).values():
        layer.scaling = strength
    with pytest.raises(ValueError, match="the adapters differ|scaling times rank, must be positive"):
        save_adapter(adapted, tmp_path)
    assert not list(tmp_path.iterdir())


def test_lora_and_rslora_in_one_model_are_no_one_file(base, tmp_path):
    model = add_lora(base, 4, 8, "q_proj")
    layer = model.blocks[0].attention.v_proj
    model.blocks[0].attention.v_proj = RsLoRALinear(layer, 4, 4)  # of the same scaling
    with pytest.raises(ValueError, match="differ in rank, alpha, dropout or kind"):
        save_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("alpha", [np.int64(4), np.float32(0.1), np.float64(4)])
def test_a_number_of_numpy_as_alpha(base, tmp_path, alpha):
    save_adapter(model := add_lora(copy.deepcopy(base), 2, alpha), tmp_path)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    model.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert next(iter(lora_layers(load_adapter(base, tmp_path)).values())).scaling == pytest.approx(float(alpha) / 2)


def test_a_factor_of_an_svd_is_saved(base, tmp_path):
    """Its parts are views with other strides, which safetensors refuses."""
    add_lora(base, 4, 4, "q_proj")
    for layer in lora_layers(base).values():
        _, layer.lora_B.data, layer.lora_A.data = loftq_start(layer.base.weight, 4, "nf4")
        layer.lora_A.data = layer.lora_A.data.T.contiguous().T
    assert not layer.lora_A.is_contiguous()
    save_adapter(base, tmp_path)


def test_a_compiled_model_s_adapter_is_the_model_s(base, adapted, tmp_path):
    before = adapted(TOKENS)[0]
    compiled = torch.compile(adapted, backend="eager")
    assert torch.equal(load_adapter(base, save_adapter(compiled, tmp_path))(TOKENS)[0], before)
    load_adapter_state(compiled, adapter_state(adapted))


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


BIASES, FLIPPED = "so this adapter trained biases of the base too", "is damaged, or does not belong to"
CHANGED = [
    ({"use_dora": True}, "uses use_dora, which this course's LoRALinear cannot represent"),
    ({"peft_type": "IA3"}, "describes a IA3 adapter"),
    *(({"bias": bias}, f"bias is '{bias}', {BIASES}") for bias in ("all", "lora_only")),
    *(
        ({name: value}, FLIPPED)
        for name, value in {"lora_alpha": 8, "use_rslora": True, "lora_dropout": 0.5, "r": 2}.items()
    ),
    *(({"use_rslora": value}, "use_rslora must be true or false") for value in ("false", "no", [0], "true")),
]


@pytest.mark.parametrize(("change", "message"), CHANGED, ids=str)
def test_a_changed_config_is_refused(base, adapted, tmp_path, change, message):
    config = json.loads((save_adapter(adapted, tmp_path) / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load_adapter(base, tmp_path)
    assert not lora_layers(base)


def test_a_config_in_another_layout_is_the_same(base, adapted, tmp_path):
    config = json.loads((save_adapter(adapted, tmp_path) / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(dict(reversed(config.items()))))
    load_adapter(base, tmp_path)


def test_an_adapter_of_before_is_read(base, adapted, tmp_path):
    """Its digest is over the weights alone; PEFT's has none."""
    from safetensors.torch import load_file, save_file

    state = load_file(save_adapter(adapted, tmp_path) / WEIGHTS)
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt", "sha256": tensor_files.seal(state, {})})
    load_adapter(base, tmp_path)


@pytest.mark.parametrize("start", ["olora", "OLoRA", "pissa", "pissa_niter_4"])
def test_a_start_of_peft_that_changes_the_base_is_refused(base, tmp_path, start):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start)
    peft.get_peft_model(LogitsOnly(copy.deepcopy(base)), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="which changes the base weights too"):
        load_adapter(LogitsOnly(base), tmp_path)
