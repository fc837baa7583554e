"""An adapter of SmolLM2 on the base it was trained on and on others: notebook 09's question, asked of a real model."""

from torch import nn

from lora_course.nb09.lab import redrawn
from lora_course.nb12.lab import STEPS, adapt, loaded
from lora_edu import evaluate
from lora_edu.models.pretrained import next_token_loss

AS_LOADED, OWN = "as loaded", "NF4"
DRAWS = {f"columns permuted, seed {seed}": seed for seed in range(6)}  # each another draw of NF4
SERVED_ARMS = {
    "no adapter": {"trained_on": AS_LOADED, "steps": 0},
    "QLoRA": {"trained_on": OWN},
    "LoRA": {"trained_on": AS_LOADED},
}


def served(trained_on: str, steps: int = STEPS, *, windows: int = 8, seed=0, progress=True) -> dict[str, float]:
    """Train an adapter on the Bible as `adapted` does, over one base, and measure it on every base: nats per token.

    trained_on: as loaded, or in NF4. Every base is kept decoded, in 32 bits: the arithmetic of QLoRA.
    """
    model, _, bible, _ = loaded()
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().clone() for layer in layers]

    def put(draw: str) -> None:
        for layer, weight in zip(layers, weights, strict=True):  # an adapter may stand around it
            layer.weight.data = weight if draw == AS_LOADED else redrawn(weight, 0, DRAWS.get(draw))

    put(trained_on)
    if steps:
        adapt(model, bible, steps, seed, progress)
    found = {}
    for draw in (AS_LOADED, OWN, *DRAWS):
        put(draw)
        how = {"seq_len": 256, "max_windows": windows, "batch_size": 2, "loss_fn": next_token_loss}
        found[draw] = round(evaluate(model, bible.validation, **how), 5)
    return found
