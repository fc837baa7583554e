"""The two sides of `benchmarks/gpu.py`: one model, quantized and adapted by this course, and by PEFT + bitsandbytes."""

import copy
from dataclasses import dataclass

import torch
from measuring import LINEARS, bitsandbytes_linears
from peft import LoraConfig, get_peft_model
from quantize_speed import SIZES as LAYER_SIZES
from torch import Tensor, nn

from lora_edu import GPT, GPTConfig, add_lora, load_text, quantize_linears
from lora_edu.lora import lora_layers
from lora_edu.models.base import SIZES
from lora_edu.texts import batches
from lora_edu.training import trainable_parameters, training_step

OURS, THEIRS = "this course", "PEFT + bitsandbytes"
COMPILED = ", compiled"


@dataclass(frozen=True)
class Setting:
    """What is measured. The defaults are the fine-tuning of notebook 09 with `size = "gpu"`."""

    device: str = "cuda"
    config: GPTConfig = SIZES["gpu"].config
    batch_size: int = 32
    rank: int = 8
    alpha: int = 16
    rounds: int = 15
    steps_a_round: int = 5
    backend: str = "inductor"
    layers: tuple[tuple[int, int], ...] = LAYER_SIZES

    @property
    def tokens(self) -> int:
        """In one step."""
        return self.batch_size * self.config.context


TINY = Setting("cpu", GPTConfig(context=64, n_layers=2, n_heads=2, d_model=64), 4, 4, 8, 2, 1, "aot_eager", ((128, 1),))


def build_ours(setting: Setting, base: GPT) -> nn.Module:
    """The base in NF4, with adapters."""
    torch.manual_seed(1)
    model = quantize_linears(copy.deepcopy(base).to(setting.device), double_quant=True)
    return add_lora(model, setting.rank, setting.alpha, "all-linear").train()


def build_theirs(setting: Setting, base: GPT) -> nn.Module:
    """The same base through bitsandbytes and PEFT. The product is in bfloat16, as autocast has it on our side."""
    torch.manual_seed(1)
    model = bitsandbytes_linears(copy.deepcopy(base).requires_grad_(False), torch.bfloat16).to(setting.device)
    adapters = LoraConfig(r=setting.rank, lora_alpha=setting.alpha, target_modules=LINEARS, lora_dropout=0.0)
    return get_peft_model(model, adapters).train()


def compiled(setting: Setting, model: nn.Module) -> nn.Module:
    """The model behind torch.compile; it is compiled at its first call, and may fail there.

    bitsandbytes' layer is compiled in pieces, anew for each layer. By default torch gives up after eight and runs the
    rest without the compiler; here neither side is stopped.
    """
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(model, backend=setting.backend, dynamic=False)


BUILDERS = {OURS: build_ours, THEIRS: build_theirs}


@torch.no_grad()
def same_start(ours: nn.Module, theirs: nn.Module) -> None:
    """Give their adapters the random A of ours; B is zero on both sides."""
    for path, layer in lora_layers(ours).items():
        theirs.get_submodule(f"base_model.model.{path}").lora_A["default"].weight.copy_(layer.lora_A)


class Trainer:
    """Takes training steps with one model, always on the same sequence of batches; keeps the losses."""

    def __init__(self, setting: Setting, model: nn.Module):
        self.setting, self.model, self.losses = setting, model, []
        self.optimizer = torch.optim.AdamW(trainable_parameters(model), lr=1e-3)
        generator = torch.Generator().manual_seed(0)  # on the CPU, where the text is
        self.batches = batches(load_text("shakespeare").train, setting.batch_size, setting.config.context, generator)

    def draw(self) -> tuple[Tensor, Tensor]:
        """The next batch, on the device: inputs and targets, each (batch_size, context)."""
        inputs, targets = (part.to(self.setting.device).contiguous() for part in next(self.batches))
        return inputs, targets

    def step(self, batch: tuple[Tensor, Tensor] | None = None) -> None:
        """One training step; it ends with the loss on the host, so the GPU is done with the forward pass."""
        inputs, targets = batch or self.draw()
        self.losses.append(training_step(self.model, inputs, targets, self.optimizer, autocast=True))


def check_same_losses(trainers: dict[str, Trainer], tolerance: float = 0.02) -> str:
    """Raise RuntimeError unless all of them saw the same losses: else their times are not about the same work."""
    steps = min(20, *(len(trainer.losses) for trainer in trainers.values()))
    reference = torch.tensor(trainers[OURS].losses[:steps])
    worst = 0.0
    for name, trainer in trainers.items():
        apart = ((torch.tensor(trainer.losses[:steps]) - reference) / reference).abs().max().item()
        if not apart <= tolerance:  # NaN neither
            raise RuntimeError(f"{name} does not train what {OURS} trains: the losses differ by {apart:.1%}")
        worst = max(worst, apart)
    return (
        f"Control: the losses of the first {steps} steps agree within {worst:.2%} "
        f"({reference[0]:.3f} nats at the first step, {reference[-1]:.3f} at the last)."
    )
