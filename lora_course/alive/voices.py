"""Two adapters beside one frozen model, for try.html: `python -m lora_course.alive.voices` writes what it shows.

voices() -> bytes                     as `exported`, with the directions of all adapters in one A and one B
write(folder)                         data/voices.js, the weights, and data/places.js, what is written at each place of
                                      the dot; the second needs Node
"""

import json
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load

from lora_course.alive.exporting import exported, notes_of, packed, script
from lora_edu import data_file, load_adapter, load_base, load_text, quantize_linears
from lora_edu.gpt import decode
from lora_edu.records import sha256

HELD_OUT = slice(20_000, 21_001)  # of the addresses' validation part
BASE, ADAPTERS = "base-laptop.safetensors", ("shakespeare-adapter", "king-james-adapter")
HERE = Path(__file__).parent


def voices() -> bytes:
    """The base and both adapters. Its notes hold the sha256 of the three files that it is made of."""
    files = [exported(load_adapter(_frozen(), data_file(name))) for name in ADAPTERS]
    tensors, second = (load(file) for file in files)
    for name, tensor in tensors.items():
        if name.startswith("adapter."):
            tensors[name] = torch.cat([tensor, second[name]], dim=0 if name.endswith("lora_A") else 1)
    notes = notes_of(files[0])
    if notes["scaling"] != notes_of(files[1])["scaling"]:
        raise ValueError("the page multiplies both adapters by one alpha / rank: theirs differ")
    rank = sum(int(notes_of(file)["rank"]) for file in files)
    return packed(tensors, notes | {"rank": str(rank), "made_from": json.dumps(sources())})


def sources() -> dict[str, str]:
    """The files that the page is made of, and the sha256 of each."""
    paths = [data_file(BASE), *(data_file(name) / "adapter_model.safetensors" for name in ADAPTERS)]
    return {path.name if path.parent.name == "data" else path.parent.name: sha256(path) for path in paths}


def texts() -> dict[str, str]:
    """What the page measures the president on, held out, and a book to train on: one of the plays."""
    plays = decode(load_text("shakespeare").train).split("\n\n\n# ")
    tempest = next(play for play in plays if play.startswith("The Tempest"))
    return {"president": decode(load_text("speeches").validation[HELD_OUT]), "book": f"# {tempest}\n"}


def write(folder: Path) -> None:
    content = voices()
    written = script("voices", content) + "".join(
        f"window.aliveFiles.{name} = {json.dumps(text)};\n" for name, text in texts().items()
    )
    (folder / "voices.js").write_text(written, encoding="utf-8")
    places = subprocess.run(["node", HERE / "places.mjs", folder / "voices.js"], check=True, capture_output=True)
    (folder / "places.js").write_bytes(places.stdout)


def _frozen():
    return quantize_linears(load_base("laptop", device="cpu"), double_quant=True)


if __name__ == "__main__":
    write(data_file(BASE).parent)
