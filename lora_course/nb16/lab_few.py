"""The few numbers of notebook 10, trained by this notebook's reward; and a control that takes the reward away.

The control reads. Rank 8, trained by the reward, writes as many roll-outs as its training saw, and each way reads them
as one reads any text, in as many steps. It is to end where the reward ends: if few numbers suffice here as well, the
lesson is small, and it is not the reward that makes it so.
"""

import functools

import torch
from torch import Tensor

from lora_course.nb10.lab_few import few
from lora_course.nb16 import lab as nb16
from lora_course.running.sweeps import sweep_arms
from lora_edu import GPT

STEPS, BETA = 40, 0.3
HELD_OUT = 512  # roll-outs that are measured on


def few_rewarded(what: str, lr: float, *, read: bool = False, seed: int = 0) -> dict:
    """Train one way of notebook 10. read: on what rank 8 wrote, and not by the reward.

    Returns e, kl and more as `measured` does, of the roll-outs of its own; or `nll`, nats a byte of rank 8's held-out.
    """
    if read:
        return {"nll": read_winner(what, lr, seed)}
    return nb16.measured(rewarded(what, lr, seed))


def rewarded(way: str, lr: float, seed: int) -> GPT:
    model, frozen = few(way, seed), functools.partial(nb16.new_log_probs, nb16.shipped())
    optimizer = nb16.adamw(model)
    for step in range(STEPS):
        nb16.policy_step(model, frozen, optimizer, lr, BETA, "no e", seed, step)
    return model


@functools.cache
def written() -> tuple[Tensor, Tensor]:
    """What rank 8 writes after its reward: roll-outs to read, and others from held-out prompts."""
    winner, generator = rewarded("lora r8", 3e-3, 0), torch.Generator().manual_seed(2)
    found = []
    for count, held_out in ((STEPS * nb16.ROLLOUTS, False), (HELD_OUT, True)):
        starts = nb16.prompts(count, generator, held_out=held_out).split(128)
        some = [winner.generate(part, nb16.NEW, temperature=1.0, generator=generator) for part in starts]
        found.append(torch.cat(some))
    return found[0], found[1]


def read_winner(way: str, lr: float, seed: int) -> float:
    """Each roll-out is read once, at the rates of the reward's steps: the seed draws their order."""
    model, (texts, held_out) = few(way, seed), written()
    optimizer = nb16.adamw(model)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).split(nb16.ROLLOUTS)
    for step, rows in enumerate(order if lr else ()):  # at rate 0, the base
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / nb16.WARMUP)
        optimizer.zero_grad()
        nll(model, texts[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return round(float(torch.stack([nll(model, some) for some in held_out.split(128)]).mean()), 5)


def nll(model: GPT, tokens: Tensor) -> Tensor:
    """Mean of -ln p over the new bytes."""
    return -nb16.at_tokens(nb16.new_log_probs(model, tokens), tokens).mean()


# --- the arms --------------------------------------------------------------------------------------------------------

RATES = (3e-2, 0.1, 0.3)  # of 256 biases, that seed 0 tries, by the reward and reading; ranks 1 and 8 have their runs
READ_RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of rank 8

FEW_REWARDED_ARMS: dict[str, dict] = {"base, read": {"what": "bias", "lr": 0.0, "repeat": 0, "read": True}}
FEW_REWARDED_ARMS |= sweep_arms("bias", RATES, 0.1, what="bias")
FEW_REWARDED_ARMS |= sweep_arms("shared", (1e-3, 3e-3, 1e-2), 3e-3, what="shared")
FEW_REWARDED_ARMS |= sweep_arms("shared 256", (1e-3, 3e-3, 1e-2), 3e-3, what="shared 256")
FEW_REWARDED_ARMS |= sweep_arms("cores", (1e-3, 3e-3, 1e-2), 3e-3, what="cores")
FEW_REWARDED_ARMS |= sweep_arms("norms", (1e-3, 3e-3, 1e-2, 3e-2), 3e-3, what="norms")
FEW_REWARDED_ARMS |= sweep_arms("bias, read", RATES, 0.1, what="bias", read=True)
FEW_REWARDED_ARMS |= sweep_arms("lora r8, read", READ_RATES, 1e-3, what="lora r8", read=True)
