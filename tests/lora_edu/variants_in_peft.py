"""The variants beside PEFT's, on one small model: outputs, merged weights, and the saved file (test_variants.py).

What is trained is handed over; what is not, as VeRA's random pair and PiSSA's base, each library makes by itself.
"""

import copy
import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_course.running import libraries
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import adapter_state, add_lora, combine, load_adapter_state, lora_layers, merge
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS, save_adapter
from lora_edu.variants import add_variant

RANK, ALPHA, TARGETS = 4, 6, ("q_proj", "up_proj", "down_proj")  # of three shapes
OPTIONS = {
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "VeRA": {"save_projection": False},  # the pair is drawn from the seed, and not in the file
}
SETTINGS = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "fan_in_fan_out", "bias")
TOKENS = torch.arange(20)[None]


def compare() -> dict[tuple[str, str], bool]:
    """(variant, what is compared) -> whether it is equal, up to rounding. Both get the same trained numbers.

    VeRA has no "saved file": PEFT's are of another type, which `save_adapter` does not write.
    """
    equal = {}
    with libraries.quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for variant in OPTIONS:
            base = small_base()
            theirs, ours = peft_model(copy.deepcopy(base), variant), add_variant(base, variant, RANK, ALPHA, TARGETS)
            close = {"outputs at the start": _close(theirs(TOKENS), ours(TOKENS)[0])}
            place = Path(folder) / variant
            hand_over(ours, theirs)
            theirs.save_pretrained(place / "start")
            start = adapter_state(ours)
            move(ours)
            hand_over(ours, theirs)
            close["outputs"] = _close(theirs.eval()(TOKENS), ours(TOKENS)[0])
            close["merged weights"] = same_merged(ours, theirs)
            converted = {"path_initial_model_for_weight_conversion": str(place / "start")} if variant == "PiSSA" else {}
            theirs.save_pretrained(place / "theirs", **converted)
            if variant != "VeRA":
                save_adapter(plain(adapter_state(ours), start) if converted else ours, place / "ours")
                close["saved file"] = same_file(place / "ours", place / "theirs")
            equal |= {(variant, what): answer for what, answer in close.items()}
    return equal


class LogitsOnly(nn.Module):
    """PEFT wants a model with a config that behaves like a dictionary."""

    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt, self.config = gpt, {"model_type": "custom"}

    def forward(self, tokens: Tensor) -> Tensor:
        return self.gpt(tokens)[0]


def small_base() -> GPT:
    """A GPT whose weights and biases are large enough that leaving one out shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(GPTConfig(context=32, n_layers=2, n_heads=2, d_model=16)).eval()
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.normal_(module.bias, std=0.5)
                module.weight.data *= 10
    return model


def peft_model(base: GPT, variant: str) -> nn.Module:
    from peft import LoraConfig, VeraConfig, get_peft_model

    kind = VeraConfig if variant == "VeRA" else partial(LoraConfig, lora_alpha=ALPHA)
    return get_peft_model(LogitsOnly(base), kind(r=RANK, target_modules=list(TARGETS), **OPTIONS[variant]))


def inner(theirs: nn.Module) -> dict[str, nn.Module]:
    """The modules of PEFT's model, by our paths."""
    return dict(theirs.base_model.model.gpt.named_modules())


def hand_over(ours: nn.Module, theirs: nn.Module) -> None:
    """Give PEFT's model what ours trains."""
    for path, layer in lora_layers(ours).items():
        other = inner(theirs)[path]
        if hasattr(layer, "vera_d"):  # and not the random pair
            other.vera_lambda_d["default"].data.copy_(layer.vera_d)
            other.vera_lambda_b["default"].data.copy_(layer.vera_b)
            continue
        other.lora_A["default"].weight.data.copy_(layer.lora_A)
        other.lora_B["default"].weight.data.copy_(layer.lora_B)
        if hasattr(layer, "magnitude"):
            other.lora_magnitude_vector["default"].weight.data.copy_(layer.magnitude)


def move(model: nn.Module) -> None:
    """Give all that is trained other values, as training does."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def plain(now: dict[str, Tensor], start: dict[str, Tensor]) -> nn.Module:
    """What PiSSA learned, on the unchanged base."""
    model = add_lora(small_base(), 2 * RANK, 2 * ALPHA, TARGETS)
    return load_adapter_state(model, combine([now, start], [1, -1]))


def same_merged(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether both merge into the same weights. Neither model is merged afterwards."""
    merged = merge(copy.deepcopy(ours))
    theirs.merge_adapter()
    pairs = [(inner(theirs)[path].base_layer.weight, layer.base.weight) for path, layer in lora_layers(merged).items()]
    equal = all(_close(*pair) for pair in pairs)
    theirs.unmerge_adapter()
    return equal


def same_file(ours: Path, theirs: Path) -> bool:
    """The same settings, the same names, the same numbers up to rounding. PEFT's model holds ours as `gpt`."""
    mine = {name.replace(PREFIX, f"{PREFIX}gpt."): tensor for name, tensor in load_file(ours / WEIGHTS).items()}
    other = load_file(theirs / WEIGHTS)
    if settings(ours) != settings(theirs) or mine.keys() != other.keys():
        return False
    return all(_close(mine[name], other[name]) for name in mine)


def settings(folder: Path) -> dict:
    """What the file says of how its numbers are used. A setting that is not there is off."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("use_rslora"):  # the same strength without the flag, which some programs do not read
        config |= {"use_rslora": False, "lora_alpha": config["lora_alpha"] * config["r"] ** 0.5}
    return {name: config.get(name) or False for name in SETTINGS} | {"target_modules": set(config["target_modules"])}


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-5)
