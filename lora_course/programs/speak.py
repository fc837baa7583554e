"""Let an adapter of the course's base speak: what `lora-edu voice` writes, or any other adapter of that base.

lora-edu speak voice-my_text "I have " --compare
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from lora_edu.checks import NOT_NEGATIVE, check, whole
from lora_edu.lora import lora_layers
from lora_edu.models.base import load_base
from lora_edu.peft_io import load_adapter
from lora_edu.qlora import dequantize_linears, quantize_linears

COMPARED = (0.0, 0.5, 1.0)


def speak(folder: Path, prompt: str, strengths: tuple[float, ...], length: int = 200, seed: int = 0) -> Iterator[str]:
    """What the base in NF4 writes with the adapter in a folder, at each strength: 0 is the base, 1 as trained.

    Raises ValueError for a folder that holds no adapter of the course's base, and for a bad setting.
    """
    check(whole(0), bytes=length, seed=seed)
    for strength in strengths:
        check(NOT_NEGATIVE, strength=strength)
    base = dequantize_linears(quantize_linears(load_base("laptop", device="cpu")))  # the same numbers, decoded once
    try:
        model = load_adapter(base, folder)
    except ValueError as error:
        raise ValueError(f"{folder} is no adapter of the course's base: {error}") from error
    trained = {path: layer.scaling for path, layer in lora_layers(model).items()}
    for strength in strengths:
        for path, layer in lora_layers(model).items():
            layer.scaling = strength * trained[path]
        generator = torch.Generator().manual_seed(seed)
        yield model.generate(prompt, length, temperature=0.7, top_k=20, generator=generator)


def main() -> None:
    usage = 'lora-edu speak ADAPTER "prompt" [--strength 1] [--bytes 200] [--seed 0] [--compare]'
    parser = argparse.ArgumentParser(prog="lora-edu speak", usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("adapter", type=Path, help="a folder that lora-edu voice wrote, or another in PEFT's format")
    parser.add_argument("prompt", help="the text that it continues")
    parser.add_argument("--strength", type=float, default=1.0, help="0 is the base, 1 (default) the adapter as trained")
    parser.add_argument("--bytes", type=int, default=200, help="how many bytes it writes; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another text; default: 0")
    parser.add_argument("--compare", action="store_true", help="write at strengths 0, 0.5 and 1, one after the other")
    options = parser.parse_args()
    strengths = COMPARED if options.compare else (options.strength,)
    texts = speak(options.adapter, options.prompt, strengths, options.bytes, options.seed)
    for strength, text in zip(strengths, texts, strict=True):
        print(f"--- strength {strength:g} ---\n{text}" if options.compare else text, flush=True)
