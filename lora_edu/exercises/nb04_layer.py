"""The promises of a LoRA layer that somebody wrote: exercise 4.2 looks at them one after the other.

`observe_layer` builds the layer, runs it forward and backward, with dropout and without, and returns the sentence about
the first broken promise, or `KEPT`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEPT = "kept"
DROPOUT = 0.25  # not 0.5: dropping 1 - p instead of p would look the same

FORGOTTEN = "your function returned None: did you forget `return`?"
NOT_A_MODULE = "the result should be an `nn.Module`: a layer, not a class and not a tensor."
NO_FACTORS = "the layer has no `lora_A` or no `lora_B`."
LINEARS = "`lora_A` and `lora_B` should be `nn.Parameter`s of the layer itself, not `nn.Linear` layers."
NOT_PARAMETERS = "`lora_A` and `lora_B` must be `nn.Parameter`: no optimizer sees a plain tensor."
TRANSPOSED = "`lora_A` should have shape (r, d_in) and `lora_B` (d_out, r): here they are transposed."
WRONG_SHAPES = "`lora_A` should have shape (r, d_in) and `lora_B` (d_out, r)."
BASE_NOT_FROZEN = "the base is not frozen: its weight asks for a gradient, so training would change it."
NOT_ITS_BASE = "the base that was handed over is not in the layer: did you make a new one?"
BIAS_NOT_FROZEN = "the base is frozen but for its bias, which asks for a gradient."
A_FROZEN = "A does not ask for a gradient. Both factors are trained."
B_FROZEN = "B does not ask for a gradient. Both factors are trained."
MORE_TRAINED = "more is trained than A and B: another parameter of the layer asks for a gradient."
BASE_CHANGED = "the weight of the base was changed. It stays as it is: the update is added to the output."
BRANCH_ALONE = "this is the branch alone. The layer adds it to what the base computes."
NO_BIAS = "the bias of the base is missing: call the base itself, `base(x)`."
NO_OUTPUT = "`forward` returns no tensor: did you forget `return` there?"
SCALED_BASE = "the scaling multiplies the output of the base as well. It belongs to the branch."
BASE_TWICE = "the output of the base is counted twice."
BOTH_RANDOM = "the output changes at the start, because neither A nor B is zero. B starts at zero."
OTHER_START = "before the first training step the output should be that of the base: it is not."
BOTH_ZERO = "A and B both start at zero. Each one's gradient is multiplied by the other: nothing would ever move."
COPIES = (
    "the rows of A start as copies or multiples of each other: they learn the same, and the rank of the update stays "
    "below r. Draw A at random."
)
TWO_SIDES_ONLY = "this works for an x of shape (n, d_in) only. A language model hands over (batch, seq, d_in)."
IN_EVAL = "dropout is still active in evaluation mode. `nn.Dropout`, or training=self.training, switches it off."
BY_ALPHA = "this scales the update by alpha. The paper divides alpha by the rank."
UNSCALED = "this leaves the scaling alpha / r out."
UPSIDE_DOWN = "this divides the rank by alpha. The scaling is alpha / r."
TIMES_RANK = "this multiplies alpha by the rank. The scaling is alpha / r."
FLOORED = "`alpha // r` rounds down to a whole number: use `/`."
BY_ROOT = "this divides alpha by the square root of the rank: that is rsLoRA. The exercise asks for alpha / r."
SQUARED = "the scaling alpha / r is applied twice."
BY_IN = "this divides alpha by d_in. The rank is the number of rows of A."
BY_OUT = "this divides alpha by d_out. The rank is the number of columns of B."
SUBTRACTED = "the update is subtracted. The layer adds it."
NO_UPDATE = "A and B do not act: the output does not depend on them. Do you use the parameters themselves?"
NOT_LINEAR = "the branch is not linear in x: nothing stands between A and B, or behind them, but the scaling."
OTHER_UPDATE = "the update is not s B A x, s = alpha / r."
NO_GRADIENT = "the output carries no gradient: forward runs under `torch.no_grad()` or detaches what it returns."
BOTH_CUT = "no gradient reaches A and B: the branch runs under `torch.no_grad()`, or is detached."
A_CUT = "no gradient reaches A: `.detach()`, `.data` or `no_grad` cuts the way back to it."
B_CUT = "no gradient reaches B: `.detach()`, `.data` or `no_grad` cuts the way back to it."
BASE_CUT = "the gradient of x lacks the part through W, which the layers below need. Freeze W; do not cut base(x) off."
BRANCH_CUT = "the gradient of x lacks the part through A and B: x is detached before the branch."
OTHER_GRADIENT = "forward is right, but the gradients of A, B or x are not those of s B A x."
OWN_SHARE = "dropout acts though its share is 0, or with another share than the one given: is it written as a number?"
KEEP_SHARE = "this drops the share 1 - dropout. `nn.Dropout(p)` takes the share that is set to zero."
ON_BASE = "dropout is on the path of the base as well. It belongs to the branch: the base must see the whole x."
NO_DROPOUT = "dropout never acts while training."
NOT_SCALED_UP = "what survives dropout is not scaled up by 1 / (1 - p), so that the mean shrinks. `nn.Dropout` does it."
AFTER_A = "dropout acts behind A, on the r numbers, or on A itself. The paper's place is in front of A: on x."
AFTER_B = "dropout acts behind B, on the output of the branch. Its place is in front of A: on x."
ONE_MASK = "one draw of dropout serves all inputs of the batch. Each x should get its own."
WHOLE_ROWS = "dropout keeps or drops a whole x at once. It should draw for each entry of x by itself."

PROMISES = [
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str) and " " in value
]


class ReferenceLayer(nn.Module):
    """y = base(x) + s B A dropout(x), as notebook 04 builds it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.base, self.scaling, self.dropout = base.requires_grad_(False), alpha / rank, nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)


class Probe:
    """A layer that was made, its base as it was before, and the update that the layer should make."""

    def __init__(self, make: Callable, in_features: int, out_features: int, rank: int, alpha: float, dropout: float):
        torch.manual_seed(0)
        base = nn.Linear(in_features, out_features)
        self.weight, self.bias = base.weight.detach().clone(), base.bias.detach().clone()
        self.base, self.rank, self.alpha, self.p = base, rank, alpha, dropout
        self.layer = make(base, rank, alpha, dropout)
        self.x = torch.randn(5, in_features)

    def base_output(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def plain_update(self, x: Tensor) -> Tensor:
        """B A x, without the scaling: (n, d_in) -> (n, d_out)"""
        return F.linear(F.linear(x, self.layer.lora_A), self.layer.lora_B)

    def branch(self, x: Tensor) -> Tensor:
        """What the layer adds to its base, as it is."""
        return self.layer(x) - self.base_output(x)

    @torch.no_grad()
    def set_factors(self, B_is_zero: bool = False) -> None:
        for seed, factor in enumerate((self.layer.lora_A, self.layer.lora_B)):
            factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)))
        if B_is_zero:
            self.layer.lora_B.zero_()


def observe_layer(make: Callable | str, in_features: int, out_features: int, rank: int, alpha: float) -> Any:
    """make: (base, rank, alpha, dropout) -> a module with `lora_A` (rank, in) and `lora_B` (out, rank)."""
    if isinstance(make, str):
        return make
    sizes = (in_features, out_features, rank, alpha)
    probe = Probe(make, *sizes, DROPOUT)
    if probe.layer is ...:
        return ...
    if broken := _how_it_is_made(probe):
        return broken
    for look in (_at_the_start, _evaluation, _dropout):
        if broken := look(probe):
            return broken
    return _gradients(Probe(make, *sizes, 0.0)) or KEPT


def _how_it_is_made(probe: Probe) -> str:
    layer, base = probe.layer, probe.base
    if layer is None:
        return FORGOTTEN
    if not isinstance(layer, nn.Module):
        return NOT_A_MODULE
    factors = [getattr(layer, name, None) for name in ("lora_A", "lora_B")]
    if not all(isinstance(factor, Tensor) for factor in factors):
        return LINEARS if all(isinstance(factor, nn.Module) for factor in factors) else NO_FACTORS
    if not all(isinstance(factor, nn.Parameter) for factor in factors):
        return NOT_PARAMETERS
    shapes = [tuple(factor.shape) for factor in factors]
    right = [(probe.rank, base.in_features), (base.out_features, probe.rank)]
    if shapes != right:
        return TRANSPOSED if shapes == [shape[::-1] for shape in right] else WRONG_SHAPES
    if not torch.equal(base.weight, probe.weight):
        return BASE_CHANGED
    inside = {id(parameter): parameter for parameter in layer.parameters()}
    if base.weight.requires_grad:
        return BASE_NOT_FROZEN if id(base.weight) in inside else NOT_ITS_BASE
    if base.bias is not None and base.bias.requires_grad and id(base.bias) in inside:
        return BIAS_NOT_FROZEN
    for factor, sentence in zip(factors, (A_FROZEN, B_FROZEN), strict=True):
        if not factor.requires_grad:
            return sentence
    asked = sum(parameter.numel() for parameter in inside.values() if parameter.requires_grad)
    return "" if asked == sum(factor.numel() for factor in factors) else MORE_TRAINED


@torch.no_grad()
def _at_the_start(probe: Probe) -> str:
    probe.layer.eval()
    y = probe.layer(probe.x)
    if not isinstance(y, Tensor):
        return NO_OUTPUT
    try:
        probe.layer(probe.x.expand(2, *probe.x.shape))
    except (RuntimeError, ValueError, IndexError):
        return TWO_SIDES_ONLY
    expected = probe.base_output(probe.x)
    layer = probe.layer
    if not (layer.lora_A.any() or layer.lora_B.any()):
        return BOTH_ZERO
    if _same(y, expected):
        return COPIES if max(map(_rank, (layer.lora_A, layer.lora_B))) < probe.rank else ""
    if layer.lora_A.any() and layer.lora_B.any():
        probe.set_factors(B_is_zero=True)
        if _same(layer(probe.x), expected):
            return BOTH_RANDOM
    looks = {
        BRANCH_ALONE: 0 * expected,
        NO_BIAS: expected - probe.bias,
        BASE_TWICE: 2 * expected,
        SCALED_BASE: probe.alpha / probe.rank * expected,
    }
    return next((sentence for sentence, made in looks.items() if _same(layer(probe.x), made)), OTHER_START)


@torch.no_grad()
def _evaluation(probe: Probe) -> str:
    probe.set_factors()
    probe.layer.eval()
    if not _same(probe.layer(probe.x), probe.layer(probe.x)):
        return IN_EVAL
    return scaling_mistake(probe.branch(probe.x), probe)


def scaling_mistake(update: Tensor, probe: Probe) -> str:
    """Which factor stands in front of B A x, if it is not alpha / r."""
    plain, alpha, rank = probe.plain_update(probe.x), probe.alpha, probe.rank
    if _same(update, alpha / rank * plain):
        return ""
    if update.abs().max() < 1e-6:
        return NO_UPDATE
    looks = {
        BY_ALPHA: alpha,
        UNSCALED: 1.0,
        UPSIDE_DOWN: rank / alpha,
        BY_ROOT: alpha / rank**0.5,
        SQUARED: (alpha / rank) ** 2,
        BY_IN: alpha / probe.base.in_features,
        BY_OUT: alpha / probe.base.out_features,
        SUBTRACTED: -alpha / rank,
        TIMES_RANK: alpha * rank,
        FLOORED: alpha // rank,
    }
    known = next((sentence for sentence, factor in looks.items() if _same(update, factor * plain)), "")
    return known or (OTHER_UPDATE if _same(probe.branch(2 * probe.x), 2 * update) and _is_odd(probe) else NOT_LINEAR)


def _is_odd(probe: Probe) -> bool:
    return _same(probe.branch(-probe.x), -probe.branch(probe.x))


def _rank(factor: Tensor) -> int:
    return int(torch.linalg.matrix_rank(factor))


@torch.no_grad()
def _dropout(probe: Probe) -> str:
    """Whether dropout acts, and where. Rows with a single entry show the place: their branch is all or nothing."""
    layer = probe.layer.train()
    probe.set_factors(B_is_zero=True)
    if not _same(layer(probe.x), probe.base_output(probe.x)):
        return ON_BASE
    probe.set_factors()
    calls, repeats = 8, 50
    rows = torch.eye(probe.base.in_features).repeat(repeats, 1)  # (50 d_in, d_in)
    whole = (probe.alpha / probe.rank * probe.plain_update(rows)).repeat(calls, 1)
    branch = torch.cat([probe.branch(rows) for _ in range(calls)])  # (400 d_in, d_out)
    if _same(branch, whole, 1e-3):
        return NO_DROPOUT
    times = (branch * whole).sum(dim=1) / whole.square().sum(dim=1)  # 0 where dropped, 1 / (1 - p) where kept
    if not _same(branch, times[:, None] * whole, 1e-3):  # a part of the row is left
        entries_stay = _same(branch * (branch - whole / (1 - probe.p)), torch.zeros_like(whole), 1e-3)
        return AFTER_B if entries_stay else AFTER_A
    kept = times[times.abs() > 1e-3]
    if not _same(kept, kept[:1].expand_as(kept), 1e-2):
        return AFTER_A
    drawn = times.view(calls, repeats, -1)
    if _same(drawn, drawn[:, :1].expand_as(drawn), 1e-3):
        return ONE_MASK
    value, share_kept = kept[0].item(), len(kept) / len(times)
    return _share_of_dropout(value, share_kept, probe.p) or _draws_for_each_entry(probe)


def _share_of_dropout(value: float, share_kept: float, p: float) -> str:
    if abs(value - 1) < 1e-2:
        return NOT_SCALED_UP
    if abs(value - 1 / p) < 1e-2 and abs(share_kept - p) < 0.1:
        return KEEP_SHARE
    return OWN_SHARE if abs(value - 1 / (1 - p)) > 1e-2 or abs(share_kept - (1 - p)) > 0.1 else ""


def _draws_for_each_entry(probe: Probe) -> str:
    """With many equal rows of ones, the branch must take more than two values, and not the same for all rows."""
    rows = torch.ones(200, probe.base.in_features)
    values = probe.branch(rows)[:, 0]
    return "" if len(values.mul(1e3).round().unique()) > 3 else WHOLE_ROWS


def _gradients(probe: Probe) -> str:
    """One step backward without dropout, held against the gradients of s B A x."""
    layer = probe.layer.train()
    probe.set_factors()
    x = probe.x.clone().requires_grad_(True)
    y, grad_y = layer(x), torch.randn(len(x), probe.base.out_features)
    wanted = probe.base_output(x) + probe.alpha / probe.rank * probe.plain_update(x)
    if not _same(y.detach(), wanted.detach()):
        return OWN_SHARE
    if not y.requires_grad:
        return NO_GRADIENT
    sources = (x, layer.lora_A, layer.lora_B)
    got = torch.autograd.grad(y, sources, grad_y, allow_unused=True)
    dx, dA, dB = torch.autograd.grad(wanted, sources, grad_y)
    if got[1] is None and got[2] is None:
        return BOTH_CUT
    for gradient, sentence in ((got[1], A_CUT), (got[2], B_CUT)):
        if gradient is None:
            return sentence
    through_base = grad_y @ probe.weight
    got_x = torch.zeros_like(x) if got[0] is None else got[0]
    if _same(got_x, dx - through_base) or not got_x.any():
        return BASE_CUT
    if _same(got_x, through_base):
        return BRANCH_CUT
    return "" if all(map(_same, (got_x, *got[1:]), (dx, dA, dB))) else OTHER_GRADIENT


def _same(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    """Up to `tolerance` times the largest expected number, or that itself where zeros are expected."""
    if got.shape != expected.shape or not got.numel():
        return got.shape == expected.shape
    largest = expected.abs().max().item()
    return bool((got - expected).abs().max() <= tolerance * (largest or 1.0))
