"""How few numbers hold a voice? Ways to train 13 to 147,456 numbers of the base, on plays (notebook 10)

Each way is swept with seed 0, and its best rate is run with two seeds more. Ranks 1 and 8 are the runs of
`lora-price`: same protocol, same batches. What a reward makes of the same ways, `nb16.lab_few` measures.
"""

import torch
from torch import Tensor, nn

from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import sweep_arms
from lora_edu import GPT, load_base
from lora_edu.layers import is_linear, replace_layers, select_layers

FRAME = 8  # directions of each matrix that a shared handful of numbers may turn


class FramedLinear(nn.Module):
    """A layer with the update U S R V^T: its own strongest directions, frozen, and a core R between them.

    Without `mixes`, R (rank, rank) is trained, as in LoRA-XS (arXiv 2405.17604). With them, (n, rank, rank), drawn and
    frozen, R is their sum weighted by n numbers that all layers share: the idea of TinyLoRA (arXiv 2602.04118).
    """

    def __init__(self, base: nn.Linear, rank: int, mixes: Tensor | None = None, shared: nn.Parameter | None = None):
        super().__init__()
        U, S, Vt = torch.linalg.svd(base.weight.detach(), full_matrices=False)
        self.base, self.mixes = base, mixes
        self.A, self.B = Vt[:rank].clone(), U[:, :rank] * S[:rank]  # (rank, in_features), (out_features, rank)
        self.numbers = nn.Parameter(torch.zeros(rank, rank)) if shared is None else shared

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, seq, in_features) -> (batch, seq, out_features)"""
        R = self.numbers if self.mixes is None else torch.einsum("n,nij->ij", self.numbers, self.mixes)
        return self.base(x) + x @ self.A.T @ R.T @ self.B.T


def few(way: str, seed: int = 0) -> GPT:
    """The shipped base, ready to train a few numbers: one of WAYS. At the start it says what the base says."""
    model, (kind, count) = load_base("laptop", device="cpu"), WAYS[way]
    if kind == "lora":
        return prepared(model, "lora", count, seed)
    model.requires_grad_(False)
    layers = select_layers(model, "all-linear", ("lm_head",), is_linear)
    if kind == "bias":
        model.lm_head.bias = nn.Parameter(torch.zeros(count))
    elif kind == "norms":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
    elif kind == "core":
        replace_layers(model, [(path, FramedLinear(layer, count)) for path, layer in layers.items()])
    else:  # shared by all layers, each with mixes of its own
        shared, generator = nn.Parameter(torch.zeros(count)), torch.Generator().manual_seed(seed)
        for path, layer in layers.items():
            mixes = torch.randn(count, FRAME, FRAME, generator=generator) / FRAME
            replace_layers(model, [(path, FramedLinear(layer, FRAME, mixes, shared))])
    return model


def numbers(way: str) -> int:
    """How many numbers a way trains."""
    return sum(p.numel() for p in few(way).parameters() if p.requires_grad)


def few_loss(what: str, lr: float, *, steps: int = 100, seed: int = 0, progress: bool = True) -> dict:
    """Train on plays, and measure the loss on held-out plays, in nats per byte."""
    model = few(what, seed)
    fine_tune(model, steps, lr, seed, progress=progress)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"plays": loss_on(model, "shakespeare"), "trained": trained}


# --- the arms ----------------------------------------------------------------------------------------------------------

WAYS = {  # way -> its kind, and how many numbers or directions
    "tiny 13": ("tiny", 13),
    "tiny 256": ("tiny", 256),
    "bias": ("bias", 256),
    "core 8": ("core", 8),
    "norms": ("norms", 0),
    "lora r1": ("lora", 1),
    "lora r8": ("lora", 8),
}
RATES: dict[str, tuple[float, ...]] = {  # that seed 0 tries on plays
    "bias": (0.3, 1.0, 3.0),
    "norms": (1e-2, 3e-2, 0.1),
    "tiny 256": (1e-2, 3e-2, 0.1),
    "tiny 13": (0.03, 0.1, 0.3),
    "core 8": (1e-2, 3e-2, 0.1),
}
BEST = {"bias": 1.0, "norms": 3e-2, "tiny 256": 3e-2, "tiny 13": 0.1, "core 8": 3e-2}

FEW_ARMS: dict[str, dict] = {}
for _way, _rates in RATES.items():
    FEW_ARMS |= sweep_arms(_way, _rates, BEST[_way], what=_way)
