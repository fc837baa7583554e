"""Is a product cheaper in low precision? Times of layers and of training steps, as multiples (notebook 13).

A count of operations cannot tell: a product takes as many in 8 bits as in 32. So it is timed. The rival of a layer in
NF4 is one that does multiply 8-bit integers, torch's `_int_mm`: it shows whether this processor has cheaper products.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lora_edu.experiments.nb08 import film_model, relative_times, stepper
from lora_edu.qlora import NF4Linear

WIDTH = 1024  # of a square layer
LAYER_TOKENS, STEP_TOKENS = (1, 256, 1024), (16, 1024)


def int8_layer(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer with 8-bit integers on both sides of its product: one constant a row of x, and one a row of W."""
    scale = linear.weight.detach().abs().amax(1) / 127
    codes = (linear.weight.detach() / scale[:, None]).round().to(torch.int8).T.contiguous()

    def forward(x: Tensor) -> Tensor:
        sizes = x.abs().amax(1, keepdim=True) / 127
        return torch._int_mm((x / sizes).round().to(torch.int8), codes) * (sizes * scale)

    return forward


def layer_times(n_tokens: int, rounds: int) -> dict[str, float]:
    """The time of a product in NF4 and in 8-bit integers, over that of the same layer in float32: medians."""
    linear, x = nn.Linear(WIDTH, WIDTH, bias=False), torch.randn(n_tokens, WIDTH)
    four_bits, eight_bits = NF4Linear.from_linear(linear), int8_layer(linear)
    tasks = {"float32": lambda: linear(x), "NF4": lambda: four_bits(x), "int8": lambda: eight_bits(x)}
    with torch.inference_mode():
        return relative_times(tasks, rounds)


def step_times(n_tokens: int, rounds: int) -> dict[str, float]:
    """The time of a QLoRA step over that of a LoRA step: the median."""
    models = {
        name: film_model(freeze=True, four_bits=name == "NF4", checkpointing=False) for name in ("float32", "NF4")
    }
    return relative_times({name: stepper(model, n_tokens) for name, model in models.items()}, rounds)


def product_times(of: str, n_tokens: int, rounds: int, *, seed: int = 0) -> dict[str, float]:
    """of: `layer` or `step`. The result is of one machine, whose name the stored file carries."""
    torch.manual_seed(seed)
    times = {"layer": layer_times, "step": step_times}[of](n_tokens, rounds)
    return {name: round(ratio, 3) for name, ratio in times.items()} | {"threads": torch.get_num_threads()}


def product_name(of: str, n_tokens: int) -> str:
    return f"{of}, {n_tokens:,} token{'s' if n_tokens > 1 else ''}"


PRODUCT_ARMS = {
    product_name(of, n): {"of": of, "n_tokens": n, "rounds": rounds}
    for of, tokens, rounds in (("layer", LAYER_TOKENS, 50), ("step", STEP_TOKENS, 15))
    for n in tokens
}
