"""What a reward's run is held against: one number, roll-outs picked, and the best copied (notebook 16)

`biased` trains nothing: a bias on the logit of e. `picked` changes no model: of many
roll-outs of the base it takes those with few e's oftener, in the way that no policy can beat at equal divergence.
`imitated` trains on the text of the best roll-outs, as on any text.
"""

import torch
from torch import Tensor

from lora_course.nb15.lab import with_bias
from lora_course.nb16 import lab as nb16
from lora_course.nb16.lab import NEW, PROMPT, ROLLOUTS
from lora_course.running.sweeps import SEEDS, arms_of, sweep_arms
from lora_edu import load_base


def reward_arm(method: str, *, seed: int = 0, progress: bool = True, **settings) -> dict:
    """One arm of the experiment `reward`. method: a rival's name, or a way to train as `rewarded` takes it."""
    if method == "bias":
        return biased(**settings)
    if method == "imitated":
        return imitated(seed=seed, **settings)
    if method == "picked":
        return picked(seed=seed, **settings)
    return nb16.rewarded(method, seed=seed, progress=progress, **settings)


def biased(bias: float) -> dict:
    return {"looks": {"0": nb16.measured(with_bias(load_base("laptop", device="cpu"), bias))}}


STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 10.0)


def picked(seed: int = 0) -> dict:
    """Roll-outs of the base, 384 from each of 48 held-out prompts, weighted by exp(-strength * their e's).

    Of all ways to write with so few e's this one is the nearest to the base: the optimum of the reward at the price
    beta = 1 / strength. Its divergence comes from the weights alone, and is a little too small where few roll-outs
    carry them. Returns for each strength e and kl as `measured` does, and "carried_by": to how many
    roll-outs of a prompt the weights come, in the middle of all prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = []
    for prompt in nb16.prompts(48, generator, held_out=True):
        tokens = nb16.shipped().generate(prompt.repeat(384, 1), NEW, temperature=1.0, generator=generator)
        counts.append(nb16.is_e(tokens[:, PROMPT:]).sum(1))
    e = torch.stack(counts)  # (48, 384)
    return {"strengths": {f"{strength:g}": _weighted(strength, e) for strength in (0.0, *STRENGTHS)}}


def _weighted(strength: float, e: Tensor) -> dict:
    weights = torch.softmax(-strength * e, dim=1)
    found = {
        "e": (weights * e).sum(1).mean() / NEW,
        "kl": (weights * (weights * e.shape[1]).clamp_min(1e-30).log()).sum(1).mean() / NEW,
        "carried_by": (1 / weights.square().sum(1)).median(),
    }
    return {name: round(value.item(), 5) for name, value in found.items()}


def imitated(lr: float, steps: int = 40, best_of: int = 8, rank: int = 8, seed: int = 0) -> dict:
    """Train on the base's own best roll-outs: from each prompt the one with the fewest e's of `best_of`.

    As many roll-outs as a reward's run writes in so many steps are written beforehand, and each step reads as many.
    """
    generator = torch.Generator().manual_seed(seed)
    model, best = nb16.start("lora", rank, seed)[0], []
    for prompt in nb16.prompts(steps * ROLLOUTS // best_of, generator):
        tokens = nb16.shipped().generate(prompt.repeat(best_of, 1), NEW, temperature=1.0, generator=generator)
        best.append(tokens[nb16.is_e(tokens[:, PROMPT:]).sum(1).argmin()])
    optimizer, best = nb16.adamw(model, lr), torch.stack(best)  # (steps * ROLLOUTS / best_of, PROMPT + NEW)
    for _ in range(steps):
        tokens = best[torch.randint(len(best), (ROLLOUTS,), generator=generator)]
        optimizer.zero_grad()
        (-nb16.at_tokens(nb16.new_log_probs(model, tokens), tokens).mean()).backward()
        optimizer.step()
    return {"looks": {str(steps): nb16.measured(model)}}


# --- the arms --------------------------------------------------------------------------------------------------------

BIASES = (0.0, -0.25, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0, -5.0, -6.0, -30.0)  # the last one bans it
SHORT, LONG = tuple(range(0, 41, 4)), (0, 4, 8, 12, 16, 20, 30, 40, 60, 80, 100)  # when a film is looked at
R1: dict = {"method": "lora", "rank": 1}
R8 = R1 | {"rank": 8}
WAYS: dict[str, tuple[dict, tuple[float, ...], float]] = {  # how it trains, rates that seed 0 tries, the best of them
    "lora r1": (R1, (1e-3, 3e-3, 1e-2, 2e-2), 3e-3),
    "lora r8": (R8, (1e-3, 3e-3, 1e-2), 3e-3),
    "lora r64": ({"method": "lora", "rank": 64}, (3e-4, 1e-3, 3e-3), 1e-3),
    "full": ({"method": "full"}, (3e-5, 1e-4, 3e-4, 1e-3), 1e-4),
    "qlora r8": ({"method": "qlora", "rank": 8}, (1e-3, 3e-3), 3e-3),
    "imitated": ({"method": "imitated", "rank": 8}, (1e-4, 3e-4, 1e-3), 3e-4),
    "constants": ({"method": "constants"}, (2e-2, 5e-2, 1e-1), 5e-2),
    "by last byte": ({"method": "by last byte"}, (2e-2, 5e-2, 1e-1, 2e-1), 5e-2),
}


def _arms() -> dict[str, dict]:
    arms = {f"bias {bias:g}": {"method": "bias", "bias": bias} for bias in BIASES} | {"picked": {"method": "picked"}}
    for way, (options, rates, best) in WAYS.items():
        arms |= sweep_arms(way, rates, best, **options)
    arms |= arms_of("no price", (1e-2,), **R1, beta=0.0, film=True, looks=SHORT)
    arms |= arms_of("film", (3e-3,), **R1, steps=100, film=True, looks=LONG)
    arms |= arms_of("film", (3e-3,), SEEDS[1:], **R1, steps=100)
    arms |= arms_of("constants, longer", (5e-2,), SEEDS, method="constants", steps=100)
    arms |= arms_of("by last byte, longer", (5e-2,), SEEDS, method="by last byte", steps=100)
    return arms | arms_of("coin", (3e-3,), SEEDS, **R8, reward="coin")


REWARD_ARMS = _arms()
