"""What assignment 2 is done on: small models that the notebook and the checks build and hand to your code."""

from typing import Any

import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """A linear layer and the numbers of its adapter. It has no forward: exercises 2.3 and 2.4 need only what it holds.

    base: nn.Linear, frozen; down: (in_features, rank); up: (rank, out_features); alpha, scaling: numbers.
    """

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor, alpha: float, scaling: float = 1.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.alpha, self.scaling = alpha, scaling


def adapter_tensors(model: nn.Module, c: Any) -> dict[str, Tensor]:
    """What a file of exercise 2.4 holds: the factors of all `Adapted`, by the names and in the dtype of the cohort."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}
    return {
        c.key.format(path=path, factor=factor): getattr(layer, factor).detach().to(getattr(torch, c.file_dtype))
        for path, layer in layers.items()
        for factor in ("down", "up")
    }


class Branched(nn.Module):
    """A linear layer and a branch, for exercise 2.5: no scaling, no dropout. down: (in, rank), up: (rank, out)"""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.zeros(base.in_features, rank))
        self.up = nn.Parameter(torch.zeros(rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down @ self.up


class TowerPair(nn.Module):
    """Two linear layers, in -> hidden -> in, and a norm between them that has weights of its own."""

    def __init__(self, width: int, hidden: int, names: tuple[str, str]):
        super().__init__()
        self.names = names
        self.add_module(names[0], nn.Linear(width, hidden))
        self.norm = nn.LayerNorm(hidden)
        self.add_module(names[1], nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.get_submodule(name) for name in self.names)
        return second(self.norm(first(x)))


class TowerBlock(nn.Module):
    """One block: two parts with linear layers, and a gate beside each whose name begins like the part's name."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.attention = TowerPair(width, hidden, ("v_proj", "o_proj"))
        self.attention_gate = nn.Linear(width, width)
        self.mlp = TowerPair(width, hidden, ("up_proj", "down_proj"))
        self.mlp_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x) * self.attention_gate(x)
        return x + self.dropout(self.mlp(x)) * self.mlp_gate(x)


class Tower(nn.Module):
    """An embedding, blocks, and a head that has parts with the same names as the blocks. Input: tokens below 11."""

    def __init__(self, n_blocks: int, width: int, hidden: int):
        super().__init__()
        self.token_embedding = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(TowerBlock(width, hidden) for _ in range(n_blocks))
        self.pooler = TowerBlock(width, hidden)
        self.lm_head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.lm_head(self.pooler(x))


class Inside(nn.Module):
    """A model inside another one: every path gets a name in front, as `inner.blocks.3.mlp.up_proj`."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens)


class Probe(nn.Module):
    """Stands in for an adapter layer in exercise 2.2: computes what its base computes, and has one trained number.

    It freezes nothing, so that the freezing is yours.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float):
        super().__init__()
        self.base, self.rank, self.alpha = base, rank, alpha
        self.extra = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


def seeded(seed: int, build, *arguments) -> nn.Module:
    """A module with weights drawn from this seed; the global random numbers go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes longer than the rest
        return build(*arguments)
