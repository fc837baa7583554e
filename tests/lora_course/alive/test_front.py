"""try.html: two adapters in one file compute what torch does, what is stored is what is written."""

import base64
import gzip
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load
from test_alive import node, weight

from lora_course.alive import exporting, voices
from lora_edu import load_base

PAGE, PLACES, FILE = (ROOT / name for name in ("try.html", "data/places.js", "data/voices.js"))
AGAIN = "run `python -m lora_course.alive.voices` again"
JOBS = [
    {"bytes": list(b"\nI have all"), "strengths": strengths, "stops": stops}
    for strengths, stops in (([0, 0], [1] * 16), ([0.7, 1.3], [1] * 16), ([1, 0.5], [1, 0] * 8))
]


@pytest.fixture(scope="module")
def content():
    return base64.b64decode(re.search(r'= "(.*)";', FILE.read_text("utf-8"))[1])


@pytest.fixture(scope="module")
def places():
    return json.loads(PLACES.read_text("utf-8").removeprefix("window.places = ").rstrip(";\n"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    jobs = tmp_path_factory.mktemp("front") / "jobs.json"
    jobs.write_text(json.dumps(JOBS))
    command = [node(), Path(__file__).with_name("front.mjs"), FILE, jobs]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def test_the_weights_of_the_page_are_those_of_data(content):
    assert json.loads(exporting.notes_of(content)["made_from"]) == voices.sources(), f"voices.js is stale: {AGAIN}"
    there, now = load(content), load(voices.voices())
    assert there.keys() == now.keys() and len(FILE.read_bytes()) <= 4_000_000
    for name, tensor in now.items():
        if tensor.dtype == torch.uint8 or not name.startswith("adapter."):
            assert torch.equal(there[name], tensor), f"{name} is stale: {AGAIN}"
        elif name.endswith("lora_A"):  # the singular basis is unique but for signs: the products are compared
            other = name.replace("lora_A", "lora_B")
            for voice in (slice(8), slice(8, 16)):
                mine, theirs = (file[other][:, voice].float() @ file[name][voice].float() for file in (now, there))
                assert (mine - theirs).norm() < 0.01 * mine.norm(), f"{name} is stale: {AGAIN}"


def test_what_is_stored_is_what_the_model_writes(content, places):
    assert places["voices"] == exporting.notes_of(content)["adler32"], f"places.js is stale: {AGAIN}"
    asked = [(0, 0), (10, 0), (10, 10), (3, 17)]  # the frozen model, one adapter as trained, both, and somewhere
    command = [node(), voices.HERE / "places.mjs", FILE, *(str(step) for pair in asked for step in pair)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    for (i, j), place in zip(asked, found, strict=True):
        at = i + places["side"] * j
        assert place == [places["texts"][at], places["leads"][at]], f"places.js is stale: {AGAIN}"
    assert len(set(places["texts"])) > 200  # and the sentence bends
    page = " ".join(PAGE.read_text("utf-8").split())
    for voice, at in {"president": 0, "playwright": 10, "prophet": 10 * places["side"]}.items():
        shown = " ".join(re.sub(r"[*#_]", "", places["texts"][at]).split())
        assert f"<p>{voice}: {places['words']}{shown} …</p>" in page, "what try.html says without scripts is stale"


def test_the_page_adds_both_updates_to_the_frozen_weights(content, answers):
    tensors, model = load(content), load_base("laptop", device="cpu")
    model.load_state_dict({k: v.float() for k, v in tensors.items() if k in model.state_dict()}, strict=False)
    layers = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
    for job, there in zip(JOBS, answers["logits"], strict=True):
        gain = torch.tensor(job["strengths"]).repeat_interleave(8) * torch.tensor(job["stops"])
        for path in layers:
            A, B = (tensors[f"adapter.{path}.{name}"].float() for name in ("lora_A", "lora_B"))
            layer = model.get_submodule(path)
            layer.weight.data = weight(tensors, path).view(layer.weight.shape) + 2.0 * (B * gain) @ A
        with torch.no_grad():
            here = model(torch.tensor([job["bytes"]]))[0][0].numpy()
        assert np.abs(np.array(there).reshape(here.shape) - here).max() < 1e-4 * np.abs(here).max(), job


def test_the_dice_are_fair_and_fall_the_same_way_at_every_place_of_the_dot(answers):
    once, again, other = answers["dice"]
    assert once == again != other
    assert answers["counts"][65] / 4000 == pytest.approx(0.75, abs=0.03) and sum(answers["counts"][65:67]) == 4000


def test_the_page_is_small_and_asks_for_nothing_from_elsewhere(content):
    text = " ".join(PAGE.read_text("utf-8").split())
    needed = [ROOT / name for name in re.findall(r'src="([^"]+)"', text)]
    assert len(PAGE.read_bytes()) <= 50_000 and all(path.exists() for path in needed)
    assert sum(len(gzip.compress(path.read_bytes())) for path in (PAGE, *needed)) < 50_000
    assert not re.search(r"https?:|@import|url\(", text)
    frozen = sum(2 * len(tensor) for name, tensor in load(content).items() if name.endswith(".codes"))
    added = sum(tensor.numel() for name, tensor in load(content).items() if name.startswith("adapter.")) // 2
    sizes = f"{added:,} numbers in the same 24 layers, {frozen / added:.0f} times fewer"  # both of all layers
    assert f"{frozen:,} weights in 24 layers" in text and sizes in text
    full, lora, qlora = (float(width) for width in re.findall(r"[.](?:full|lora|qlora) i [{] width: ([\d.]+)%", text))
    assert lora / full == pytest.approx(132 / 783, abs=0.002) and qlora / full == pytest.approx(36 / 783, abs=0.002)
    assert f"({FILE.stat().st_size / 1e6:.1f} MB)" in text


def test_what_opens_no_page_in_a_folder_is_told_in_words():
    text, script = PAGE.read_text("utf-8"), (ROOT / "lora_course/alive/front.js").read_text("utf-8")
    assert '<dialog id="how"' in text and "make lab" in text and "python -m lora_edu lab" in text
    assert 'a[href$=".md"], a[href$=".ipynb"]' in script and "showModal" in script
