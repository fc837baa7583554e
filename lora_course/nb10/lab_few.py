"""How few numbers hold a voice? Ways to train 256 to 147,456 numbers of the base, on plays (notebook 10)

Each way is swept with seed 0, and its best rate is run with two seeds more. Ranks 1 and 8 are the runs of
`lora-price`: same protocol, same batches. What a reward makes of the same ways, `nb16.lab_few` measures.
"""

import torch
from torch import nn

from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import arms_of, sweep_arms
from lora_edu import GPT, load_base


def few(way: str, seed: int = 0) -> GPT:
    """The shipped base, ready to train a few numbers: one of WAYS. At the start it says what the base says."""
    model = load_base("laptop", device="cpu")
    if way.startswith("lora"):
        return prepared(model, "lora", int(way.removeprefix("lora r")), seed)
    model.requires_grad_(False)
    if way == "bias":
        model.lm_head.bias = nn.Parameter(torch.zeros(model.config.vocab_size))
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
    return model


def few_loss(what: str, lr: float, *, steps: int = 100, seed: int = 0, progress: bool = True) -> dict:
    """Train on plays, and measure the loss on held-out plays, in nats per byte."""
    model = few(what, seed)
    fine_tune(model, steps, lr, seed, progress=progress)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"plays": loss_on(model, "shakespeare"), "trained": trained}


# --- the arms --------------------------------------------------------------------------------------------------------

WAYS = {  # way -> how many numbers it trains, the fewest first
    "bias": 256,
    "norms": 4_608,
    "lora r1": 18_432,
    "lora r8": 147_456,
}
RATES = {"bias": (0.1, 0.3, 1.0, 3.0), "norms": (1e-2, 3e-2, 0.1)}  # that seed 0 tries on plays
BEST = {"bias": 0.3, "norms": 3e-2}

FEW_ARMS = arms_of("bias", (0.3,), what="bias", steps=20)  # the page runs it again
for _way, _rates in RATES.items():
    FEW_ARMS |= sweep_arms(_way, _rates, BEST[_way], what=_way)
