"""Exercise 3.1, a constant that keeps its sign: the reference, other right answers, and wrong ones."""

import math

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu.quantization import block_absmax

BLOCKS = "notebook 05, section 4"


def reference(values, block_size):
    blocks = values.flatten().split(block_size)
    return torch.stack([block[block.abs().argmax()] for block in blocks])


# --- right -----------------------------------------------------------------------------------------------------------


def gathered(values, block_size):
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % block_size))
    blocks = padded.view(-1, block_size)  # (n_blocks, block_size)
    place = blocks.abs().argmax(dim=1, keepdim=True)
    return blocks.gather(1, place).squeeze(1)


def largest_or_smallest(values, block_size, *, fill=0.0):
    padded = torch.nn.functional.pad(values.reshape(-1), (0, -values.numel() % block_size), value=fill)
    low, high = padded.reshape(-1, block_size).aminmax(dim=1)
    return torch.where(high > -low, high, low)


def in_numpy(values, block_size):
    flat = np.asarray(values, dtype=np.float64).ravel()
    starts = range(0, len(flat), block_size)
    return np.array([max(flat[start : start + block_size], key=abs) for start in starts])


def list_of_views(values, block_size):
    flat = values.flatten()
    blocks = [flat[start : start + block_size] for start in range(0, len(flat), block_size)]
    return [block[block.abs().argmax()] for block in blocks]


def running_loop(values, block_size):
    constants = torch.zeros(math.ceil(values.numel() / block_size))
    for i, value in enumerate(values.flatten().tolist()):
        if abs(value) > abs(constants[i // block_size]):
            constants[i // block_size] = value
    return constants


# --- wrong -----------------------------------------------------------------------------------------------------------


def _of_blocks(pick):
    """An answer that finds the blocks and picks a constant from each."""
    return lambda values, block_size: torch.stack([pick(block) for block in values.flatten().split(block_size)])


def _whole_block_of_padding(values, block_size):
    return reference(
        torch.nn.functional.pad(values.flatten(), (0, block_size - values.numel() % block_size)), block_size
    )


def _rest_in_the_last(values, block_size):
    flat, whole = values.flatten(), max(1, values.numel() // block_size)
    blocks = [*flat[: (whole - 1) * block_size].split(block_size), flat[(whole - 1) * block_size :]][-whole:]
    return torch.stack([block[block.abs().argmax()] for block in blocks])


def _every_kth(values, block_size):
    flat = values.flatten()
    n_blocks = math.ceil(len(flat) / block_size)
    return torch.cat([reference(flat[first::n_blocks], block_size) for first in range(n_blocks)])


def _zeroed_in_place(values, block_size):
    for block in values.view(-1).split(block_size):
        block[block.abs() < block.abs().max()] = 0
    return torch.stack([block.sum() for block in values.view(-1).split(block_size)])


WRONG = [
    Wrong("the sign is lost", lambda c: _of_blocks(lambda block: block.abs().max()), 0,
          "this is the absmax of each block, as in NF4. Here the constant is the value itself, with its sign: "
          "find the place of the largest magnitude, and take the value that stands there.", BLOCKS),
    Wrong("the largest value", lambda c: _of_blocks(lambda block: block.max()), 0,
          "this is the largest value of each block. The largest *magnitude* may belong to a negative value.", BLOCKS),
    Wrong("the smallest value", lambda c: _of_blocks(lambda block: block.min()), 0,
          "this is the smallest value of each block. The largest *magnitude* may belong to a positive value.", BLOCKS),
    Wrong("the place instead of the value", lambda c: _of_blocks(lambda block: block.abs().argmax()), 0,
          "these are places, not values: argmax says *where* in its block the largest magnitude stands. Take "
          "the value from there.", BLOCKS),
    Wrong("the sign of the sum", lambda c: _of_blocks(lambda block: block.abs().max() * block.sum().sign()), 0,
          "the magnitude is right, and the sign is that of the whole block's sum. It must be the sign of the "
          "one value with the largest magnitude.", BLOCKS),
    Wrong("one constant per tensor", lambda c: lambda values, block_size: values.flatten()[values.abs().argmax()], 0,
          "this is one constant for the whole tensor. One outlier then spoils the scale of all the other "
          "weights: each block has a constant of its own.", "notebook 05, section 3"),
    Wrong("one constant per tensor, repeated",
          lambda c: lambda v, size: v.flatten()[v.abs().argmax()].expand(math.ceil(v.numel() / size)).clone(), 0,
          "this repeats one constant for the whole tensor. Each block has a constant of its own.",
          "notebook 05, section 3"),
    Wrong("the last block is dropped",
          lambda c: lambda values, block_size: reference(values, block_size)[: values.numel() // block_size], 3,
          "the last block is missing. It is shorter than the others, but its weights need a constant too.", BLOCKS),
    Wrong("the rest is thrown into the last whole block", lambda c: _rest_in_the_last, 3,
          "the rest is thrown into the last whole block. It is a block of its own, a short one.", BLOCKS),
    Wrong("a whole block of padding", lambda c: _whole_block_of_padding, 2,
          "where the blocks fit, this adds a block of zeros, and its constant 0. What is missing is -n % "
          "block_size: nothing, if it divides.", BLOCKS),
    Wrong("blocks of block_size + 1", lambda c: lambda values, block_size: reference(values, block_size + 1), 0,
          "these blocks have one value too many: a slice [start : end] ends before `end`.", BLOCKS),
    Wrong("each row is cut by itself",
          lambda c: lambda values, block_size: torch.cat([reference(row, block_size) for row in values]), 0,
          "this cuts every row by itself. Blocks run through the flattened tensor, on over the end of a row.", BLOCKS),
    Wrong("blocks run down the columns", lambda c: lambda values, block_size: reference(values.T, block_size), 0,
          "these blocks run down the columns. Flatten row by row, as `values.flatten()` does.", BLOCKS),
    Wrong("every k-th value", lambda c: _every_kth, 0,
          "these blocks are every k-th value. A block is made of neighbors: values 0 to block_size - 1, and so on.",
          BLOCKS),
    Wrong("the input is changed", lambda c: _zeroed_in_place, 3,
          "the constants are right, but the tensor that you were given is changed: after your function its "
          "other values are 0. Work on a copy, or pick the value by its place.", BLOCKS),
    Wrong("lora_edu", lambda c: lambda v, block_size: block_absmax(v.flatten(), block_size), 0),
]  # fmt: skip

SOLUTIONS = Solutions(
    reference=lambda c: reference,
    right={
        "gathered": lambda c: gathered,
        "largest or smallest, an extra keyword": lambda c: largest_or_smallest,
        "NumPy, float64": lambda c: in_numpy,
        "a list": lambda c: list_of_views,
        "a running loop": lambda c: running_loop,
    },
    wrong=[*WRONG],
)
