"""What do many adapters on one base cost in time? (the page of questions)

Eight people ask eight adapters of one base at once. Their rows go through the base together, and each through a pair
A, B of its own. The same rows also go through one model with one adapter, merged or apart, and row by row through
eight merged models, which is what eight merged copies would do. Counted in operations the branch is next to nothing.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from lora_course.running.timing import alternating_times
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.layers import replace_layers
from lora_edu.lora import LoRALinear, add_lora, lora_layers, merge

RANK, ADAPTERS = 8, 8


class MixedLinear(nn.Module):
    """A linear layer whose rows each have an adapter of their own: row i of the batch takes A[i] and B[i]."""

    def __init__(self, layer: LoRALinear, n: int):
        super().__init__()
        self.base, self.scaling = layer.base, layer.scaling
        self.A = torch.randn(n, *layer.lora_A.shape)  # (n, rank, in_features)
        self.B = torch.randn(n, *layer.lora_B.shape)  # (n, out_features, rank)

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, S, in_features) -> (n, S, out_features)"""
        low = torch.bmm(x, self.A.transpose(1, 2))
        return torch.baddbmm(self.base(x), low, self.B.transpose(1, 2), alpha=self.scaling)


def with_adapters(config: GPTConfig, how: str) -> GPT:
    """A model with random weights, and its adapters `apart`, `merged`, or `mixed`, one for each row."""
    model = add_lora(GPT(config), RANK, 2 * RANK, targets="all-linear").eval()
    if how == "merged":
        return merge(model)
    if how == "mixed":
        layers = lora_layers(model)
        replace_layers(model, ((path, MixedLinear(layer, ADAPTERS)) for path, layer in layers.items()))
    return model


def serving_times(width: int, tokens: int, rounds: int, *, seed: int = 0) -> dict[str, float]:
    """Milliseconds of processor time for each token, and each way's as a multiple of the merged model's in its round.

    width: of the model, which has two blocks. tokens: how many each of the eight rows has; 1 is a step of generation.
    The result is of one machine, whose name the stored file carries.
    """
    torch.manual_seed(seed)
    config = GPTConfig(n_layers=2, d_model=width, n_heads=width // 64)
    models = {how: with_adapters(config, how) for how in ("merged", "apart", "mixed")}
    rows = torch.randint(256, (ADAPTERS, tokens))
    tasks: dict[str, Callable] = {how: lambda model=model: model(rows) for how, model in models.items()}
    tasks["one by one"] = lambda: [models["merged"](row[None]) for row in rows]
    with torch.inference_mode():
        times = alternating_times(tasks, rounds, time.process_time)
    found = {"merged, ms a token": 1000 * median(times["merged"]) / rows.numel()}
    for how in ("apart", "mixed", "one by one"):
        ratios = sorted(mine / base for mine, base in zip(times[how], times["merged"], strict=True))
        found |= {how: median(ratios), f"{how}, from": ratios[rounds // 4], f"{how}, to": ratios[-(rounds // 4) - 1]}
    return {name: round(value, 3) for name, value in found.items()} | {"threads": torch.get_num_threads()}


SERVING_ARMS = {
    f"width {width:,}, {tokens} token{'s' if tokens > 1 else ''}": {"width": width, "tokens": tokens, "rounds": rounds}
    for width, tokens, rounds in ((256, 1, 501), (1024, 1, 41), (256, 64, 31), (1024, 64, 11))
}
