import copy
import json
import os

import pytest
import torch
from torch import nn

from lora_edu import files
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora, lora_layers, merge
from lora_edu.peft_io import CONFIG, WEIGHTS, load_adapter, save_adapter
from lora_edu.qlora import quantize_linears
from tests.conftest import TINY

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def adapted(tiny_gpt):
    """A model with adapters that do something, alpha != rank, on layers that are not square too."""
    add_lora(tiny_gpt, rank=3, alpha=7, targets=("q_proj", "up_proj"))
    for layer in lora_layers(tiny_gpt).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    return tiny_gpt


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "uses use_dora, which this course's LoRALinear cannot represent"),
        ({"rank_pattern": {"q_proj": 2}}, "uses rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"peft_type": "IA3"}, "describes a IA3 adapter"),
    ],
)
def test_what_we_cannot_represent_is_refused_by_name(base, adapted, tmp_path, change, message):
    save_adapter(adapted, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
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
    model, other = add_lora(build(), 2, 8, targets), build()
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B)
    load_adapter(other, save_adapter(model, tmp_path))
    outputs = [m(x)[0] if kind == "head" else m(x) for m in (model, other)]
    assert torch.equal(*outputs)
    import peft

    theirs = peft.PeftModel.from_pretrained(build(), tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(build(), tmp_path / "theirs")
    assert torch.equal(ours(x)[0] if kind == "head" else ours(x), outputs[0])


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_refused(base, adapted, tmp_path, bias):
    config = json.loads((save_adapter(adapted, tmp_path) / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"bias": bias}))
    with pytest.raises(ValueError, match=f"bias is '{bias}', so this adapter trained biases of the base too"):
        load_adapter(base, tmp_path)
    assert not lora_layers(base)


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


@pytest.mark.parametrize("change", [lambda t: t.int(), lambda t: t * float("nan"), lambda t: t[:1], lambda t: t.T])
def test_tensors_that_do_not_fit(base, adapted, tmp_path, change):
    from safetensors.torch import load_file, save_file

    state = load_file(save_adapter(adapted, tmp_path) / WEIGHTS)
    first = min(state)
    save_file(state | {first: change(state[first]).contiguous()}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError):
        load_adapter(base, tmp_path)
    assert not lora_layers(base) and all(p.requires_grad for p in base.parameters())
