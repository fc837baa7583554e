"""Exercise 4.1: what is left of an update that is merged into a rounded weight and rounded again."""

import numpy as np
import torch
import torch.nn.functional as F

from classroom.solutions import Solutions, Wrong
from lora_edu.assignments.core import Constants
from lora_edu.measures import relative_error


def left_over(
    c: Constants, W, A, B, alpha, trip, scaling=None, base=None, measured_from=None, guarded=True, last=None,
) -> tuple:  # fmt: skip
    """-> (cosine, stray, moved), with one mistake at a time. last: makes others of them, with both updates at hand."""
    rounded = trip(W)
    learned = (alpha / len(A) ** c.power if scaling is None else scaling(alpha, len(A))) * B @ A
    merged = trip((W if base == "unrounded" else rounded) + learned)
    effective = merged - (W if measured_from == "unrounded" else rounded)
    norms = effective.norm() * learned.norm()
    cosine = (effective * learned).sum() / norms if norms > 0 or not guarded else 0.0
    found = cosine, (effective - learned).norm() / learned.norm(), (effective != 0).float().mean()
    return last(*found, effective, learned) if last else found


def with_(**changes):
    return lambda c: lambda *case: left_over(c, *case, **changes)


def in_numpy(c):
    def surviving_update(W, lora_A, lora_B, alpha, round_trip):
        base = round_trip(W)
        scaling = alpha / lora_A.shape[0] ** c.power
        learned = scaling * np.einsum("or,ri->oi", lora_B.numpy(), lora_A.numpy())
        effective = (round_trip(base + torch.from_numpy(learned)) - base).numpy().ravel()
        learned = learned.ravel()
        length = np.linalg.norm(effective)
        cosine = effective @ learned / length / np.linalg.norm(learned) if length else 0
        return float(cosine), np.linalg.norm(effective - learned) / np.linalg.norm(learned), np.mean(effective != 0)

    return surviving_update


def with_the_package(c):
    """The package's measure is allowed: it is not what is asked."""

    def surviving_update(W, lora_A, lora_B, alpha, round_trip):
        base = round_trip(W)
        learned = alpha / lora_A.size(0) ** c.power * (lora_B @ lora_A)
        effective = round_trip(base + learned).sub(base)
        unit = F.normalize(torch.stack([effective.flatten(), learned.flatten()]), dim=1)
        return torch.stack(
            [unit[0] @ unit[1], torch.tensor(relative_error(learned, effective)), effective.bool().float().mean()]
        )

    return surviving_update


MERGE, SCALING = "notebook 04, section 6", "notebook 04, section 1"
BASE = "notebook 09, section 7"

SURVIVING_UPDATE = Solutions(
    reference=with_(),
    right={"NumPy": in_numpy, "with the package's relative_error": with_the_package},
    wrong=[
        Wrong("alpha alone", with_(scaling=lambda alpha, r: alpha), 0,
              "the update is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        Wrong("alpha / rank", with_(scaling=lambda alpha, r: alpha / r), 0,
              "the update is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent "
              "c.power.", SCALING),
        Wrong("scaling left out", with_(scaling=lambda alpha, r: 1.0), 0,
              "the update is not scaled. It is B A times alpha / rank**c.power.", SCALING),
        Wrong("merged into the unrounded weight", with_(base="unrounded"), 0,
              "the update is merged into the unrounded W. It was learned on top of the rounded weight and belongs "
              "there.", BASE),
        Wrong("never rounded first", with_(base="unrounded", measured_from="unrounded"), 0,
              "the update is merged into W, and measured from W. It was learned on top of round_trip(W): start there.",
              BASE),
        Wrong("compared with the unrounded weight", with_(measured_from="unrounded"), 0,
              "this measures from the unrounded W, and so counts the error of the first rounding as well. Measure from "
              "what the " "adapter was trained on.", "notebook 07, exercise 7.4"),
        Wrong("0 / 0", with_(guarded=False), 2,
              "if nothing has moved, the cosine is 0 / 0, NaN (not a number). What survives is nothing: give 0.",
              "notebook 07, exercise 7.4"),
        Wrong("share that stayed", with_(last=lambda k, s, m, e, u: (k, s, 1 - m)), 2,
              "this is the share of the weights that stayed. Which share has moved?", MERGE),
        Wrong("largest error", with_(last=lambda k, s, m, e, u: (k, (e - u).abs().max() / u.abs().max(), m)), 2,
              "this is the largest error over the largest change. One weight says little of the others: take Frobenius "
              "norms.", "notebook 05, section 1"),
        Wrong("divided by the wrong norm",
              with_(last=lambda k, s, m, e, u: (k, (e - u).norm() / e.norm().clamp(min=1e-30), m)), 2,
              "this divides by the norm of what arrived. What should have arrived is the learned update: divide by its "
              "norm.", MERGE),
    ],
)  # fmt: skip
