"""Should the prompt be masked in the loss? (the page of questions)

In the plays a line with the speaker's name stands before each speech: a short prompt and a long answer, or, for
whoever wants the names, the other way round. A byte that is not counted is still read; it is only never asked for.

The rival of "the prompt disturbs": fewer bytes to learn from. So as many bytes are left out by lot, too.
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.nb04.lab import RATE, empty_adapter
from lora_course.running.sweeps import seeded
from lora_edu.observing import SPEAKER_LINE
from lora_edu.texts import batches, load_text, spread_windows
from lora_edu.training import trainable_parameters

NAME_LINE = re.compile(rf"^{SPEAKER_LINE.pattern}\n".encode(), re.MULTILINE)  # its line end is the name's, too
MARK = 256  # added to the bytes of such lines


def marked(text: Tensor) -> Tensor:
    """The bytes (n,) as int64, with MARK added in the lines of speakers' names."""
    tokens = text.long()
    for line in NAME_LINE.finditer(bytes(text.tolist())):
        tokens[line.start() : line.end()] += MARK
    return tokens


def losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The surprise at each target in nats, (B, S). Both may carry marks."""
    logits = model(inputs % MARK)[0]
    return F.cross_entropy(logits.transpose(1, 2), targets % MARK, reduction="none")


def counted(targets: Tensor, learn: str, share: float, generator: torch.Generator) -> Tensor:
    """Which targets the loss counts, (B, S). learn: `all`, `speeches`, `names`, or `by lot`, this share of them."""
    if learn == "by lot":
        return torch.rand(targets.shape, generator=generator) < share
    names = targets >= MARK
    return {"all": torch.ones_like(names), "names": names, "speeches": ~names}[learn]


def masked_loss(learn: str, share: float = 1.0, steps: int = 60, *, seed: int = 0) -> dict:
    """Train an adapter on what the loss counts; the losses on held-out speeches and names, in nats a byte."""
    text, model = load_text("shakespeare"), empty_adapter(8, seed)
    generator = torch.Generator().manual_seed(seed)
    lot = torch.Generator().manual_seed(seed)  # its own, so that all arms draw the same windows
    optimizer = torch.optim.AdamW(trainable_parameters(model), RATE)
    for _, (inputs, targets) in zip(range(steps), batches(marked(text.train), 4, 256, generator)):  # noqa: B905
        optimizer.zero_grad()
        losses(model, inputs, targets)[counted(targets, learn, share, lot)].mean().backward()
        optimizer.step()
    return measured(model.eval(), marked(text.validation))


@torch.no_grad()
def measured(model: nn.Module, tokens: Tensor, windows: int = 32) -> dict:
    """The mean surprise on each kind of byte in so many windows of 256 bytes, and which share of them are names."""
    found = spread_windows(tokens, 256, windows).split(16)
    surprise = torch.cat([losses(model, rows[:, :-1], rows[:, 1:]) for rows in found])
    names = torch.cat([rows[:, 1:] for rows in found]) >= MARK
    means = {"speeches": surprise[~names], "names": surprise[names], "share of names": names.float()}
    return {what: round(values.mean().item(), 4) for what, values in means.items()}


# The shares by lot are those that names and speeches have of the plays, which a test counts.
MASK_ARMS = {"not trained": {"learn": "all", "steps": 0}}
for _learn, _share in (("all", 1.0), ("speeches", 1.0), ("names", 1.0), ("by lot", 0.93), ("by lot", 0.07)):
    MASK_ARMS |= seeded(f"by lot, {_share:.0%}" if _share < 1 else _learn, learn=_learn, share=_share)
