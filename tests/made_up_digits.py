"""What notebook 02 draws of a network that was never trained: digits, their labels, and an outcome for each rank."""

import numpy as np

from lora_course.nb02.lab import AS_TRAINED, STRONGEST, Outcome

LABELS = [3, 1, 4]
DIGITS = np.random.default_rng(0).uniform(-1, 1, size=(3, 64))


def made_up(rank):
    rng = np.random.default_rng(rank)
    kinds = (AS_TRAINED, STRONGEST) if rank else ()
    return Outcome(
        rows={kind: rng.normal(size=(rank, 64)) for kind in kinds},
        responses={kind: rng.normal(size=(rank, 10)) for kind in kinds},
        shares=np.array([0.9, 0.09, 0.01])[:rank],
        new=0.1 + 0.2 * rank,
        given=np.array([3, 1, 9 if rank < 2 else 4]),
    )
