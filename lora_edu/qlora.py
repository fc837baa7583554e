"""NF4Linear: a frozen linear layer that keeps its weight in 4 bits. Wrapped in a `LoRALinear`, it is QLoRA.

    Y = X doubleDequant(c1, c2, W_NF4)^T + s X A^T B^T          (equation 5 of the QLoRA paper, in our notation)

Storage and arithmetic have different types: the weight is *stored* in 4 bits, and is *computed with* in 16 or 32. It is
dequantized for the product and forgotten again; the backward pass dequantizes it a second time instead of keeping it.

What it stands in for: `bitsandbytes.nn.Linear4bit`. Source: Dettmers et al. 2023, arXiv 2305.14314, section 3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.engine import fused
from lora_edu.lora import ALL_LINEAR, is_conv1d, is_linear, layer_size, lora_layers, replace_layer, select_layers
from lora_edu.quantization import DoubleQuant, QuantizedTensor, quantize


class _DequantizedLinear(torch.autograd.Function):
    """x -> x W^T + bias. Autograd would keep the dequantized W for the backward pass; this keeps the packed one."""

    @staticmethod
    def forward(ctx, x: Tensor, quantized: QuantizedTensor, bias: Tensor | None) -> Tensor:
        ctx.quantized = quantized  # the layer's own buffers: not one byte more is kept
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, quantized.dequantize().to(x.dtype), bias)

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, None, None]:
        with torch.autocast(grad_y.device.type, enabled=False):
            grad_x = grad_y @ ctx.quantized.dequantize().to(grad_y.dtype)  # dL/dx = dL/dy W
        return grad_x, None, None  # W and the bias are frozen


class NF4Linear(nn.Module):
    """A linear layer with a frozen weight (out_features, in_features) in NF4. Make one with `NF4Linear.from_linear`."""

    is_nf4 = True

    def __init__(self, quantized: QuantizedTensor, bias: Tensor | None, compute_dtype: torch.dtype | None = None):
        super().__init__()
        self.out_features, self.in_features = quantized.shape
        self.block_size, self.compute_dtype, self.dtype = quantized.block_size, compute_dtype, quantized.dtype
        second = quantized.absmax if isinstance(quantized.absmax, QuantizedTensor) else None
        self.double_quant_block_size = second.block_size if second else None
        self.register_buffer("codes", quantized.codes)
        self.register_buffer("absmax", second.codes if second else quantized.absmax)
        self.register_buffer("absmax_absmax", second.absmax if second else None)
        self.register_buffer("absmax_offset", quantized.offset)
        # The codebooks are the same in every layer: one tensor for all of them, which is not saved.
        self.register_buffer("codebook", _shared(quantized.codebook), persistent=False)
        self.register_buffer("absmax_codebook", _shared(second.codebook) if second else None, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        block_size: int = 64,
        double_quant: bool | DoubleQuant = True,
        compute_dtype: torch.dtype | None = None,
    ) -> "NF4Linear":
        """Quantize an `nn.Linear` (or a Hugging Face `Conv1D`, whose weight is turned to (out, in) first).

        compute_dtype: the type of the matrix product; None takes autocast's type where it is on, else the input's.
        Raises what `lora_edu.quantization.quantize` raises, and TypeError if the layer is not linear.
        """
        if getattr(linear, "weight", None) is None or linear.weight.ndim != 2:
            raise TypeError(f"from_linear needs a linear layer with a full weight, got {type(linear).__name__}")
        weight = linear.weight.T if is_conv1d(linear) else linear.weight
        quantized = quantize(weight.detach(), "nf4", block_size, double_quant)
        return cls(quantized, linear.bias, compute_dtype)

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight as a QuantizedTensor over this layer's buffers."""
        absmax = self.absmax
        if self.double_quant_block_size:
            n_blocks = math.ceil(self.out_features * self.in_features / self.block_size)
            absmax = QuantizedTensor(
                self.absmax, self.absmax_absmax, None, self.absmax_codebook, self.double_quant_block_size,
                torch.Size([n_blocks]), torch.float32,
            )  # fmt: skip
        shape = torch.Size([self.out_features, self.in_features])
        return QuantizedTensor(
            self.codes, absmax, self.absmax_offset, self.codebook, self.block_size, shape, self.dtype
        )

    def dequantize(self) -> Tensor:
        """The weight in full: (out_features, in_features), in the type it had."""
        return self.quantized.dequantize()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        device = x.device.type
        y_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        x = x.to(self.compute_dtype or y_dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product = fused.linear if torch.compiler.is_compiling() else _DequantizedLinear.apply
        return product(x, self.quantized, bias).to(y_dtype)

    def _apply(self, fn, recurse: bool = True):
        """Follow the model to another device, but keep the constants exact when it is cast to another type."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = None if buffer is None else buffer.to(self.codes.device)
            self._buffers[name] = _shared(moved) if name.endswith("codebook") else moved
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, block_size={self.block_size}"


_codebooks: dict[tuple, Tensor] = {}  # (device, values) -> the tensor that all layers use


def _shared(codebook: Tensor | None) -> Tensor | None:
    """The tensor of these values that other layers have already, so that a model holds each codebook once."""
    if codebook is None or codebook.is_meta:
        return codebook
    first = _codebooks.setdefault((codebook.device, tuple(codebook.tolist())), codebook)
    return first if torch.equal(first, codebook) else codebook  # somebody wrote into the first one


def quantize_linears(
    model: nn.Module,
    skip: tuple[str, ...] = ("lm_head",),
    block_size: int = 64,
    double_quant: bool | DoubleQuant = True,
    compute_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Replace every linear layer but `skip` by an NF4Linear, in place, and freeze the model. Returns the model.

    Embeddings, norms, biases and the head stay as they are. Each full-precision weight is released as soon as its
    layer is replaced. Raises ValueError if there is nothing (left) to quantize or the model has adapters already.
    """
    if lora_layers(model):
        raise ValueError(
            "this model has adapters already: call quantize_linears(model) first, then add_lora(model, ...)"
        )
    paths = list(
        select_layers(model, ALL_LINEAR, skip, lambda layer: is_linear(layer) and not hasattr(layer, "is_nf4"))
    )
    for path in paths:
        layer = NF4Linear.from_linear(model.get_submodule(path), block_size, double_quant, compute_dtype)
        replace_layer(model, path, layer)
    return model.requires_grad_(False)


def dequantize_linears(model: nn.Module) -> nn.Module:
    """Turn every NF4Linear back into an `nn.Linear` (with the rounded weight), in place. Adapters stay in place."""
    for path, layer in [(path, module) for path, module in model.named_modules() if isinstance(module, NF4Linear)]:
        linear = nn.Linear(*layer_size(layer), bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
        linear.bias = layer.bias
        replace_layer(model, path, linear)
    return model
