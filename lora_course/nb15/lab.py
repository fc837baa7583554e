"""What predicts forgetting? Many runs, each turned down and cut, and each measured on a new text and the old (15)

A run trains the shipped base on a new text, plays or verses. What was made of it is measured at several *points*: the
run itself, shares of its change (notebook 00's dial), and parts of its change, taken one by one. A point has three
numbers that might predict what it forgot of the old text, addresses: how far the weights moved (`norm`), what it
`learned`, and how far its guesses on the *new* text moved, a KL. Points of one run are kin: only runs are independent.

A KL has a direction, and is read on a text. `kl` is KL(trained || base) on the new text, the guesses weighted by what
the trained model thinks likely; `kl_back` is KL(base || trained) there. `kl_old` and `kl_old_back` are read on
addresses, where the forgetting happens, so they are no prediction.
"""

import functools

import torch
from torch import Tensor, nn

from lora_course.nb01.lab import with_changes
from lora_course.nb10.lab import block_weights
from lora_course.running.finetune import fine_tune, prepared
from lora_course.running.sweeps import SEEDS, arms_of
from lora_edu import GPT, load_base, load_text
from lora_edu.calibration import one_temperature
from lora_edu.measures import divergence
from lora_edu.texts import spread_windows

NEW, VERSES, OLD = "shakespeare", "king-james", "speeches"
WINDOWS = 32  # of each text
STRONGEST, SIMILAR = 10, 0.5  # of Shuttleworth et al.: candidates of a matrix, and the cosine of an old direction
DIAL = (0.75, 0.5, 0.25)

# --- one point -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_probs(model: nn.Module, windows: Tensor) -> Tensor:
    """What a model gives each byte at each place: (n, seq + 1) -> (n, seq, 256)."""
    return torch.cat([model(some[:, :-1])[0].log_softmax(-1) for some in windows.split(4)])


@functools.lru_cache(maxsize=2)
def of_the_base(text: str) -> tuple[Tensor, Tensor]:
    """Windows of a text, and the log probabilities of the base there."""
    base = load_base("laptop", device="cpu").eval()
    windows = spread_windows(load_text(text).validation, base.config.context, WINDOWS)
    return windows, log_probs(base, windows)


def looked_at(model: nn.Module, new: str) -> dict[str, float]:
    """A point: learned and forgotten, in nats a byte and in bytes of which the favorite is right (%); four KLs."""
    found: dict = {}
    for text, gain, kl in ((new, "learned", "kl"), (OLD, "forgotten", "kl_old")):
        windows, p = of_the_base(text)
        q, sign = log_probs(model, windows), 1 if gain == "learned" else -1
        won = (q - p).gather(-1, windows[:, 1:, None]).mean()
        hits = [(each.argmax(-1) == windows[:, 1:]).float().mean() for each in (p, q)]
        found |= {gain: sign * won, f"{gain}_hits": 100 * sign * (hits[1] - hits[0])}
        found |= {kl: divergence(q, p).mean(), f"{kl}_back": divergence(p, q).mean()}
    return {name: round(value.item(), 5) for name, value in found.items()}


def trained_values(model: GPT) -> dict[str, torch.Tensor]:
    """Copies of all that is trained, by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def turn(model: GPT, start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], share: float) -> None:
    """Set the model to its start plus a share of its change: of weights, or, with adapters, of the updates s B A."""
    for name, value in model.named_parameters():
        if name.endswith("lora_B") and name in end:
            value.copy_(share * end[name])  # A as it was trained: B A is what is scaled
        elif name in end and not name.endswith("lora_A"):
            value.copy_(start[name] + share * (end[name] - start[name]))


# --- parts of an update ----------------------------------------------------------------------------------------------


def cosines(W: Tensor, dW: Tensor, strongest: int = 10) -> Tensor:
    """(strongest, d): of each strong direction of W + dW the cosines to those of W, W's strongest first."""
    own, U = (torch.linalg.svd(M, full_matrices=False)[0] for M in (W, W + dW))
    return (U[:, :strongest].T @ own).abs()


def along_intruders(W: Tensor, dW: Tensor) -> Tensor:
    """What dW writes along intruders, the strong directions of W + dW that are none of W's: (d_out, d_in)."""
    U = torch.linalg.svd(W + dW, full_matrices=False)[0][:, :STRONGEST]
    U = U[:, cosines(W, dW, STRONGEST).amax(dim=1) < SIMILAR]
    return U @ (U.T @ dW)


def components(W: Tensor, dW: Tensor, rank: int = 8) -> Tensor:
    """The part of dW of this rank that is nearest to it."""
    U, S, Vt = torch.linalg.svd(dW, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def shrunk(W: Tensor, dW: Tensor) -> Tensor:
    """All of dW, at the norm of its components."""
    return dW * (components(W, dW).norm() / dW.norm())


CUTS = {
    "blocks alone": lambda W, dW: dW,  # without what embeddings and norms learned
    "its 8 components": components,
    "shrunk to their norm": shrunk,
    "without intruders": lambda W, dW: dW - along_intruders(W, dW),
    "half of intruders": lambda W, dW: dW - 0.5 * along_intruders(W, dW),
    "3/4 of the rest": lambda W, dW: 0.75 * dW + 0.25 * along_intruders(W, dW),
    "half of the rest": lambda W, dW: 0.5 * dW + 0.5 * along_intruders(W, dW),
}
LORAS, FULLS = tuple(CUTS)[3:], tuple(CUTS)[:3]  # which are made of runs with adapters, and of full fine-tuning


def share_of_norm(some: dict[str, Tensor], of: dict[str, Tensor]) -> float:
    """The norm of all matrices together, as a share of that of others."""
    one, other = (sum(float(m.square().sum()) for m in side.values()) for side in (some, of))
    return (one / other) ** 0.5


# --- one arm ---------------------------------------------------------------------------------------------------------


def forgetting_arm(
    method: str, lr: float, *, rank=8, steps=100, text=NEW, dial=DIAL, cuts=(), calibrate=False, seed=0, progress=True
) -> dict:
    """Train the base in one way, and look at each point: "1", the run itself, shares of it by the dial, and `cuts`.

    method: as for `prepared`, or "bias", which trains nothing and gives e and E the number `lr` more. text: what is
    new. cuts: some of CUTS, made of what the matrices of the blocks learned. calibrate: for plays and addresses also
    the best temperature, the loss without it and with it.
    `norm` is that of all changes in these matrices, as a share of theirs.
    """
    base = load_base("laptop", device="cpu")
    if method == "bias":
        return {"points": {"1": {"norm": 0.0} | looked_at(with_bias(base, lr), text)}}
    model, before = prepared(base, method, rank, seed), block_weights(load_base("laptop", device="cpu"))
    start = trained_values(model)
    fine_tune(model, steps, lr, seed, load_text(text), progress=progress)
    end, updates = trained_values(model), {path: W - before[path] for path, W in block_weights(model).items()}
    norm, points, result = share_of_norm(updates, before), {}, {}
    for share in (1.0, *dial):
        turn(model, start, end, share)
        points[f"{share:g}"] = {"norm": round(share * norm, 5)} | looked_at(model, text)
    for name in cuts:
        changes = {path: CUTS[name](before[path], dW) for path, dW in updates.items()}
        cut = with_changes(load_base("laptop", device="cpu"), changes)
        points[name] = {"norm": round(share_of_norm(changes, before), 5)} | looked_at(cut, text)
    if calibrate:
        turn(model, start, end, 1.0)
        result["confidence"] = confidence_of(model)
    return {"points": points} | result


def confidence_of(model: GPT) -> dict[str, list[float]]:
    """Text -> the best temperature, the loss without it and with it."""
    found = {text: one_temperature(model, load_text(text).validation, max_windows=WINDOWS) for text in (NEW, OLD)}
    return {text: [round(value, 5) for value in values] for text, values in found.items()}


def with_bias(model: GPT, bias: float) -> GPT:
    """The model with one number more, on the logits of e and E: notebook 16's rival. In place."""
    added = torch.zeros(model.config.vocab_size)
    added[[ord("e"), ord("E")]] = bias
    model.lm_head.bias = nn.Parameter(added, requires_grad=False)
    return model


# --- the arms --------------------------------------------------------------------------------------------------------

LORA: dict = {"method": "lora", "rank": 8}
FULL: dict = {"method": "full"}
SHORT = ("full", 2e-3, 20), ("full", 4e-3, 10), ("lora r8", 5e-2, 20)  # hot and short: way, rate, steps
BRIEF = ("lora r8", 1e-2, 20), ("full", 1e-3, 20), *SHORT

FORGETTING_ARMS: dict[str, dict] = {}
for _seed in SEEDS:
    FORGETTING_ARMS |= arms_of("lora r8", (3e-3,), (_seed,), **LORA) | arms_of("full", (3e-4, 2e-3), (_seed,), **FULL)
    for _way, _lr, _steps in BRIEF:
        FORGETTING_ARMS |= arms_of(_way, (_lr,), (_seed,), **(FULL if _way == "full" else LORA), steps=_steps)
FORGETTING_ARMS |= (
    arms_of("lora r8", (1e-2,), SEEDS, **LORA, calibrate=True, cuts=LORAS)  # of these two more is measured
    | arms_of("full", (1e-3,), SEEDS, **FULL, calibrate=True, cuts=FULLS)
    | arms_of("lora r1", (2e-2,), SEEDS, method="lora", rank=1)
    | arms_of("lora r64", (3e-3,), SEEDS, method="lora", rank=64)
    | arms_of("verses, lora r8", (1e-2,), **LORA, text=VERSES)
    | arms_of("verses, full", (1e-3,), **FULL, text=VERSES)
    | {f"bias {bias:g}": {"method": "bias", "lr": bias} for bias in (-1.0, -3.0, -5.0)}
)
