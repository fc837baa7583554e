"""4.1: the bytes of a model, by kind. `count` is right; each switch turns one mistake on."""

import math

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu import quantize
from lora_edu.assignments.core import Constants


def count(
    c: Constants,
    layers: list,
    quantized: tuple = ("linear",),
    code_bits: int = 4,
    constant_bits: int | None = None,
    scale_bytes: int = 4,
    offset_bytes: int = 4,
    block: int | None = None,
    up=math.ceil,
    up_codes=math.ceil,
    copies: bool = True,
) -> tuple:
    """layers: (kind, shape, copy alive) -> (bytes of codes, of constants, of the rest)"""
    block, constant_bits = block or c.block_size, constant_bits or c.constant_bits
    codes = constants = rest = 0
    for kind, shape, copy_alive in layers:
        n = math.prod(shape)
        if kind in quantized:
            blocks = up(n / block)
            codes += up_codes(n * code_bits / 8)
            constants += math.ceil(blocks * constant_bits / 8) + scale_bytes * up(blocks / c.second_size) + offset_bytes
        else:
            rest += c.kept_bytes * n
        rest += 4 * n if copy_alive and copies else 0
    return codes, constants, rest


def with_(**changes):
    return lambda c: lambda layers: count(c, layers, **changes)


def reference(c):
    def stored_bytes(layers):
        codes = constants = rest = 0
        for kind, shape, copy_alive in layers:
            n = math.prod(shape)
            if kind == "linear":
                blocks = -(-n // c.block_size)
                codes += -(-n // 2)
                constants += -(-blocks * c.constant_bits // 8) + 4 * -(-blocks // c.second_size) + 4
            else:
                rest += c.kept_bytes * n
            if copy_alive:
                rest += 4 * n
        return codes, constants, rest

    return stored_bytes


def in_numpy(c):
    def stored_bytes(layers):
        n = np.array([np.prod(shape) for kind, shape, _ in layers if kind == "linear"])
        blocks = (n + c.block_size - 1) // c.block_size
        packed = np.ceil(blocks * c.constant_bits / 8).astype(int)
        kept = sum(c.kept_bytes * int(np.prod(shape)) for kind, shape, _ in layers if kind != "linear")
        copies = sum(4 * int(np.prod(shape)) for _, shape, alive in layers if alive)
        constants = packed + 4 * ((blocks + c.second_size - 1) // c.second_size) + 4
        return [int(((n + 1) // 2).sum()), int(constants.sum()), kept + copies]

    return stored_bytes


def by_building(c):
    """The tensors are made, and their bytes are added up."""

    def stored_bytes(layers, dtype=torch.uint8):
        codes, constants, rest = [], [], []
        for kind, shape, copy_alive in layers:
            weight = torch.zeros(shape)
            blocks = len(weight.flatten().split(c.block_size))
            if kind == "linear":
                codes.append(torch.zeros(len(weight.flatten()[::2]), dtype=dtype))
                constants.append(torch.zeros((blocks * c.constant_bits + 7) // 8, dtype=dtype))
                constants.append(torch.zeros(len(torch.zeros(blocks).split(c.second_size)) + 1))
            else:
                rest.append(weight.to({2: torch.float16, 4: torch.float32}[c.kept_bytes]))
            rest += [weight] * copy_alive
        return torch.tensor([sum(tensor.nbytes for tensor in kind) for kind in (codes, constants, rest)])

    return stored_bytes


def all_at_once(c):
    """The linear layers as if they were a single one."""

    def stored_bytes(layers):
        total = sum(math.prod(shape) for kind, shape, _ in layers if kind == "linear")
        codes, constants, _ = count(c, [("linear", (total,), False)])
        return codes, constants, count(c, layers)[2]

    return stored_bytes


def copy_replaces_codes(c):
    def stored_bytes(layers):
        held = count(c, [layer for layer in layers if not layer[2]])
        return held[0], held[1], count(c, layers)[2]

    return stored_bytes


def copies_of_linear_layers(c):
    return lambda layers: count(c, [(kind, shape, alive and kind == "linear") for kind, shape, alive in layers])


def in_bits(c):
    return lambda layers: tuple(8 * size for size in count(c, layers))


def of_the_package(c):
    """lora_edu's own format: a byte for a constant, blocks of 256."""

    def stored_bytes(layers):
        stored = [
            quantize(torch.ones(shape), "nf4", c.block_size, True) for kind, shape, _ in layers if kind == "linear"
        ]
        codes = sum(weight.codes.nbytes for weight in stored)
        return codes, sum(weight.nbytes for weight in stored) - codes, count(c, layers)[2]

    return stored_bytes


BUDGET, ALIVE = "notebook 07, section 1", "notebook 07, exercise 7.2"
STORED_BYTES = Solutions(
    reference=reference,
    right={"NumPy": in_numpy, "tensors are made and measured": by_building, "with ceil": with_()},
    wrong=[
        Wrong("second level left out", with_(scale_bytes=0), 2,
              "the scales of the second level are missing: each c.second_size constants share a float32 of their own.",
              BUDGET),
        Wrong("offset left out", with_(offset_bytes=0), 2,
              "the offset is missing: one float32 for each layer, which is added back when the constants are read.",
              "notebook 07, section 2"),
        Wrong("no double quantization", with_(constant_bits=32, scale_bytes=0, offset_bytes=0), 2,
              "each block has a float32 constant here. Double quantization keeps its code of c.constant_bits bits "
              "instead.", BUDGET),
        Wrong("constants not packed", with_(constant_bits=8), 2,
              "the code of a constant takes a byte here. It has c.constant_bits bits, packed without gaps.", BUDGET),
        Wrong("constants counted with the width of a weight's code", with_(constant_bits=4), 2,
              "the constants are counted with 4 bits. That is the code of a weight; a constant's has c.constant_bits "
              "bits.", BUDGET),
        Wrong("codes counted as bytes", with_(code_bits=8), 2,
              "the code of a weight takes a byte here. It has 4 bits, and two of them share a byte.",
              "notebook 06, section 3"),
        Wrong("everything quantized", with_(quantized=("linear", "head", "embedding", "norm")), 0,
              "embeddings, head and norms are in 4 bits here. Only the linear layers of the blocks are quantized.",
              "notebook 09, section 2"),
        Wrong("head quantized", with_(quantized=("linear", "head")), 0,
              "the head is in 4 bits here. It is a linear layer, but it is left out: its errors go straight to the "
              "logits.", "notebook 09, section 2"),
        Wrong("embeddings quantized", with_(quantized=("linear", "embedding")), 0,
              "embeddings are in 4 bits here. Only the linear layers of the blocks are quantized.",
              "notebook 09, section 2"),
        Wrong("embeddings and head quantized", with_(quantized=("linear", "embedding", "head")), 0,
              "embeddings and head are in 4 bits here. Only the linear layers of the blocks are quantized.",
              "notebook 09, section 2"),
        Wrong("copies of linear layers alone", copies_of_linear_layers, 2,
              "a copy counts only if its layer is linear here. A norm's copy takes its 4 bytes a number, too.", ALIVE),
        Wrong("copy alive is ignored", with_(copies=False), 2,
              "a float32 copy that is alive takes 4 bytes a weight, whatever lies beside it: this claims 4-bit memory "
              "without having it.", ALIVE),
        Wrong("copy replaces the codes", copy_replaces_codes, 1,
              "the copy replaces the codes here. Both are alive: add them.", ALIVE),
        Wrong("ragged blocks dropped", with_(up=math.floor), 2,
              "a block that is not full is dropped. It has a constant too: round up, at both levels.", ALIVE),
        Wrong("odd code dropped", with_(up_codes=math.floor), 2,
              "an odd code is dropped. If one is left over, it has the last byte to itself: round up.", ALIVE),
        Wrong("layers run together", all_at_once, 1,
              "the layers are counted as one long row of weights. Each layer ends with bytes, blocks and an offset of "
              "its own.", BUDGET),
        Wrong("bits for bytes", in_bits, 0, "these are bits. A byte has 8 of them.", BUDGET),
        Wrong("lora_edu", of_the_package, 2),
    ],
)  # fmt: skip
