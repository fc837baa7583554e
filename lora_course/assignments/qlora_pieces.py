"""What assignment 4 hands out beside its constants: a quantizer, a stored weight, a small 4-bit model and its data.

None of it uses the storage that the exercises ask for, so nothing here is an answer.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridRounding:
    """A weight to 4 bits and back: each row on a grid whose step is a power of two, so that all sums are exact."""

    def __call__(self, weight: Tensor) -> Tensor:
        largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
        step = 2 ** torch.ceil(torch.log2(largest / 7.5))
        return (weight / step).round() * step


class StoredWeight:
    """A weight (d_in, d_out) kept as a byte each; `decode(stored)` makes the float32 weight anew in each call."""

    def __init__(self, d_in: int, d_out: int, generator: torch.Generator):
        self.shape = (d_in, d_out)
        self.stored = torch.randint(0, 256, (d_in * d_out,), generator=generator, dtype=torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        """stored: (d_in * d_out,) uint8 -> W: (d_in, d_out) float32"""
        return (stored.float().view(self.shape) - 127.5) / 128


class FrozenLinear(nn.Module):
    """y = x W^T + bias, with W as codes from -7 to 7 (out_features, in_features) and a scale for each row."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scale = weight.abs().amax(dim=1, keepdim=True) / 7
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(torch.zeros(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes * self.scale, self.bias)


class TinyModel(nn.Module):
    """Two tokens in, one token out: an embedding, two 4-bit layers `up` and `down`, and a head in full precision."""

    def __init__(self, generator: torch.Generator, vocab_size: int = 40, d: int = 16):
        super().__init__()
        up, down = torch.randn(24, 2 * d, generator=generator), torch.randn(20, 24, generator=generator)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(vocab_size, d, generator=generator), freeze=False)
        self.up, self.down = FrozenLinear(up / 32**0.5), FrozenLinear(down / 16**0.5)
        self.head = nn.Linear(20, vocab_size)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(vocab_size, 20, generator=generator))
            self.head.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (n, 2) int64 -> logits: (n, vocab_size)"""
        hidden = torch.tanh(self.up(self.embedding(tokens).flatten(1)))
        return self.head(torch.tanh(self.down(hidden)))


@dataclass
class Task4:
    """A base model, and the pairs of tokens and answers of a task that is new to it."""

    model: TinyModel
    tokens: Tensor  # (1024, 2)
    answers: Tensor  # (1024,)
    held_out_tokens: Tensor  # (576, 2): pairs that are not among those above
    held_out_answers: Tensor


def new_task(seed: int) -> Task4:
    """The answers come from the same model after a change of its two layers, of low rank and as large as they are."""
    generator = torch.Generator().manual_seed(seed)
    model = TinyModel(generator)
    teacher = copy.deepcopy(model)
    for name in ("up", "down"):
        layer = getattr(model, name)
        weight = layer.codes * layer.scale
        left, right = (torch.randn(side, 2, generator=generator) for side in weight.shape)
        change = left @ right.T
        setattr(teacher, name, full_linear(weight + change * (weight.norm() / change.norm())))
    every = torch.arange(model.embedding.num_embeddings)
    pairs = torch.cartesian_prod(every, every)[torch.randperm(len(every) ** 2, generator=generator)]
    with torch.no_grad():
        answers = teacher(pairs).argmax(dim=1)
    return Task4(model, pairs[:1024], answers[:1024], pairs[1024:], answers[1024:])


def full_linear(weight: Tensor) -> nn.Linear:
    """y = x W^T, in full precision and frozen: the layer of the model that invents the task."""
    layer = nn.utils.skip_init(nn.Linear, *weight.T.shape, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def held_out_loss(model: nn.Module, task: Task4) -> float:
    """The loss on pairs that were not trained on, in nats for each answer."""
    with torch.no_grad():
        return F.cross_entropy(model(task.held_out_tokens), task.held_out_answers).item()
