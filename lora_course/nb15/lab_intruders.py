"""Intruders: strong directions of the trained weight that the pretrained one does not have (notebook 15)

Shuttleworth et al. 2024, arXiv 2410.21228, look at the ten strongest left singular vectors of W' = W + dW and call one
an intruder if none of W's has a cosine to it of a threshold or more. Two kinds of arms, of runs of `nb10_directions`:

    cosines         the nearest cosine of each candidate: of the update, and of two controls of its norm. How many lie
                    below a threshold is counted later, at any threshold
    cuts            what both losses do when the intruders are scaled down, beside other cuts
"""

import torch
from torch import Tensor

from lora_course.nb01.lab import with_changes
from lora_course.nb10.lab import block_weights, share_of_norm
from lora_course.nb10.lab_directions import Updates, trained
from lora_course.running.finetune import both_losses
from lora_course.running.sweeps import seeded
from lora_edu.models.base import load_base

STRONGEST, OLD = 10, 0.5  # the paper's: candidates of a matrix, and the cosine from which on a direction is old

# --- how many --------------------------------------------------------------------------------------------------------


def cosines(W: Tensor, dW: Tensor, strongest: int = 10) -> Tensor:
    """(strongest, d): of each strong direction of W + dW the cosines to those of W, W's strongest first."""
    own, U = (torch.linalg.svd(M, full_matrices=False)[0] for M in (W, W + dW))
    return (U[:, :strongest].T @ own).abs()


def nearest(W: Tensor, dW: Tensor) -> Tensor:
    """(10,): the largest of them for each."""
    return cosines(W, dW).amax(dim=1)


def nearest_of_all(way: str, *, seed: int = 0) -> dict[str, float | list[float]]:
    """The nearest cosines of all matrices together, ten each, in order: of the updates of one run, and of controls.

    "turned": the same strengths in random directions. "spread": the same norm, over all components alike.
    """
    weights, updates = block_weights(load_base("laptop", device="cpu")), trained(way, seed)
    generator = torch.Generator().manual_seed(seed)
    sides = {
        "trained": updates,
        "turned": {path: at_random(dW, torch.linalg.svdvals(dW), generator) for path, dW in updates.items()},
        "spread": {path: at_random(dW, alike(dW), generator) for path, dW in updates.items()},
    }
    found = {
        name: torch.cat([nearest(weights[path], dW) for path, dW in side.items()]).sort().values
        for name, side in sides.items()
    }
    rounded = {name: [round(value, 4) for value in side.tolist()] for name, side in found.items()}
    return {"norm": round(share_of_norm(updates, weights), 5), **rounded}


def at_random(like: Tensor, strengths: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix of the shape of another one, with these singular values, in directions drawn at random."""
    left, right = (random_directions(side, len(strengths), generator) for side in like.shape)
    return (left * strengths) @ right.T


def alike(dW: Tensor) -> Tensor:
    """As many singular values as it has, all equal, of the same norm."""
    count = min(dW.shape)
    return dW.norm() / count**0.5 * torch.ones(count)


def random_directions(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(size, count): columns of length 1, at right angles."""
    return torch.linalg.qr(torch.randn(size, count, generator=generator))[0]


# --- cut down --------------------------------------------------------------------------------------------------------

CUTS = (0.1, 0.25, 0.5)  # shares of an intruder that are taken away
IN_DW = (0.25, 0.5, 1.0)  # shares of what dW alone writes along them
DIAL = (0.9, 0.75, 0.5)  # what is left of the whole of dW


def cut_losses(way: str, *, seed: int = 0) -> dict:
    """Both losses of a run, and [plays, addresses, norm taken away as a share of that of dW] after each cut.

    "intruders": they are scaled down, as in the paper. "old directions": by the same norm, the other strong components
    of W'. "... in dW": what dW alone writes along them; W keeps its own part. "dial": the whole of dW.
    """
    weights, updates = block_weights(load_base("laptop", device="cpu")), trained(way, seed)
    parts = {path: intruders(weights[path], dW) for path, dW in updates.items()}
    cuts: dict[str, Updates] = {
        f"intruders, {share:g}": {path: share * new for path, (new, _) in parts.items()} for share in CUTS
    }
    cuts["old directions, 0.25"] = {path: to_norm(old, 0.25 * new) for path, (new, old) in parts.items()}
    inner = {path: along(weights[path], dW) for path, dW in updates.items()}
    cuts |= {f"intruders in dW, {share:g}": {path: share * new for path, (new, _) in inner.items()} for share in IN_DW}
    cuts["old directions in dW, 1"] = {path: to_norm(old, new) for path, (new, old) in inner.items()}
    cuts |= {f"dial, {kept:g}": {path: (1 - kept) * dW for path, dW in updates.items()} for kept in DIAL}
    return {"losses": losses(updates), "cuts": {name: _after(updates, cut) for name, cut in cuts.items()}}


def strongest(W: Tensor, dW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U (d_out, 10), S (10,) and Vt (10, d_in) of the strongest components of W' = W + dW, and which are new (10,)."""
    U, S, Vt = torch.linalg.svd(W + dW, full_matrices=False)
    return U[:, :STRONGEST], S[:STRONGEST], Vt[:STRONGEST], nearest(W, dW) < OLD


def intruders(W: Tensor, dW: Tensor) -> tuple[Tensor, Tensor]:
    """The components among them that are new, and those that are not: two (d_out, d_in)."""
    U, S, Vt, new = strongest(W, dW)
    return tuple((U[:, which] * S[which]) @ Vt[which] for which in (new, ~new))


def along(W: Tensor, dW: Tensor) -> tuple[Tensor, Tensor]:
    """What dW alone writes along the new ones, and along the others: two (d_out, d_in)."""
    U, _, _, new = strongest(W, dW)
    return tuple(U[:, which] @ (U[:, which].T @ dW) for which in (new, ~new))


def to_norm(matrix: Tensor, like: Tensor) -> Tensor:
    """The matrix, scaled down to the norm of another one; never scaled up."""
    return matrix * min(1.0, like.norm().item() / max(matrix.norm().item(), 1e-12))


def losses(updates: Updates) -> list[float]:
    """The loss on plays and on addresses of the base with these updates."""
    return list(both_losses(with_changes(load_base("laptop", device="cpu"), updates)).values())


def _after(updates: Updates, cut: Updates) -> list[float]:
    left = {path: dW - cut[path] for path, dW in updates.items()}
    return [*losses(left), round(share_of_norm(cut, updates), 4)]


# --- arms ------------------------------------------------------------------------------------------------------------


def intruder_arm(way: str, cuts: bool = False, *, seed: int = 0) -> dict:
    """An arm of the experiment: count, or cut down."""
    return (cut_losses if cuts else nearest_of_all)(way, seed=seed)


INTRUDER_ARMS = seeded("cuts of lora r8", way="lora r8", cuts=True)
for _way in ("lora r8", "full"):
    INTRUDER_ARMS |= seeded(f"cosines of {_way}", way=_way)
