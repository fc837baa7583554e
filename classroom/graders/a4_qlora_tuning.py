"""4.6: a small fine-tune, written in three ways."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.assignments.qlora_pieces import FrozenLinear


class LoRA(nn.Module):
    def __init__(self, base, rank, scaling):
        super().__init__()
        self.base, self.scaling = base, scaling
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


def reference(c):
    def fine_tune(model, tokens, answers, rank, alpha, steps, seed):
        torch.manual_seed(seed)
        model.requires_grad_(False)
        model.up = LoRA(model.up, rank, alpha / rank**c.power)
        model.down = LoRA(model.down, rank, alpha / rank**c.power)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for _ in range(steps):
            loss = F.cross_entropy(model(tokens), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model

    return fine_tune


def with_hooks(c):
    """The layers stay, and get parameters and a hook; batches are drawn with a generator; momentum in place of Adam."""

    def fine_tune(model, tokens, answers, rank, alpha, steps, seed, lr=0.05):
        generator = torch.Generator().manual_seed(seed)
        for value in model.parameters():
            value.requires_grad = False
        for layer in [module for module in model.modules() if isinstance(module, FrozenLinear)]:
            layer.lora_A = nn.Parameter(
                torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
            )
            layer.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
            layer.register_forward_hook(
                lambda layer, inputs, y: y + alpha / rank**c.power * (inputs[0] @ layer.lora_A.T) @ layer.lora_B.T
            )
        adapters = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.SGD(adapters, lr=lr, momentum=0.95)
        for _ in range(steps):
            batch = torch.randperm(len(tokens), generator=generator)[:384]
            optimizer.zero_grad()
            F.cross_entropy(model(tokens[batch]), answers[batch]).backward()
            torch.nn.utils.clip_grad_norm_(adapters, 1.0)
            optimizer.step()
        return model

    return fine_tune


def by_hand(c):
    """A deep copy, a subclass in place of a wrapper, and Adam written out."""

    class Widened(FrozenLinear):
        def forward(self, x):
            low = torch.einsum("...i,ri->...r", x, self.lora_A)
            return super().forward(x) + self.scaling * torch.einsum("...r,or->...o", low, self.lora_B)

    def fine_tune(model, tokens, answers, rank, alpha, steps, seed):
        model = copy.deepcopy(model).requires_grad_(False)
        torch.manual_seed(seed)
        for name in ("up", "down"):
            layer = getattr(model, name)
            layer.__class__, layer.scaling = Widened, alpha / rank**c.power
            layer.register_parameter("lora_A", nn.Parameter(torch.randn(rank, layer.in_features) * 0.2))
            layer.register_parameter("lora_B", nn.Parameter(torch.zeros(layer.out_features, rank)))
        adapters = [value for name, value in model.named_parameters() if "lora_" in name]
        means = [(torch.zeros_like(value), torch.zeros_like(value)) for value in adapters]
        for step in range(1, steps + 1):
            gradients = torch.autograd.grad(F.cross_entropy(model(tokens), answers), adapters)
            with torch.no_grad():
                for value, grad, (m, v) in zip(adapters, gradients, means, strict=True):
                    m.lerp_(grad, 0.1)
                    v.lerp_(grad**2, 0.01)
                    value -= 0.015 * m / (1 - 0.9**step) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        return model

    return fine_tune
