"""NF4Linear: a frozen linear layer that keeps its weight in 4 bits. Wrapped in a `LoRALinear`, it is QLoRA.

    Y = X doubleDequant(c1, c2, W_NF4)^T + s X A^T B^T          (equation 5 of the QLoRA paper, in our notation)

Storage and arithmetic have different types: the weight is *stored* in 4 bits, and is *computed with* in 16 or 32. It is
decoded for the product and forgotten again; the backward pass decodes it a second time instead of keeping it.

What it stands in for: `bitsandbytes.nn.Linear4bit`. Source: Dettmers et al. 2023, arXiv 2305.14314, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lora_edu.adapters import check_own_forward
from lora_edu.engine import compiling  # the door to the compiled product
from lora_edu.layers import (
    check_plain_linear,
    check_written_here,
    is_conv1d,
    is_linear,
    is_nf4,
    layer_size,
    replace_layers,
    select_layers,
    warn_of_what_stays,
)
from lora_edu.lora import check_no_adapters, lora_layers
from lora_edu.quantization import (
    DoubleQuant,
    QuantizedTensor,
    block_absmax,
    check_finite,
    check_settings,
    check_tensor,
    nearest_code,
    normalize,
    pack,
    quantize,
    stochastic_code,
)


class DecodedLinear(torch.autograd.Function):
    """x -> x W^T + bias, by `.apply`. Autograd would keep the decoded W for backward; this keeps its 4-bit codes."""

    @staticmethod
    def forward(ctx, x: Tensor, quantized: QuantizedTensor, bias: Tensor | None) -> Tensor:
        ctx.quantized = quantized  # the layer's own: not one byte more is kept
        with quantized.decoded(x.dtype) as W:
            return F.linear(x, W, bias)

    @staticmethod
    @once_differentiable  # W is lent, and gone then
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, None, Tensor | None]:
        with ctx.quantized.decoded(grad_y.dtype) as W:  # a second time
            grad_x = grad_y @ W  # dL/dx = dL/dy W
        return grad_x, None, bias_gradient(ctx, grad_y)  # the codes are frozen


def decoded_linear(x: Tensor, quantized: QuantizedTensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias in x's type, by `DecodedLinear`; `torch.compile` would keep W, and gets a version of its own."""
    product = compiling.decoded_linear if torch.compiler.is_compiling() else DecodedLinear.apply
    return product(x, quantized, None if bias is None else bias.to(x.dtype))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type in which autocast wants products with x; x's own where autocast is off. TypeError for no numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a tensor of floating-point numbers, got {getattr(x, 'dtype', type(x).__name__)}")
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def bias_gradient(ctx, grad_y: Tensor) -> Tensor | None:
    """dL/db: the sum of dL/dy over all rows; None for a bias that is frozen, as it is in the course."""
    return grad_y.reshape(-1, grad_y.shape[-1]).sum(dim=0) if ctx.needs_input_grad[2] else None


class NF4Linear(nn.Module):
    """A linear layer with a frozen weight (out_features, in_features) in NF4. Make one with `NF4Linear.from_linear`.

    quantized: the weight, as `quantize` returns it. bias: (out_features,) in full precision, or None.
    compute_dtype: as for `quantize_linears`.
    """

    is_nf4 = True

    def __init__(self, quantized: QuantizedTensor, bias: Tensor | None, compute_dtype: torch.dtype | None = None):
        super().__init__()
        check_compute_dtype(compute_dtype)
        self.out_features, self.in_features = quantized.shape
        self.quantized, self.compute_dtype = quantized, compute_dtype
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.register_state_dict_post_hook(_flat_names)
        self.register_load_state_dict_pre_hook(_own_names)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        block_size: int = 64,
        double_quant: bool | DoubleQuant = True,
        compute_dtype: torch.dtype | None = None,
    ) -> "NF4Linear":
        """Quantize an `nn.Linear` (or a Hugging Face `Conv1D`, whose weight is turned to (out, in) first).

        The other arguments are those of `quantize_linears`.
        Raises what `lora_edu.quantization.quantize` raises, and TypeError if the layer is not linear.
        """
        if not isinstance(linear, nn.Module) or not is_linear(linear) or is_nf4(linear):
            raise TypeError(f"from_linear needs a linear layer with a full weight, got {type(linear).__name__}")
        check_plain_linear("this layer", linear, "cannot be quantized")
        weight = linear.weight.T if is_conv1d(linear) else linear.weight
        return cls(quantize(weight, "nf4", block_size, double_quant), linear.bias, compute_dtype)

    @property
    def weight(self) -> Tensor:
        """The weight in full, for models that read it: decoded anew each time, so that writing into it is lost."""
        return self.dequantize()

    @property
    def codes(self) -> Tensor:
        """The packed weight: (n_bytes,) uint8, two codes a byte."""
        return self.quantized.codes

    def dequantize(self) -> Tensor:
        """The weight in full: (out_features, in_features), in the type it had."""
        return self.quantized.dequantize()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y_dtype = autocast_dtype(x)
        x = x.to(self.compute_dtype or y_dtype)
        return decoded_linear(x, self.quantized, self.bias).to(y_dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


# In a file the tensors of a layer stand side by side: where they are in the layer -> their name in the file.
NAMES = {
    "quantized.codes": "codes",
    "quantized.absmax": "absmax",  # without double quantization
    "quantized.absmax.codes": "absmax",
    "quantized.absmax.absmax": "absmax_absmax",
    "quantized.offset": "absmax_offset",
}


def _flat_names(layer: NF4Linear, state: dict[str, Tensor], prefix: str, _metadata: dict) -> None:
    for own, flat in NAMES.items():
        if prefix + own in state:
            state[prefix + flat] = state.pop(prefix + own)


def _own_names(layer: NF4Linear, state: dict[str, Tensor], prefix: str, *_others) -> None:
    for own in (f"quantized.{name}" for name in layer.quantized.state_dict()):
        if prefix + NAMES[own] in state:
            state[prefix + own] = state.pop(prefix + NAMES[own])


# --- whole models ----------------------------------------------------------------------------------------------------


def quantize_linears(
    model: nn.Module,
    skip: str | tuple[str, ...] = ("lm_head",),
    block_size: int = 64,
    double_quant: bool | DoubleQuant = True,
    compute_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Replace every linear layer but `skip` by an NF4Linear, in place, and freeze the model. Returns the model.

    Embeddings, norms, biases and the head stay as they are. Each full-precision weight is released as soon as its
    layer is replaced.
    skip: the layers that stay in full precision, by the last part of their path.
    block_size, double_quant: as for `quantize`; the default is the QLoRA paper's setting.
    compute_dtype: the type of the matrix products; None takes autocast's type where it is on, else the input's.
    Raises ValueError if there is nothing (left) to quantize, if the model has adapters already, or
    for a weight that cannot be quantized; the model is unchanged then.
    """
    check_no_adapters(model, "call quantize_linears(model) first, then add_lora(...)")
    chosen = select_layers(model, "all-linear", skip, lambda layer: is_linear(layer) and not is_nf4(layer))
    check_settings(block_size, double_quant)
    check_compute_dtype(compute_dtype)
    for path, layer in chosen.items():
        check_plain_linear(path, layer, "cannot be quantized")
        _check_weight(path, layer.weight.detach())
    how = (block_size, double_quant, compute_dtype)
    replace_layers(model, ((path, NF4Linear.from_linear(chosen.pop(path), *how)) for path in list(chosen)))
    warn_of_what_stays(model)
    return model.requires_grad_(False)


def check_compute_dtype(compute_dtype: torch.dtype | None) -> None:
    known = isinstance(compute_dtype, torch.dtype) and compute_dtype.is_floating_point and compute_dtype.itemsize > 1
    if compute_dtype is not None and not known:
        raise ValueError(f"compute_dtype must be a floating-point type of 16 bits or more, got {compute_dtype!r}")


def _check_weight(path: str, weight: Tensor) -> None:
    """Raises what `quantize` would raise for this weight, with the name of its layer."""
    try:
        check_tensor(weight)
        check_finite(weight.reshape(-1), torch.stack(weight.aminmax()).float(), weight.shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path} cannot be quantized: {error}") from None


def dequantize_linears(model: nn.Module) -> nn.Module:
    """Turn every NF4Linear back into an `nn.Linear` (with the rounded weight), in place. Adapters stay in place.

    Returns the model, or the `nn.Linear` if the model is one `NF4Linear`. Raises ValueError for a layer with hooks or
    a forward of its own; the model is unchanged then.
    """
    found = [(path, module) for path, module in model.named_modules() if is_nf4(module)]
    for path, layer in found:
        check_plain_linear(path, layer, "cannot be turned back")
    for path, layer in found:
        linear = nn.Linear(*layer_size(layer), bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
        linear.bias = layer.bias
        model = replace_layers(model, [(path, linear)])
    return model


@torch.no_grad()
def merge_into_nf4(model: nn.Module, seed: int = 0) -> nn.Module:
    """Merge every adapter on an NF4Linear into its codes, in place, and take it out. Returns the model.

    The original weights are not needed, and no byte is added. A block that the update lets outgrow its constant gets
    another. Rounded to the nearest level, a small update would be lost, because each weight of
    W' lies on its level already (notebook 09).
    So rounding is stochastic: a weight of W' + s B A goes by lot to one of the two levels beside it, the nearer one
    likelier. On average the update arrives, for some noise: measure it. No way leads back: keep the adapter's file.
    seed: of the lots; the same seed gives the same codes.
    Raises ValueError if no 4-bit layer has an adapter, or for a layer that is more than its weight and bias.
    """
    layers = {path: layer for path, layer in lora_layers(model).items() if is_nf4(layer.base)}
    if not layers:
        raise ValueError("no layer in 4 bits has an adapter: call quantize_linears(model), then add_lora(...)")
    for path, layer in layers.items():
        check_plain_linear(path, layer, "cannot be merged")
        check_own_forward(path, layer, "cannot be merged")
        check_plain_linear(path, layer.base, "cannot be merged")
        check_written_here(path, layer.base.codes)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same lots for every device
    for layer in layers.values():
        q, wanted = layer.base.quantized, (layer.base.dequantize().float() + layer.delta_weight()).flatten()
        make_room(q, wanted, limit=(3 - q.codebook[-2].item()) / 2)
        scaled = normalize(wanted, q.block_scales(), q.block_size).cpu()
        q.codes.copy_(pack(stochastic_code(scaled, q.codebook.cpu(), generator), q.codebook.cpu()))
    return replace_layers(model, ((path, layer.base) for path, layer in layers.items()))


def make_room(q: QuantizedTensor, wanted: Tensor, limit: float = 1.0) -> None:
    """Give each block an absmax of its own, in place, whose values in wanted (n,) are beyond `limit` of the one it has.

    Up to half of a gap above the largest level, that level is the nearest one anyway: no block has outgrown it yet.
    """
    scales, largest = q.block_scales(), block_absmax(wanted, q.block_size)
    outgrown = largest > limit * scales
    absmax = torch.where(outgrown, largest, scales)
    if isinstance(q.absmax, Tensor):
        q.absmax.copy_(absmax)
    elif outgrown.any():  # the constants are codes themselves: their blocks may need room, too
        centered = absmax if q.offset is None else absmax - q.offset
        make_room(q.absmax, centered)
        scaled = normalize(centered, q.absmax.block_scales(), q.absmax.block_size)
        q.absmax.codes.copy_(pack(nearest_code(scaled, q.absmax.codebook), q.absmax.codebook))
