"""How few numbers hold a voice? Ways to train 13 to 147,456 numbers of the base, on plays (notebook 10)

Each way is swept with seed 0, and its best rate is run with two seeds more. Ranks 1 and 8 are the runs of
`lora-price`: same protocol, same batches. What a reward makes of the same ways, `nb16.lab_few` measures.
"""

import torch
from torch import Tensor, nn

from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import arms_of, sweep_arms
from lora_edu import GPT, load_base
from lora_edu.layers import is_linear, replace_layer, select_layers

FRAME = 8  # components of each matrix between which the shared numbers work


class SharedCore(nn.Module):
    """A layer with the update U S R V^T: its own strongest components, frozen, and a core R between them.

    R (rank, rank) is the sum of `mixes` (n, rank, rank), frozen, weighted by n numbers. In TinyLoRA (arXiv 2602.04118)
    the mixes are drawn, and all layers share the numbers. In LoRA-XS (arXiv 2405.17604) a number is an entry of R, and
    each layer has its own.
    """

    def __init__(self, base: nn.Linear, mixes: Tensor, numbers: nn.Parameter):
        super().__init__()
        U, S, Vt = torch.linalg.svd(base.weight.detach(), full_matrices=False)
        rank = mixes.shape[1]
        self.base, self.mixes, self.numbers = base, mixes, numbers
        self.A, self.B = Vt[:rank].clone(), U[:, :rank] * S[:rank]  # (rank, in_features), (out_features, rank)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, seq, in_features) -> (batch, seq, out_features)"""
        R = torch.einsum("n,nij->ij", self.numbers, self.mixes)
        return self.base(x) + x @ self.A.T @ R.T @ self.B.T


def few(way: str, seed: int = 0) -> GPT:
    """The shipped base, ready to train a few numbers: one of WAYS. At the start it says what the base says."""
    model = load_base("laptop", device="cpu")
    if way.startswith("lora"):
        return prepared(model, "lora", int(way.removeprefix("lora r")), seed)
    model.requires_grad_(False)
    if way == "bias":
        model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size))
    elif way == "norms":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
    else:
        shared, generator = nn.Parameter(torch.zeros(WAYS[way])), torch.Generator().manual_seed(seed)
        for path, layer in select_layers(model, "all-linear", ("lm_head",), is_linear).items():
            if way == "cores":
                mixes, numbers = torch.eye(FRAME**2).view(-1, FRAME, FRAME), nn.Parameter(torch.zeros(FRAME**2))
            else:
                mixes, numbers = torch.randn(WAYS[way], FRAME, FRAME, generator=generator) / FRAME, shared
            replace_layer(model, path, SharedCore(layer, mixes, numbers))
    return model


def few_loss(what: str, lr: float, *, steps: int = 100, seed: int = 0, progress: bool = True) -> dict:
    """Train on plays, and measure the loss on held-out plays, in nats per byte."""
    model = few(what, seed)
    fine_tune(model, steps, lr, seed, progress=progress)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"plays": loss_on(model, "shakespeare"), "trained": trained}


# --- the arms --------------------------------------------------------------------------------------------------------

WAYS = {  # way -> how many numbers it trains, the fewest first
    "shared": 13,
    "bias": 256,
    "shared 256": 256,
    "cores": 1_536,
    "norms": 4_608,
    "lora r1": 18_432,
    "lora r8": 147_456,
}
RATES = {  # that seed 0 tries on plays
    "shared": (1e-2, 3e-2, 0.1, 0.3, 1.0),
    "shared 256": (3e-3, 1e-2, 3e-2, 0.1),
    "cores": (1e-2, 3e-2, 0.1, 0.3),
    "bias": (0.1, 0.3, 1.0, 3.0),
    "norms": (1e-2, 3e-2, 0.1),
}
BEST = {"shared": 0.1, "bias": 0.3, "shared 256": 3e-2, "cores": 0.1, "norms": 3e-2}

FEW_ARMS = arms_of("bias", (0.3,), what="bias", steps=20)  # the page runs it again
for _way, _rates in RATES.items():
    FEW_ARMS |= sweep_arms(_way, _rates, BEST[_way], what=_way)
