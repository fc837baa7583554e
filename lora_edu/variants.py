"""Variants of LoRA, each a small difference to `LoRALinear`.

| variant | what changes | source |
|-|-|-|
| rsLoRA | s = alpha / sqrt(rank) | Kalajdzievski 2023, arXiv 2312.03732 |
| LoRA+ | B learns faster than A | Hayou et al. 2024, arXiv 2402.12354 |
| DoRA | the length of each row of the weight is trained by itself | Liu et al. 2024, arXiv 2402.09353 |
| gains | DoRA without the norm: a plain gain for each row | this course, notebook 11 |
| PiSSA | A and B start as the largest directions of W, which W then lacks | Meng et al. 2024, arXiv 2404.02948 |
| VeRA | A and B are frozen, one random pair for all; two vectors are trained | Kopiczko et al. 2023, arXiv 2310.11454 |

`tests/lora_edu/test_variants.py` holds each of them against PEFT.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters import check_not_training_merged
from lora_edu.layers import check_writable, is_conv1d, is_nf4, layer_size, replace_layers
from lora_edu.lora import LoRALinear, layers_to_adapt


class RsLoRALinear(LoRALinear):
    """s = alpha / sqrt(rank): the update's size depends less on the rank."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__(base, rank, alpha, dropout)
        self.scaling = alpha / math.sqrt(rank)


class DoRALinear(LoRALinear):
    """W' = m * (W + s B A) / |W + s B A|, row by row: direction and length are trained apart.

    The paper writes columns. PEFT takes rows, as here: a row is what makes one output. With dropout, PEFT's term
    (m / |W + s B A| - 1) W x sees the dropped x, and ours the whole one.
    """

    saved = ("lora_A", "lora_B", "magnitude")
    needs_plain = True
    peft_settings: ClassVar[dict[str, bool] | None] = {"use_dora": True}

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__(base, rank, alpha, dropout)
        self.magnitude = nn.Parameter(full_weight(base).norm(dim=1))  # (out_features,)

    def row_scale(self) -> Tensor:
        """m / |W + s B A|, (out_features,): 1 at the start. No gradient flows through the norm (section 4.3)."""
        W = full_weight(self.base) + super().delta_weight()
        return self.magnitude / W.norm(dim=1).detach()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y = super().forward(x)  # W x + s B A x + bias
        return y if self.merged else scale_rows(y, self.row_scale(), self.base.bias)

    def delta_weight(self) -> Tensor:
        """W' - W: (out_features, in_features). What merging adds, or has added."""
        W = full_weight(self.base)
        return W - self._restored(W) if self.merged else self._changed(W) - W

    def _changed(self, W: Tensor) -> Tensor:
        """W', (out_features, in_features): what merging makes of W."""
        return (self.row_scale()[:, None] * (W + super().delta_weight())).to(W)

    def _restored(self, W: Tensor) -> Tensor:
        """The W from which this W' was made: W' does not tell how long its rows were, so the scale was kept."""
        return (W / self.added_row_scale[:, None] - super().delta_weight()).to(W)

    def _kept(self) -> dict[str, Tensor]:
        return super()._kept() | {"added_row_scale": self.row_scale().detach()}


class GainLoRALinear(DoRALinear):
    """W' = g * (W + s B A), row by row: as many numbers as DoRA, and no norm. Each gain starts as 1."""

    saved = ("lora_A", "lora_B", "gain")
    peft_settings = None
    why_not_saved = "PEFT's files of LoRA have no gains. Merge it, or save adapter_state"

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        LoRALinear.__init__(self, base, rank, alpha, dropout)
        self.gain = nn.Parameter(torch.ones_like(self.lora_B[:, 0]))  # (out_features,): one for each row

    def row_scale(self) -> Tensor:
        """g, (out_features,): what the whole row is multiplied by."""
        return self.gain


def scale_rows(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """scale * (y - bias) + bias: what the weight made is scaled, and the bias is not."""
    scale = scale.to(y.dtype)
    return scale * y if bias is None else scale * y + (1 - scale) * bias


class PiSSALinear(LoRALinear):
    """s B A starts as the `rank` largest directions of W, and W as what is left. The base is changed, in place."""

    peft_settings = None
    # beside the unchanged W, what it learned is LoRA of twice the rank and alpha: s (B A - B0 A0)
    why_not_saved = "its base is changed, too. Save combine([now, start], [1, -1]), two states of its adapters"
    needs_plain = True

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        check_changeable(base)
        super().__init__(base, rank, alpha, dropout)
        B, A = largest_directions(full_weight(base), rank)
        root = math.sqrt(self.scaling)
        self.lora_B.data, self.lora_A.data = B / root, A / root
        base.weight.data -= self.delta_weight().detach()


class VeRALinear(LoRALinear):
    """W' = W + diag(b) B diag(d) A: A and B are random and frozen, and only the vectors d and b are trained.

    pair: A (rank, widest) and B (tallest, rank) for all layers, of which each takes the first columns and rows that it
    needs; None draws a pair for this layer alone. They are not saved: the seed draws them again.
    """

    saved = ("vera_d", "vera_b")
    peft_settings = None
    why_not_saved = "PEFT's files of LoRA have no such vectors"

    def __init__(self, base: nn.Module, rank: int, alpha: float = 1.0, dropout: float = 0.0, pair=None):
        super().__init__(base, rank, rank, dropout)  # s = 1
        (d_in, d_out), device = layer_size(base), self.lora_A.device
        A, B = pair or random_pair(rank, d_in, d_out, device)
        del self.lora_A, self.lora_B  # no parameters here
        self.register_buffer("lora_A", A[:, :d_in].to(device), persistent=False)
        self.register_buffer("lora_B", B[:d_out].to(device), persistent=False)
        self.vera_d = nn.Parameter(torch.full((rank,), 0.1, device=device, dtype=torch.float32))
        self.vera_b = nn.Parameter(torch.zeros(d_out, device=device, dtype=torch.float32))  # zero: W' = W at the start

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y = self.base(x)
        if self.merged:
            check_not_training_merged(self)
            return y
        low = self.scaling * self.vera_d * F.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A)  # (..., rank)
        return y + (self.vera_b * F.linear(low, self.lora_B)).to(y.dtype)

    def factors(self) -> tuple[float, Tensor, Tensor]:
        """s, which is 1 unless it is set, diag(b) B and diag(d) A, whose product is the update."""
        return self.scaling, self.vera_b[:, None] * self.lora_B, self.vera_d[:, None] * self.lora_A


def random_pair(rank: int, widest: int, tallest: int, device="cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
    """VeRA's frozen A (rank, widest) and B (tallest, rank), drawn as PEFT does: uniform in +-sqrt(6 / columns)."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers for every device
    A, B = (torch.empty(shape, device="cpu", dtype=torch.float32) for shape in ((rank, widest), (tallest, rank)))
    for frozen in (A, B):
        nn.init.kaiming_uniform_(frozen, generator=generator)
    return A.to(device), B.to(device)


def check_changeable(base: nn.Module) -> None:
    """PiSSA takes something out of the base's weight: there must be one."""
    if not isinstance(base, nn.Linear):
        raise ValueError(
            f"PiSSA changes the weight, and a {type(base).__name__} holds it in 4 bits or turned: start from an "
            "nn.Linear, and round what is left of it"
        )
    check_writable(base, {"this layer": base}, "cannot give PiSSA its start")
    if not base.weight.isfinite().all():
        raise ValueError("a weight has values that are not finite: PiSSA finds no largest directions in it")


VARIANTS = {
    "LoRA": LoRALinear,
    "rsLoRA": RsLoRALinear,
    "DoRA": DoRALinear,
    "gains": GainLoRALinear,
    "PiSSA": PiSSALinear,
    "VeRA": VeRALinear,
}


def add_variant(model: nn.Module, variant: str, rank: int, alpha: float, targets="all-linear") -> nn.Module:
    """As `add_lora`, with another kind of layer: one of VARIANTS. In place; returns the model."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    kind = VARIANTS[variant]
    make: Callable[..., LoRALinear] = kind
    chosen = layers_to_adapt(model, kind, rank, alpha, targets)
    if kind is PiSSALinear:  # the one that changes weights
        for layer in chosen.values():
            check_changeable(layer)
        check_writable(model, chosen, "cannot give PiSSA its start")
    if kind is VeRALinear:  # one pair, with room for the largest layer
        widest, tallest = map(max, zip(*map(layer_size, chosen.values()), strict=True))
        first = next(iter(chosen.values()))
        device = next(iter(first.state_dict().values())).device
        make = partial(VeRALinear, pair=random_pair(rank, widest, tallest, device))
    model.requires_grad_(False)
    return replace_layers(model, ((path, make(layer, rank, alpha)) for path, layer in chosen.items()))


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16) -> list[dict]:
    """Parameter groups for an optimizer: every B at ratio * lr, all else that is trained at lr."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    fast = [p for name, p in named if name.endswith("lora_B")]
    slow = [p for name, p in named if not name.endswith("lora_B")]
    return [{"params": slow, "lr": lr}, {"params": fast, "lr": ratio * lr}]


def full_weight(base: nn.Module) -> Tensor:
    """The weight of a linear layer of any kind, (out_features, in_features), in float32 and without a gradient."""
    W = base.dequantize() if is_nf4(base) else base.weight.detach()
    W = W.T if is_conv1d(base) else W
    return W.to(torch.promote_types(W.dtype, torch.float32))  # float64 stays


def largest_directions(M: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (out, rank) and A (rank, in) whose product is the matrix of that rank nearest to M."""
    U, S, Vt = torch.linalg.svd(M, full_matrices=False)
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * Vt[:rank]
