"""What LoRA learns, where, and at what price: many short runs of fine-tuning, each measured on both texts (notebook 10)

Each arm trains the shipped base on plays in one way with one seed, and measures the loss on held-out plays (learned)
and on held-out addresses (forgotten). Protocol, batches and A are those of notebook 09: where two arms say the same,
they give the same numbers, so its stored runs count here too (`nb10_runs`).

Rates are swept with seed 0; the best rate of an arm is run with two more seeds. `lora-where` asks which matrices
to train under one budget; `lora-price` asks for ranks, rates, scalings and steps.
"""

import torch

from lora_course.running.finetune import both_losses, fine_tune, prepared
from lora_course.running.sweeps import SEEDS, arms_of, sweep_arms
from lora_edu import GPT, load_base
from lora_edu.lora import lora_layers
from lora_edu.observing import block_linears


def adapted_loss(method: str, lr: float, *, rank=8, steps=100, seed=0, progress=True, **how) -> dict:
    """Fine-tune the shipped base on plays in one way, and measure it on held-out text.

    method, and more in how: as for `prepared`.
    Returns both losses in nats per byte, and how many numbers were trained.
    """
    model = prepared(load_base("laptop", device="cpu"), method, rank, seed, **how)
    fine_tune(model, steps, lr, seed, progress=progress)
    return both_losses(model) | {"trained": sum(p.numel() for p in model.parameters() if p.requires_grad)}


@torch.no_grad()
def block_weights(model: GPT) -> dict[str, torch.Tensor]:
    """What each linear layer of the blocks multiplies with, updates added: path -> (d_out, d_in)."""
    adapters, found = lora_layers(model), {}
    for path, layer in adapters.items():
        base = layer.base.dequantize() if hasattr(layer.base, "dequantize") else layer.base.weight
        found[path] = base + layer.delta_weight()
    for path, layer in block_linears(model).items():
        inside = f"blocks.{path}".removesuffix(".base")
        if inside not in adapters:
            found[inside] = layer.weight.detach().clone()
    return found


# --- where: one budget ----------------------------------------------------------------------------------------------
# Per block: one 256 x 256 matrix takes 512 numbers a rank, an MLP matrix 1,280, all six 4,608. The budget is 10,240 a
# block; six matrices at rank 2 take 9,216: these are the arms `lora r2` of `lora-price`.

PLACES: dict[str, tuple[tuple[str, ...], int]] = {
    "q": (("q_proj",), 20),
    "v": (("v_proj",), 20),
    "o": (("o_proj",), 20),
    "q v": (("q_proj", "v_proj"), 10),
    "q k v o": (("q_proj", "k_proj", "v_proj", "o_proj"), 5),
    "up": (("up_proj",), 8),
    "down": (("down_proj",), 8),
    "up down": (("up_proj", "down_proj"), 4),
}
# Half of the budget, 5,120 a block, beside the 4,608 of all six at rank 1: is it attention that makes these as good?
HALF = {"up down, rank 2": (("up_proj", "down_proj"), 2)}
USUAL = (1e-2, 2e-2, 3e-2)
# Other rates: the best one is not the last one tried.
OTHER_PLACE_RATES = {"q": (3e-3, 1e-2, 3e-2), "up": (6e-3, *USUAL)} | dict.fromkeys(["q v", *HALF], (*USUAL, 5e-2))
# The best of each sweep: a test holds this table against the stored results.
BEST_PLACE_RATES = dict.fromkeys([*PLACES, *HALF], 2e-2) | {"q": 1e-2, "up": 1e-2}

WHERE_ARMS: dict[str, dict] = {}
for _way, (_targets, _rank) in (PLACES | HALF).items():
    _rates, _best = OTHER_PLACE_RATES.get(_way, USUAL), BEST_PLACE_RATES[_way]
    WHERE_ARMS |= sweep_arms(_way, _rates, _best, method="lora", rank=_rank, targets=_targets)

# --- ranks, rates, scalings, steps ---------------------------------------------------------------------------------

# Two conventions for s, equal at rank 8.
SCALINGS = {"alpha = 2r": lambda rank: 2.0, "alpha = 16": lambda rank: 16 / rank}
RANK_RATES = {1: (3e-3, 1e-2, 2e-2, 3e-2, 5e-2), 2: (1e-2, 2e-2, 3e-2), 4: (6e-3, 1e-2, 2e-2, 3e-2)}
BEST_RANK_RATE = 2e-2  # of each of them
OTHER_RATES = {("alpha = 16", 1): (1e-3, 3e-3, 1e-2, 2e-2), ("alpha = 16", 64): (3e-3, 1e-2, 2e-2, 3e-2)}


def rank_way(method: str, rank: int, scaling: str = "alpha = 2r") -> str:
    """The name of adapters on all six matrices at one rank, for example `lora r8`."""
    return f"{method} r{rank}" + ("" if scaling == "alpha = 2r" else f", {scaling}")


# Rates below the best, where full fine-tuning learns as little as adapters do: with three seeds, 09's included.
PRICE_ARMS = (
    arms_of("full", (1e-4, 3e-4, 6e-4, 1e-3), (1, 2), method="full")
    | arms_of("blocks", (3e-4,), method="blocks")
    | arms_of("blocks", (6e-4,), SEEDS, method="blocks")
    | arms_of("blocks", (1e-3,), (1, 2), method="blocks")
    | arms_of("lora r8", (3e-3, 6e-3), (1, 2), method="lora", rank=8)
    | arms_of("lora r64", (1e-3,), (1, 2), method="lora", rank=64)
)
for _rank, _rates in RANK_RATES.items():
    PRICE_ARMS |= sweep_arms(rank_way("lora", _rank), _rates, BEST_RANK_RATE, method="lora", rank=_rank)
for (_scaling, _rank), _rates in OTHER_RATES.items():
    _scale = SCALINGS[_scaling](_rank)
    PRICE_ARMS |= arms_of(rank_way("lora", _rank, _scaling), _rates, method="lora", rank=_rank, scaling=_scale)
