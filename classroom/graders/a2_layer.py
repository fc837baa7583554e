"""Exercise 2.1, the layer: right and wrong answers; `Layer` takes a mistake by its name."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from classroom.solutions import Solutions, Wrong


class Layer(nn.Module):
    """The layer as it should be, or with the mistake of that name."""

    def __init__(self, c, base, rank, alpha, dropout, seed, mistake=""):
        super().__init__()
        self.c, self.mistake = c, mistake
        self.base = base if mistake == "not frozen" else base.requires_grad_(False)
        self.scaling = {"alpha / rank": alpha / rank, "alpha": alpha, "none": 1.0}.get(
            mistake, alpha / rank**c.exponent
        )
        self.dropout = nn.Dropout(1 - dropout if mistake == "share kept" else dropout)
        generator = torch.Generator().manual_seed(seed)
        down = c.std * torch.randn(base.in_features, rank, generator=generator)
        up = torch.zeros(rank, base.out_features)
        if mistake in ("both random", "roles swapped"):
            up = c.std * torch.randn(rank, base.out_features, generator=generator)
        if mistake in ("both zero", "roles swapped"):
            down = torch.zeros(base.in_features, rank)
        if mistake == "transposed":
            down, up = down.T.contiguous(), up.T.contiguous()
        if mistake == "plain tensors":
            self.down, self.up = down.requires_grad_(), up.requires_grad_()
        else:
            self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        if mistake == "only up":
            self.down.requires_grad_(False)

    def forward(self, x):
        mistake = self.mistake
        if mistake == "product formed" and not self.training:
            return F.linear(x, self.base.weight + self.scaling * (self.down @ self.up).T, self.base.bias)
        if mistake == "changes its input":
            y = self.base(x)
            x *= self.scaling
            return y + self.branch(x) / self.scaling
        if mistake == "update alone":
            return self.branch(x)
        if mistake == "base without gradient":
            with torch.no_grad():
                y = self.base(x)
            return y + self.branch(x)
        if mistake == "bias forgotten":
            return F.linear(x, self.base.weight) + self.branch(x)
        if mistake == "dropout on the base":
            return self.base(self.dropout(x)) + self.branch(x)
        return self.base(x) + self.branch(x)

    def branch(self, x):
        place = self.c.dropout_after if self.mistake not in PLACES else PLACES[self.mistake](self.c)
        drop = self.dropout
        if self.mistake == "dropout in evaluation":
            drop = lambda z: F.dropout(z, self.dropout.p)  # noqa: E731
        if self.mistake == "dropout does not rescale":
            drop = lambda z: z * (torch.rand_like(z) >= self.dropout.p) if self.training else z  # noqa: E731
        down, up = (self.down.T, self.up.T) if self.mistake == "transposed" else (self.down, self.up)
        x = drop(x) if place == "input" else x
        low = x @ down
        low = drop(low) if place == "down" else low
        y = self.scaling * (low @ up)
        return drop(y) if place == "up" else y


PLACES = {
    "dropout on the input": lambda c: "input",
    "dropout at the other factor": lambda c: {"down": "up", "up": "down"}[c.dropout_after],
    "no dropout": lambda c: "nowhere",
}


def layer(c):
    """The reference: without a mistake."""
    return layer_with("")(c)


def layer_with(mistake):
    return lambda c: lambda base, rank, alpha, dropout, seed: Layer(c, base, rank, alpha, dropout, seed, mistake)


def layer_functional(c):
    class Functional(nn.Module):
        def __init__(self, base, rank, alpha, dropout, seed, *, device=None):
            super().__init__()
            self.base, self.alpha, self.rank, self.p = base, alpha, rank, dropout
            for parameter in base.parameters():
                parameter.requires_grad = False
            self.down = nn.Parameter(torch.empty(base.weight.shape[1], rank, device=device))
            self.register_parameter("up", nn.Parameter(base.weight.new_zeros(rank, base.weight.shape[0])))
            nn.init.normal_(self.down, std=c.std, generator=torch.Generator().manual_seed(seed))

        def forward(self, x):
            low = F.linear(x, self.down.T)
            if c.dropout_after == "down":
                low = F.dropout(low, self.p, training=self.training)
            change = F.linear(low, self.up.T)
            if c.dropout_after == "up":
                change = F.dropout(change, self.p, training=self.training)
            return F.linear(x, self.base.weight, self.base.bias) + change * self.alpha / self.rank**c.exponent

    return Functional


def layer_by_einsum(c):
    class ByEinsum(Layer):
        def __init__(self, base, rank, alpha, dropout, seed):
            super().__init__(c, base, rank, alpha, dropout, seed)
            draws = torch.normal(0.0, c.std, (base.in_features, rank), generator=torch.Generator().manual_seed(seed))
            self.down = nn.Parameter(draws)

        def forward(self, x):
            after_down = self.dropout if c.dropout_after == "down" else nn.Identity()
            after_up = self.dropout if c.dropout_after == "up" else nn.Identity()
            low = after_down(torch.einsum("...i,ir->...r", x, self.down))
            return self.base(x) + after_up(torch.einsum("...r,ro->...o", self.scaling * low, self.up))

    return ByEinsum


def layer_with_a_global_seed(c):
    def make(base, rank, alpha, dropout, seed):
        made = Layer(c, base, rank, alpha, dropout, seed)
        torch.manual_seed(seed)
        made.down = nn.Parameter(c.std * torch.randn(base.in_features, rank))
        return made

    return make


def layer_without_the_seed(c):
    def make(base, rank, alpha, dropout, seed):
        made = Layer(c, base, rank, alpha, dropout, seed)
        made.down = nn.Parameter(c.std * torch.randn(base.in_features, rank, generator=_unseeded))
        return made

    return make


_unseeded = torch.Generator().manual_seed(0)


def layer_around_a_copy(c):

    return lambda base, *rest: Layer(c, copy.deepcopy(base), *rest)


def layer_from_lora_edu(c):
    from lora_edu import LoRALinear

    return lambda base, rank, alpha, dropout, seed: LoRALinear(base, rank, alpha, dropout)


START = "notebook 02, section 5"
SCALING = "notebook 04, section 1, for the paper's; exercise 2.1 for this one"


def layer_wrong(mistake, keeps, sentence=None, see=None):
    return Wrong(mistake, layer_with(mistake), keeps, sentence, see)


LINES = "notebook 04, section 1"
PROMISES = "notebook 04, section 3"
DROPOUT = "notebook 04, section 5"
COST = "notebook 04, section 8"
SEED = "notebook 02, section 3, where a generator is passed on"

LAYER = Solutions(
    reference=layer,
    right={"functional": layer_functional, "einsum": layer_by_einsum},
    wrong=[
        layer_wrong("plain tensors", 7,
                    "down and up are plain tensors: no optimizer finds them, and no file. Wrap them in nn.Parameter.",
                    LINES),
        layer_wrong("not frozen", 7,
                    "the base is not frozen: its weight asks for a gradient, and one training step changed it.",
                    PROMISES),
        layer_wrong("both random", 7,
                    "the output changes at the start, because both factors are random. up starts at zero.", START),
        layer_wrong("both zero", 6,
                    "both factors start at zero. Each one's gradient is multiplied by the other: nothing would ever "
                    "move.", START),
        layer_wrong("roles swapped", 6,
                    "up is random and down is zero. This would learn, too, but here down is random and up is zero.",
                    START),
        layer_wrong("only up", 7, "down does not ask for a gradient. Both factors are trained.",
                    PROMISES),
        layer_wrong("alpha / rank", 6,
                    "the branch is scaled by alpha / rank. Here the rank has an exponent, as in exercise 2.1.",
                    SCALING),
        layer_wrong("alpha", 6, "the branch is scaled by alpha; the rank is left out.", LINES),
        layer_wrong("none", 6, "the branch is not scaled.", LINES),
        layer_wrong("transposed", 5,
                    "the factors are (rank, in) and (out, rank), as in the notebook. Here down is (in, rank), up "
                    "(rank, out).", "notebook 02, section 2, for the two orientations"),
        layer_wrong("dropout on the base", 7,
                    "dropout is on the path of the base as well. It belongs to the branch: the base must see the "
                    "whole x.", DROPOUT),
        layer_wrong("dropout in evaluation", 5,
                    "dropout is active in evaluation mode. nn.Dropout, or training=self.training, switches it off.",
                    DROPOUT),
        layer_wrong("dropout on the input", 7,
                    "dropout acts on the input of the branch, as in the notebook. Here it acts after c.dropout_after.",
                    DROPOUT),
        layer_wrong("dropout at the other factor", 7, "dropout acts after the other factor than c.dropout_after.",
                    DROPOUT),
        layer_wrong("no dropout", 7, "the branch has no dropout in training mode.", DROPOUT),
        layer_wrong("dropout does not rescale", 7,
                    "what dropout leaves is not scaled up: the average of the branch would be smaller than in "
                    "evaluation mode.", DROPOUT),
        layer_wrong("share kept", 7,
                    "this keeps the share `dropout` and drops the rest. It is the share that is set to zero.", DROPOUT),
        layer_wrong("product formed", 7,
                    "this forms the whole product of down and up in the forward pass. First down, then up costs less.",
                    COST),
        layer_wrong("base without gradient", 7,
                    "no gradient passes through the base to its input. Freezing stops the gradient of the weight; "
                    "layers below still need the gradient of x.", COST),
        layer_wrong("bias forgotten", 5, "the bias of the base is missing: call the base itself.",
                    LINES),
        layer_wrong("update alone", 4, "this is the branch alone. Add it to what the base computes.",
                    LINES),
        layer_wrong("changes its input", 4,
                    "the input is changed by your layer: *= writes into the tensor of whoever called it.", LINES),
        Wrong("global seed", layer_with_a_global_seed, 7,
              "this moves the random numbers of everybody else: it sets torch's seed, or draws with it, as nn.Linear "
              "does when it is built. Use a generator of your own, torch.Generator.", SEED),
        Wrong("seed ignored", layer_without_the_seed, 7, "the seed is ignored: the same seed must give the same down.",
              SEED),
        Wrong("around a copy", layer_around_a_copy, 6,
              "this wraps a copy of the base: the model would hold its weights twice. Keep the layer itself.",
              "notebook 04, section 2"),
        Wrong("calls lora_edu", layer_from_lora_edu, 0),
    ],
)  # fmt: skip
