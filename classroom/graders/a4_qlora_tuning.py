"""Exercise 4.4, a small fine-tune. `tuned` is right; each of its switches turns one mistake on."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from classroom.solutions import Solutions, Wrong
from lora_edu.assignments.core import Constants
from lora_edu.assignments.qlora_pieces import FrozenLinear, FullLinear


class Adapted(nn.Module):
    """A frozen layer with a branch; the switches are mistakes."""

    def __init__(self, base, rank, scaling, A=True, B=False, dropout=0.0, on_all=False, reentrant=False):
        super().__init__()
        self.base, self.scaling, self.dropout, self.on_all, self.reentrant = base, scaling, dropout, on_all, reentrant
        d_out, d_in = base.out_features, base.in_features
        self.lora_A = nn.Parameter(torch.randn(rank, d_in) / d_in**0.5 * A)
        self.lora_B = nn.Parameter(torch.randn(d_out, rank) * 0.1 * B)

    def forward(self, x):
        if self.reentrant and self.training:
            return checkpoint(self.compute, x, use_reentrant=True)
        return self.compute(x)

    def compute(self, x):
        dropped = F.dropout(x, self.dropout)  # active in evaluation as well
        return self.base(dropped if self.on_all else x) + self.scaling * (dropped @ self.lora_A.T) @ self.lora_B.T


def tuned(
    c: Constants, model, tokens, answers, rank, alpha, steps, seed,
    names=("up", "down"), scaling=None, lr=0.01, learns=("lora_",), optimizer=torch.optim.Adam, freeze=True, **layer,
):  # fmt: skip
    """-> the model with adapters, trained."""
    if seed is not None:
        torch.manual_seed(seed)
    scaling = alpha / rank**c.power if scaling is None else scaling(alpha, rank)
    for name in names:
        setattr(model, name, Adapted(getattr(model, name), rank, scaling, **layer))
    for name, value in model.named_parameters():
        value.requires_grad_(not freeze or any(part in name for part in learns))
    return trained(model, tokens, answers, steps, optimizer([p for p in model.parameters() if p.requires_grad], lr=lr))


def trained(model, tokens, answers, steps, optimizer):
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def with_(**changes):
    return lambda c: lambda *case: tuned(c, *case, **changes)


# --- right -----------------------------------------------------------------------------------------------------------


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


# --- wrong -----------------------------------------------------------------------------------------------------------


def in_full_precision(c):
    """The 4-bit layers give way to full ones: the claim of 4 bits is empty."""

    def fine_tune(model, *others):
        for name in ("up", "down"):
            layer = getattr(model, name)
            full = FullLinear(nn.Parameter((layer.codes * layer.scale).clone()))
            full.in_features, full.out_features = layer.in_features, layer.out_features
            setattr(model, name, full)
        return tuned(c, model, *others)

    return fine_tune


def seedless(own):
    """The argument is ignored."""
    return lambda c: lambda *case: tuned(c, *case[:-1], own)


def untouched(c):
    return lambda model, *others: model.requires_grad_(False)


def untrained(c):
    return lambda model, tokens, answers, rank, alpha, steps, seed: tuned(
        c, model, tokens, answers, rank, alpha, 0, seed
    )


def reentrant(c):
    """The trap: the head is trained as well, so that nothing complains."""
    return lambda *case: tuned(c, *case, reentrant=True, learns=("lora_", "head"))


FREEZE, ATTACH = "notebook 04, section 3", "notebook 09, section 3"
START = "notebook 02, section 5"
SCALING = "notebook 04, section 1"

FINE_TUNE = Solutions(
    reference=with_(),
    right={"hooks, batches and momentum": with_hooks, "a subclass and Adam by hand": by_hand},
    wrong=[
        Wrong("nothing frozen", with_(freeze=False), 5,
              "embedding, head and biases are trained as well. Freeze everything but lora_A and lora_B.", FREEZE),
        Wrong("B random", with_(B=True), 6,
              "with steps=0 the outputs are not those of the base: B is not zero, or is trained all the same.", START),
        Wrong("both zero", with_(A=False), 3,
              "A and B are both zero, and stay so: each factor's gradient is multiplied by the other factor.", START),
        Wrong("alpha alone", with_(scaling=lambda alpha, r: alpha), 6,
              "the branch is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        Wrong("alpha / rank", with_(scaling=lambda alpha, r: alpha / r), 6,
              "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent "
              "c.power.", SCALING),
        Wrong("the seed ignored", seedless(None), 6,
              "the same seed gives another result: call torch.manual_seed(seed) before A is drawn.", ATTACH),
        Wrong("a seed of its own", seedless(0), 6,
              "another seed gives the same result: the seed is an argument, use it.", ATTACH),
        Wrong("one layer only", with_(names=("up",)), 4,
              "one layer alone has an adapter. QLoRA puts one on every 4-bit layer.", ATTACH),
        Wrong("dropout in evaluation", with_(dropout=0.05), 6,
              "the branch is not a multiple of x A^T B^T in evaluation: dropout is still active. Use nn.Dropout, or "
              "pass self.training.", "notebook 04, section 5"),
        Wrong("dropout on the base's input", with_(dropout=0.2, on_all=True), 3),
        Wrong("full fine-tuning's learning rate", with_(lr=5e-6), 5,
              "the goal is not reached, though everything else is right: the learning rate is too small for so few "
              "steps. Try larger ones, three times as large each time.", "notebook 09, section 8"),
        Wrong("not trained", untrained, 4),
        Wrong("untouched", untouched, 0),
        Wrong("in full precision", in_full_precision, 5,
              "the 4-bit layers are gone: the weights lie in memory in full precision, and no byte is saved.",
              "notebook 07, exercise 7.2"),
        Wrong("reentrant checkpointing", reentrant, 3),
    ],
)  # fmt: skip
