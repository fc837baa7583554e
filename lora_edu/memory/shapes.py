"""Where the bytes go: memory by kind, measured from the tensors that are alive and predicted from the configuration.

The kinds are those that fine-tuning methods differ in. Activations, which depend on the batch, are counted in
`lora_edu.memory.activations`; `lora_edu.memory.calculator` has all kinds for models that nobody has loaded.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.checks import check, optional, whole
from lora_edu.codebooks import get_codebook
from lora_edu.gpt import GPTConfig
from lora_edu.layers import ALL_LINEAR, layer_names
from lora_edu.lora import LoRALinear
from lora_edu.quantization import DoubleQuant, check_settings, codes_per_byte

BASE, CONSTANTS, ADAPTERS = "base weights", "quantization constants", "adapters"
GRADIENTS, OPTIMIZER = "gradients", "optimizer state"
KINDS = (BASE, CONSTANTS, ADAPTERS, GRADIENTS, OPTIMIZER)


def measured_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """The bytes of a model's tensors by kind, as they are in memory now. A tensor in two places counts once.

    optimizer: the one whose state is counted too.
    The codebooks, which all quantized layers share, belong to no kind: of double-quantized NF4, 16 and 256 numbers.
    """
    found: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}  # kind -> identity of a storage -> bytes

    def count(kind: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            found[kind][tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()

    for path, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if "codebook" in name:
                continue  # one tensor for all layers
            constant = name in ("absmax", "offset") or path.endswith(".absmax")  # of the first level, of the second
            kind = CONSTANTS if constant else ADAPTERS if isinstance(module, LoRALinear) else BASE
            count(kind, tensor)
            count(GRADIENTS, tensor.grad)
    for state in optimizer.state.values() if optimizer else ():
        for tensor in state.values():
            count(OPTIMIZER, tensor if isinstance(tensor, Tensor) else None)
    return {kind: sum(sizes.values()) for kind, sizes in found.items()}


def predicted_bytes(
    config: GPTConfig,
    *,
    nf4: bool = False,
    block_size: int = 64,
    double_quant: bool | DoubleQuant = True,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    trained: bool = True,
) -> dict[str, int]:
    """The bytes by kind of the course's GPT in float32, from its configuration alone.

    nf4: block linears in NF4, with this block_size and double_quant, as for `quantize`.
    rank: None for full fine-tuning, else LoRA on `targets`.
    trained: with gradients and torch's AdamW's state, as they are after one step: two numbers per trained one, in its
    type (here float32), and a step count of four bytes per tensor.
    Raises TypeError for another kind of config, ValueError for a bad rank,
    target or block size.
    """
    if not isinstance(config, GPTConfig):
        raise TypeError(f"config must be a GPTConfig, got {type(config).__name__}: training_bytes knows other models")
    check(optional(whole(1)), rank=rank)
    check_settings(block_size, double_quant)
    shape, layers = Architecture.of_gpt(config), config.n_layers
    linear = shape.parameters()["block linears"]
    kept = shape.n_parameters - linear  # never quantized
    total = dict.fromkeys(KINDS, 0)
    total[BASE] = 4 * kept + (linear // 2 if nf4 else 4 * linear)
    if nf4:
        sizes = shape.linears.values()
        total[CONSTANTS] = layers * sum(_constant_bytes(math.prod(size), block_size, double_quant) for size in sizes)
    if rank is None:
        trained_numbers, trained_tensors = shape.n_parameters, 3 + 2 * (2 * layers + 1) + 2 * 6 * layers
    else:
        chosen = target_names(shape.linears, targets)
        trained_numbers, trained_tensors = shape.adapter_numbers(rank, chosen), 2 * layers * len(chosen)
        total[ADAPTERS] = 4 * trained_numbers
    if trained:
        total[GRADIENTS] = 4 * trained_numbers
        total[OPTIMIZER] = 2 * 4 * trained_numbers + 4 * trained_tensors
    return total


def target_names(sizes: Iterable[str], targets: str | Iterable[str]) -> tuple[str, ...]:
    """The names of the block linears that have an adapter, each once. Raises ValueError for one that there is not."""
    chosen = set(sizes) if targets == ALL_LINEAR else layer_names("targets", targets)
    if unknown := chosen - set(sizes):
        raise ValueError(f"no linear layer is named {', '.join(sorted(unknown))}; there are {', '.join(sizes)}")
    return tuple(name for name in sizes if name in chosen)


def _constant_bytes(n_weights: int, block_size: int, double_quant: bool | DoubleQuant) -> int:
    n_blocks = -(-n_weights // block_size)
    if not double_quant:
        return 4 * n_blocks  # one float32 absmax per block
    how = DoubleQuant() if double_quant is True else double_quant
    codes = -(-n_blocks // codes_per_byte(len(get_codebook(how.code))))  # as a rule, a byte each
    return codes + 4 * -(-n_blocks // how.block_size) + 4 * how.subtract_mean  # one float32 per 256, and the mean


# --- architectures ---------------------------------------------------------------------------------------------------
# The shapes of real language models, and how many numbers they hold.
#
# Sources: GPT-2, Radford et al. 2019, table 2 (and its released code); LLaMA, Touvron et al. 2023, arXiv 2302.13971,
# table 2, and for d_ff its released code (8/3 of d_model, rounded up to a multiple of 256); Llama 3.1 and 3.2, Qwen3
# and Gemma 3: the config.json that each was released with. Of Gemma 3 27B only the text model is counted. Qwen3 30B-A3B
# is a mixture of experts: 128 in each block, of which a token uses 8.


@dataclass(frozen=True)
class Architecture:
    """What fixes the memory of a transformer. `gated`: the MLP has a third matrix, and there are no biases (LLaMA)."""

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int  # the inner width of the MLP
    vocab_size: int
    context: int
    gated: bool = False
    positions: bool = True  # a table of learned positions; LLaMA turns its queries and keys instead
    own_head: bool = True  # False: the head is the token embedding, used a second time
    n_kv_heads: int | None = None  # heads of keys and values, each shared by several of queries; None: one for each
    head_dim: int | None = None  # None: d_model / n_heads
    head_norms: bool = False  # queries and keys pass a norm, head by head (Qwen3, Gemma 3)
    norms_after: bool = False  # a norm after attention and after the MLP, too (Gemma 3)
    n_experts: int = 0  # a mixture of experts: each block has so many MLPs of width d_ff, and a router chooses
    experts_used: int = 0  # how many of them a token passes through

    @classmethod
    def of_gpt(cls, config: GPTConfig) -> "Architecture":
        """The course's own GPT."""
        return cls(
            config.n_layers, config.d_model, config.n_heads, 4 * config.d_model, config.vocab_size, config.context
        )

    @property
    def head_width(self) -> int:
        return self.head_dim or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def mlp_width(self) -> int:
        """How wide the MLP half of a block is for one token: in a mixture, all the experts that it passes through."""
        return self.experts_used * self.d_ff if self.n_experts else self.d_ff

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of the linear layers of one block, by name.

        The experts of a mixture are not among them: transformers 5 keeps those of a block in two tensors of three
        dimensions. What looks for linear layers, as bitsandbytes and `quantize_linears` do, passes them by.
        """
        d, f = self.d_model, self.d_ff
        q, kv = self.n_heads * self.head_width, self.kv_heads * self.head_width
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        if self.n_experts:
            return attention
        mlp = {"gate_proj": (d, f)} if self.gated else {}
        return attention | mlp | {"up_proj": (d, f), "down_proj": (f, d)}

    def parameters(self) -> dict[str, int]:
        """How many numbers there are, by kind. Only the block linears are ever quantized."""
        d, n_norms = self.d_model, (4 if self.norms_after else 2) * self.n_layers + 1
        biases = 0 if self.gated else self.n_layers * sum(outer for _, outer in self.linears.values())
        of_heads = 2 * self.head_width * self.n_layers * self.head_norms  # one norm for all queries, one for all keys
        return {
            "block linears": self.n_layers * sum(inner * outer for inner, outer in self.linears.values()),
            "experts": self.n_layers * self.n_experts * 3 * d * self.d_ff,  # each has a gate
            "routers": self.n_layers * self.n_experts * d,  # a score for each expert
            "embeddings": d * (self.vocab_size + (self.context if self.positions else 0)),
            "head": d * self.vocab_size if self.own_head else 0,
            # LLaMA's norms have no shift
            "norms and biases": n_norms * (d if self.gated else 2 * d) + of_heads + biases,
        }

    @property
    def n_parameters(self) -> int:
        return sum(self.parameters().values())

    def adapter_numbers(self, rank: int, targets: tuple[str, ...]) -> int:
        """How many numbers LoRA of this rank trains on these linear layers of every block."""
        return self.n_layers * sum(rank * sum(self.linears[name]) for name in targets)


def as_architecture(shape: GPTConfig | Architecture) -> Architecture:
    """A shape as it is given; the course's own GPT has one of its kind. Raises TypeError for what is no shape."""
    if isinstance(shape, GPTConfig):
        return Architecture.of_gpt(shape)
    if not isinstance(shape, Architecture):
        raise TypeError(f'shape must be an Architecture, such as ARCHITECTURES["LLaMA 7B"], got {shape!r}')
    return shape


# What the models of a family share; the numbers in the table are n_layers, d_model, n_heads and d_ff.
GPT2: dict[str, Any] = {"vocab_size": 50257, "context": 1024, "own_head": False}
ROTARY: dict[str, Any] = {"gated": True, "positions": False}
LLAMA = ROTARY | {"vocab_size": 32000, "context": 2048}
LLAMA3 = ROTARY | {"vocab_size": 128256, "context": 131072, "n_kv_heads": 8}
QWEN3 = ROTARY | {"vocab_size": 151936, "context": 40960, "n_kv_heads": 8, "head_dim": 128, "head_norms": True}
GEMMA3 = ROTARY | {"own_head": False, "head_norms": True, "norms_after": True}
GEMMA3_1B = GEMMA3 | {"n_kv_heads": 1, "head_dim": 256, "vocab_size": 262144, "context": 32768}
GEMMA3_27B = GEMMA3 | {"n_kv_heads": 16, "head_dim": 128, "vocab_size": 262208, "context": 131072}

ARCHITECTURES = {
    "GPT-2": Architecture(12, 768, 12, 3072, **GPT2),
    "GPT-2 XL": Architecture(48, 1600, 25, 6400, **GPT2),
    "LLaMA 7B": Architecture(32, 4096, 32, 11008, **LLAMA),
    "LLaMA 13B": Architecture(40, 5120, 40, 13824, **LLAMA),
    "LLaMA 33B": Architecture(60, 6656, 52, 17920, **LLAMA),
    "LLaMA 65B": Architecture(80, 8192, 64, 22016, **LLAMA),
    "Gemma 3 1B": Architecture(26, 1152, 4, 6912, **GEMMA3_1B),
    "Llama 3.2 1B": Architecture(16, 2048, 32, 8192, **LLAMA3 | {"own_head": False}),
    "Llama 3.1 8B": Architecture(32, 4096, 32, 14336, **LLAMA3),
    "Qwen3 8B": Architecture(36, 4096, 32, 12288, **QWEN3),
    "Gemma 3 27B": Architecture(62, 5376, 32, 21504, **GEMMA3_27B),
    "Qwen3 30B-A3B": Architecture(48, 2048, 32, 768, **QWEN3 | {"n_kv_heads": 4, "n_experts": 128, "experts_used": 8}),
    "Qwen3 32B": Architecture(64, 5120, 64, 25600, **QWEN3),
    "Llama 3.1 70B": Architecture(80, 8192, 64, 28672, **LLAMA3),
}
