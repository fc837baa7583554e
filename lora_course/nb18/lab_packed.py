"""Five short speeches in a step: does it cost to pack them into one row, with no mask between them? (questions.md)"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lora_course.nb18.lab import END, adam, loop, short_speeches, speeches
from lora_course.running.finetune import prepared
from lora_course.running.sweeps import SEEDS, arms_of
from lora_edu import load_base
from lora_edu.training import trainable_parameters


def rows(together: bool, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end of five speeches, one a row or all in one. Either way the same labels: none over a border."""
    for said, lengths in speeches(seed):
        said, places, lengths = said[:5], torch.arange(said.shape[1]), lengths[:5, None]
        targets = said.roll(-1, dims=1).masked_fill(places >= lengths - 1, -100)  # END is asked for, and asks nothing
        filled = places < lengths
        yield (said[filled][None], targets[filled][None]) if together else (said, targets)


def packed(together: bool, lr: float, *, seed: int = 0) -> dict[str, float]:
    """Train on such batches. Returns the loss on 64 unseen speeches with their ends, each read alone."""
    model = prepared(load_base("laptop", device="cpu"), "lora", seed=seed)
    loop(model, adam(trainable_parameters(model), lr), 60, rows(together, seed))
    unseen = [torch.tensor([[*speech, END]]) for speech in short_speeches()[-64:]]
    with torch.no_grad():
        losses = [model(row[:, :-1], row[:, 1:])[1].item() for row in unseen]
    return {"loss": round(sum(losses) / len(losses), 4)}


RATES = (6e-4, 1.25e-3, 2.5e-3, 5e-3)
PACKED_ARMS = arms_of("alone", RATES, SEEDS, together=False) | arms_of("packed", RATES, SEEDS, together=True)
