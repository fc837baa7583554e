"""A model as a file that `gpt.js` reads: codes, the constants as double quantization stores them, and an adapter.

    exported(model) -> bytes          of a GPT in NF4 with an adapter: safetensors, 2.3 MB for the shipped base
    packed(tensors, notes), notes_of  such a file from its parts, with a checksum, and its notes
    script(name, content) -> str      the same for a page opened from a disk, where nothing can be fetched

The names are those of the model's own state. What is not quantized is in bfloat16, as the shipped base is.
"""

import base64
import json
import zlib

import torch
from safetensors.torch import save
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.gpt import GPT
from lora_edu.lora import LoRALinear, lora_layers
from lora_edu.variants import largest_directions


def exported(model: GPT) -> bytes:
    """A model after `quantize_linears(model)` and `add_lora`, or `load_adapter`, as one safetensors file.

    The page has one dial: the adapters have one rank, at most 64, and one strength. Any other model is not asked for.
    """
    adapters = lora_layers(model)
    rank, scaling = next(((layer.rank, layer.scaling) for layer in adapters.values()), (0, 0.0))
    tensors = {f"codebook.{name}": get_codebook(name) for name in ("nf4", "dynamic")}
    for name, tensor in model.state_dict().items():
        last = name.rpartition(".")[-1]
        if last not in LoRALinear.saved:
            exact = tensor.dtype == torch.uint8 or last.startswith("absmax_")
            tensors[name.replace(".base.", ".")] = tensor if exact else tensor.bfloat16()
    for path, layer in adapters.items():
        A, B = in_singular_basis(layer.lora_A.detach(), layer.lora_B.detach())
        tensors |= {f"adapter.{path}.lora_A": A.bfloat16(), f"adapter.{path}.lora_B": B.bfloat16()}
    notes = {"config": json.dumps(vars(model.config)), "rank": str(rank), "scaling": repr(scaling)}
    return packed(tensors, notes)


def in_singular_basis(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The same update B A from directions in the order of their strength, the strongest first.

    A: (rank, in_features), B: (out_features, rank). The rank is filled up with zeros to a multiple of 4 for gpt.js.
    """
    room = -len(A) % 4
    B, A = largest_directions(B @ A, len(A))
    return torch.nn.functional.pad(A, (0, 0, 0, room)), torch.nn.functional.pad(B, (0, room)).contiguous()


def script(name: str, content: bytes) -> str:
    """JavaScript that holds a file under a name in `aliveFiles`, for a page that may not fetch."""
    return f"(window.aliveFiles ??= {{}})[{json.dumps(name)}] = {json.dumps(base64.b64encode(content).decode())};\n"


def packed(tensors: dict[str, Tensor], notes: dict[str, str]) -> bytes:
    """safetensors with a checksum of its numbers, which the page looks at before it uses them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    plain = save(tensors)
    numbers = plain[8 + int.from_bytes(plain[:8], "little") :]
    return save(tensors, metadata=notes | {"adler32": str(zlib.adler32(numbers))})


def notes_of(content: bytes) -> dict[str, str]:
    """What stands beside the tensors of such a file."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
