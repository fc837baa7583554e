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
from lora_edu import GPT, GPTConfig, add_lora, data_file, load_adapter, load_base, lora, quantize, quantize_linears
from lora_edu.codebooks import get_codebook
from lora_edu.quantization import DoubleQuant, QuantizedTensor, decode
from lora_edu.texts import ADDRESS_LINE

ENGINE, BREAKING = (Path(exporting.__file__).with_name(name) for name in ("gpt.js", "breaking.js"))
LINE = list(b"\nFie, cousin Percy! how")


@pytest.fixture(scope="module")
def model():
    base = quantize_linears(load_base("laptop", device="cpu"), double_quant=True)
    return load_adapter(base, data_file("shakespeare-adapter"))


@pytest.fixture(scope="module")
def content(model):
    return exporting.exported(model)


@pytest.fixture(scope="module")
def source():
    return exporting.source(load_base("laptop", device="cpu"))


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


@pytest.mark.parametrize("block_size, double_quant", [(64, False), (32, True), (64, DoubleQuant("int8"))])
def test_another_format_is_refused(block_size, double_quant):
    model = quantize_linears(GPT(GPTConfig(context=8, d_model=64, n_layers=1)), (), block_size, double_quant)
    with pytest.raises(ValueError, match="NF4 with double quantization"):
        exporting.exported(model)


def test_other_adapters_are_refused():
    model = quantize_linears(GPT(GPTConfig(context=8, d_model=128, n_layers=1)), "lm_head")
    add_lora(model, rank=65, alpha=1)
    with pytest.raises(ValueError, match="up to rank 64"):
        exporting.exported(model)
    next(iter(lora.lora_layers(model).values())).scaling = 3.0
    with pytest.raises(ValueError, match="one dial"):
        exporting.exported(model)


# --- gpt.js, held against torch ---------------------------------------------------------------------------------------

FORMATS = {(0, 64): "nf4", (8, 64): "int8", (3, 64): "int3", (2, 64): "int2", (4, 1024): "nf4"}  # (bits, block size)


def node():
    return needed(shutil.which("node"), "Node, which runs gpt.js,")


@pytest.fixture(scope="module")
def jobs():
    each = [dict(strength=s, rank=8, bits=0, blockSize=64) for s in (0, 0.5, 1, 2)]
    each += [dict(strength=1, rank=r, bits=0, blockSize=64) for r in (0, 1)]
    each += [dict(strength=1, rank=8, bits=bits, blockSize=size) for bits, size in FORMATS if bits]
    both = [job | {"wasm": wasm, "oneByOne": False, "bytes": LINE} for job in each for wasm in (False, True)]
    return [*both, *(both[4 + wasm] | {"oneByOne": True} for wasm in (False, True))]


@pytest.fixture(scope="module", params=["node", "chromium"])
def logits(request, jobs, content, source, tmp_path_factory):
    """What gpt.js gives for each job: (jobs, bytes, 256)."""
    if request.param == "chromium":
        return in_chromium(jobs, content, source)
    folder = tmp_path_factory.mktemp("alive")
    paths = [folder / name for name in ("model.safetensors", "source.safetensors", "jobs.json", "logits.bin")]
    for path, data in zip(paths, (content, source, json.dumps(jobs).encode()), strict=False):
        path.write_bytes(data)
    subprocess.run([node(), Path(__file__).with_name("alive.mjs"), ENGINE, BREAKING, *paths], check=True, timeout=60)
    return np.fromfile(paths[-1], dtype=np.float32).reshape(len(jobs), len(LINE), 256)


def in_chromium(jobs, content, source):
    if not os.environ.get("LORA_EDU_BROWSER"):
        pytest.skip("make browser compares gpt.js in Chromium with torch")
    from playwright.sync_api import sync_playwright

    files = [exporting.script(name, file) for name, file in (("model", content), ("source", source))]
    scripts = [path.read_text("utf-8") for path in (ENGINE, BREAKING, Path(__file__).with_name("alive_jobs.js"))]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=load_benchmark("driver").chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        for text in (*scripts, *files):
            page.add_script_tag(content=text)
        answer = page.evaluate(IN_PAGE, jobs)
        browser.close()
    return np.array(answer, dtype=np.float32).reshape(len(jobs), len(LINE), 256)


IN_PAGE = """jobs => {
    const [model, source] = ["model", "source"].map(name => readSafetensors(fromBase64(window.aliveFiles[name])));
    return logitsOf({ GPT, roundTo }, model, source, jobs).flatMap(row => [...row]);
}"""


@pytest.fixture(scope="module")
def reference(content, source):
    """The same model in torch, from the same exported values."""
    tensors, int8 = load(content), load(source)
    model = load_base("laptop", device="cpu")
    kept = {name: tensor.float() for name, tensor in tensors.items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=False)
    add_lora(model, rank=8, alpha=16, targets="all-linear")
    for path, layer in lora.lora_layers(model).items():
        layer.lora_A.data, layer.lora_B.data = (tensors[f"adapter.{path}.{n}"].float() for n in layer.saved)

    @torch.no_grad()
    def computed(job):
        for path, layer in lora.lora_layers(model).items():
            decoded = weight(tensors, path)
            if job["bits"]:
                eight = decode(int8[f"{path}.codes"], int8[f"{path}.absmax"], get_codebook("int8"), 64, decoded.clone())
                name = FORMATS[job["bits"], job["blockSize"]]
                decoded = eight if name == "int8" else quantize(eight, name, job["blockSize"]).dequantize()
            layer.base.weight.data = decoded.view(layer.base.weight.shape)
            layer.scaling = 2.0 * job["strength"]
            layer.lora_B.data = tensors[f"adapter.{path}.lora_B"].float()
            layer.lora_B.data[:, job["rank"] :] = 0
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


def test_the_compiled_product_is_its_text():
    wasmtime = library("wasmtime")
    compiled = bytes(wasmtime.wat2wasm(ENGINE.with_name("product.wat").read_text("utf-8")))
    there = base64.b64decode(re.search(r'const WASM = "(.+)"', ENGINE.read_text("utf-8"))[1])
    assert compiled.startswith(there) and len(there) < 800
    assert compiled[len(there)] == 0  # a custom section follows: the names of the text


def test_the_dial_reads_the_courses_address_line():
    assert f'ADDRESS = "{ADDRESS_LINE}";' in ENGINE.with_name("dial.js").read_text("utf-8")


def test_gpt_js_is_short_and_needs_nothing():
    text = ENGINE.read_text("utf-8")
    assert len(text.splitlines()) <= 200
    assert not re.search(r"\b(import|export|fetch|Worker|http)\b", text.partition("const alive")[0])
