"""The model in a page: its file has the package's numbers to the bit, and gpt.js computes from them what torch does."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import library, load_benchmark, needed
from safetensors.torch import load

from lora_course.alive import exporting
from lora_edu import add_lora, data_file, load_adapter, load_base, lora, quantize_linears
from lora_edu.codebooks import get_codebook
from lora_edu.quantization import QuantizedTensor, decode
from lora_edu.texts import ADDRESS_LINE

ENGINE = Path(exporting.__file__).with_name("gpt.js")
LINE = list(b"\nFie, cousin Percy! how")


@pytest.fixture(scope="module")
def model():
    base = quantize_linears(load_base("laptop", device="cpu"), double_quant=True)
    return load_adapter(base, data_file("shakespeare-adapter"))


@pytest.fixture(scope="module")
def content(model):
    return exporting.exported(model)


def weight(tensors, path):
    """A layer's weight from the file alone: what gpt.js decodes."""
    absmax, second = tensors[f"{path}.absmax"], tensors[f"{path}.absmax_absmax"]
    constants = QuantizedTensor(absmax, second, None, get_codebook("dynamic"), 256, absmax.shape, torch.float32)
    constants = constants.dequantize() + tensors[f"{path}.absmax_offset"]
    out = torch.empty(2 * len(tensors[f"{path}.codes"]))
    return decode(tensors[f"{path}.codes"], constants, get_codebook("nf4"), 64, out)


def test_the_file_holds_the_packages_numbers_to_the_bit(model, content):
    tensors = load(content)
    adapted = lora.lora_layers(model)
    assert len(adapted) == 24
    for path, layer in adapted.items():
        assert torch.equal(weight(tensors, path), layer.base.dequantize().flatten())
        A, B = (tensors[f"adapter.{path}.{name}"].float() for name in ("lora_A", "lora_B"))
        update = layer.lora_B @ layer.lora_A
        assert (B @ A - update).norm() < 0.005 * update.norm()  # rounded to bfloat16
        strongest, least = B[:, :1] @ A[:1], torch.linalg.svdvals(update)[1:].norm()
        assert (update - strongest).norm() <= 1.005 * least
    for name in ("token_embedding.weight", "lm_head.weight", "blocks.3.mlp.down_proj.bias"):
        there = dict(model.state_dict())[name.replace(".bias", ".base.bias")]
        assert torch.equal(tensors[name].float(), there.float())
    assert len(content) < 2_400_000


def test_a_script_holds_the_file(content):
    text = exporting.script("model", content)
    assert base64.b64decode(re.search(r'= "(.*)";', text)[1]) == content and len(text) < 3_200_000


# --- gpt.js, held against torch ---------------------------------------------------------------------------------------


def node():
    return needed(shutil.which("node"), "Node, which runs gpt.js,")


@pytest.fixture(scope="module")
def jobs():
    """Each strength by both products, the adapter as trained byte by byte, too."""
    how = [(0, False), (0.5, False), (1, False), (2, False), (1, True)]
    each = [{"strength": strength, "oneByOne": one, "bytes": LINE} for strength, one in how]
    return [job | {"wasm": wasm} for job in each for wasm in (False, True)]


@pytest.fixture(scope="module", params=["node", "chromium"])
def logits(request, jobs, content, tmp_path_factory):
    """What gpt.js gives for each job: (jobs, bytes, 256)."""
    if request.param == "chromium":
        return in_chromium(jobs, content)
    folder = tmp_path_factory.mktemp("alive")
    paths = [folder / name for name in ("model.safetensors", "jobs.json", "logits.bin")]
    for path, data in zip(paths, (content, json.dumps(jobs).encode()), strict=False):
        path.write_bytes(data)
    subprocess.run([node(), Path(__file__).with_name("alive.mjs"), ENGINE, *paths], check=True, timeout=60)
    return np.fromfile(paths[-1], dtype=np.float32).reshape(len(jobs), len(LINE), 256)


def in_chromium(jobs, content):
    if not os.environ.get("LORA_EDU_BROWSER"):
        pytest.skip("make browser compares gpt.js in Chromium with torch")
    from playwright.sync_api import sync_playwright

    scripts = [path.read_text("utf-8") for path in (ENGINE, Path(__file__).with_name("alive_jobs.js"))]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=load_benchmark("driver").chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        for text in (*scripts, exporting.script("model", content)):
            page.add_script_tag(content=text)
        answer = page.evaluate(IN_PAGE, jobs)
        browser.close()
    return np.array(answer, dtype=np.float32).reshape(len(jobs), len(LINE), 256)


IN_PAGE = """jobs => {
    const model = readSafetensors(fromBase64(window.aliveFiles.model));
    return logitsOf(GPT, model, jobs).flatMap(row => [...row]);
}"""


@pytest.fixture(scope="module")
def reference(content):
    """The same model in torch, from the same exported values."""
    tensors = load(content)
    model = load_base("laptop", device="cpu")
    kept = {name: tensor.float() for name, tensor in tensors.items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=False)
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    for path, layer in lora.lora_layers(model).items():
        layer.base.weight.data = weight(tensors, path).view(layer.base.weight.shape)
        layer.lora_A.data, layer.lora_B.data = (tensors[f"adapter.{path}.{n}"].float() for n in layer.saved)

    @torch.no_grad()
    def computed(job):
        for layer in lora.lora_layers(model).values():
            layer.scaling = 2.0 * job["strength"]
        return model(torch.tensor([job["bytes"]]))[0][0].numpy()

    return computed


def test_gpt_js_computes_what_torch_does(jobs, logits, reference):
    for job, there in zip(jobs, logits, strict=True):
        here = reference(job)
        assert np.abs(there - here).max() < 1e-4 * np.abs(here).max(), job | {"bytes": ""}
    assert np.abs(logits[0] - logits[2]).max() > 1  # the control: half the strength is another model


def test_damage_is_told_in_a_sentence(content, tmp_path):
    flipped = bytearray(content)
    flipped[-1000] ^= 1
    read = f"const {{ readSafetensors }} = require({json.dumps(str(ENGINE))});"
    for name, damaged in {"flipped": bytes(flipped), "cut": content[:-1], "short": content[:90], "empty": b""}.items():
        (tmp_path / name).write_bytes(damaged)
        code = f"{read} readSafetensors(new Uint8Array(require('fs').readFileSync({json.dumps(str(tmp_path / name))})))"
        result = subprocess.run([node(), "-e", code], capture_output=True, text=True, timeout=60)
        assert "Error: the model's file is damaged (" in result.stderr and result.returncode, name


@pytest.mark.parametrize(("text", "script"), [("product.wat", "gpt.js"), ("combine.wat", "train.js")])
def test_compiled_code_is_its_text(text, script):
    compiled = bytes(library("wasmtime").wat2wasm(ENGINE.with_name(text).read_text("utf-8")))
    stored = r'const (?:WASM|COMBINE) = "(.+)"'
    there = base64.b64decode(re.search(stored, ENGINE.with_name(script).read_text("utf-8"))[1])
    assert compiled.startswith(there) and len(there) < 800
    assert compiled[len(there)] == 0  # a custom section follows: the names of the text


def test_the_dial_reads_the_courses_address_line():
    assert f'ADDRESS = "{ADDRESS_LINE}";' in ENGINE.with_name("dial.js").read_text("utf-8")


def test_gpt_js_needs_nothing():
    text = ENGINE.read_text("utf-8")
    assert not re.search(r"\b(import|export|fetch|Worker|http)\b", text.partition("const alive")[0])
