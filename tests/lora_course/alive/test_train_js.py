"""Training in the tab: train.js has torch's gradients and Adam, and its adapter is PEFT's, heard the same way."""

import json
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, library
from test_alive import node

from lora_course.alive import voices
from lora_edu import add_lora, load_adapter, load_base, quantize_linears
from lora_edu.lora import lora_layers
from lora_edu.qlora import NF4Linear
from lora_edu.training import learning_rate_factor
from lora_edu.variants import largest_directions

FILE, HERE = ROOT / "data" / "voices.js", voices.HERE
RANK, STEPS = 8, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def found(folder):
    command = [node(), Path(__file__).with_name("training.mjs"), FILE, folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)


def base():
    """The model as the page has it: NF4, and the rest in bfloat16."""
    model = quantize_linears(load_base("laptop", device="cpu"), double_quant=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def test_gradients_are_torchs(found):
    model = add_lora(base(), rank=RANK, alpha=16, targets="all-linear")
    layers = sorted(lora_layers(model).items())  # as safetensors orders them in the page's file
    factors = [factor for _, layer in layers for factor in (layer.lora_A, layer.lora_B)]
    sizes = [factor.numel() for factor in factors]
    for factor, filled in zip(factors, torch.tensor(found["filled"]).split(sizes), strict=True):
        factor.data = filled.view_as(factor)
    tokens = torch.tensor(found["bytes"])[None]
    loss = model(tokens[:, :-1], tokens[:, 1:])[1]
    loss.backward()
    assert [window["compiled"] for window in found["windows"]] == [True, False]
    for window in found["windows"]:
        assert window["loss"] == pytest.approx(loss.item(), abs=1e-5)
        for factor, theirs in zip(factors, torch.tensor(window["gradients"]).split(sizes), strict=True):
            assert (factor.grad.flatten() - theirs).norm() < 1e-5 * factor.grad.norm()


def test_one_worker_and_two_train_the_same_bits(found):
    assert found["same"] and len(found["losses"]) == STEPS
    assert found["moved"][0] == 0 < found["moved"][1]  # B is zero, and A's gradient goes through B


def test_adam_its_rate_and_the_windows_are_torchs_and_the_courses(found):
    parameters = torch.tensor([1, -2, 0.5, 0], requires_grad=True)
    adam = torch.optim.AdamW([parameters], lr=0.05, betas=(0.9, 0.95), weight_decay=0)
    for gradient in found["grads"]:
        parameters.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([parameters], 1.0)
        adam.step()
    assert np.allclose(found["parameters"], parameters.detach(), atol=1e-6)
    assert np.allclose(found["rates"], [learning_rate_factor(step, 100, 5, 0.0) for step in (0, 4, 5, 50, 99)])
    text = voices.texts()["book"].encode()[:1001]
    starts = torch.linspace(0, 1001 - 65, 12).long()  # as training.evaluate takes them
    assert found["even"] == [list(text[start : start + 65]) for start in starts]


def test_a_smaller_rank_is_the_strongest_directions(found):
    (A, B), (sorted_A, sorted_B) = (
        (torch.tensor(A).view(RANK, -1), torch.tensor(B).view(-1, RANK)) for A, B in found["factors"]
    )
    assert torch.linalg.svdvals(B @ A)[RANK - 1] > 1e-4  # every direction is there
    for rank in (1, 4, RANK):
        left, right = largest_directions(B @ A, rank)
        cut = sorted_B[:, :rank] @ sorted_A[:rank]
        assert (cut - left @ right).norm() < 1e-4 * (B @ A).norm()
    before, after = found["sums"]  # the control has the same numbers, in other places
    assert not found["mixed"] and before == pytest.approx(after)


def test_the_adapter_sounds_the_same_in_torch_and_in_peft(found, folder):
    with zipfile.ZipFile(folder / "adapter.zip") as archive:
        assert archive.testzip() is None and "README.md" in archive.namelist()
        archive.extractall(folder / "adapter")
    tokens = torch.tensor(found["bytes"])[None, :40]
    there = torch.tensor(found["logits"]).view(40, -1)
    plain = base()
    with torch.no_grad():
        alone, ours = plain(tokens)[0][0], load_adapter(base(), folder / "adapter")(tokens)[0][0]
        for name, layer in list(plain.named_modules()):  # PEFT knows nn.Linear: it gets the weights that are multiplied
            if isinstance(layer, NF4Linear):
                linear = torch.nn.Linear(layer.in_features, layer.out_features)
                linear.weight.data, linear.bias.data = layer.dequantize(), layer.bias.data
                plain.set_submodule(name, linear)
        peft = library("peft").PeftModel.from_pretrained(plain, folder / "adapter").base_model.model(tokens)[0][0]
    assert (alone - ours).abs().max() > 0.5
    for logits in (ours, peft):
        assert (logits - there).abs().max() < 1e-4


def test_the_lines_of_train_js_fit_a_screen():
    lines = (HERE / "train.js").read_text("utf-8").splitlines()
    assert not [line for line in lines if len(line) > 100 and "COMBINE =" not in line]


def test_the_page_holds_a_held_out_address_and_a_play():
    text = FILE.read_text("utf-8")
    for name, words in voices.texts().items():
        there = json.loads(re.search(rf"^window\.aliveFiles\.{name} = (.*);$", text, re.M)[1])
        assert there == words, "voices.js is stale: run `python -m lora_course.alive.voices` again"
