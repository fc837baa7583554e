"""Where the bytes go: memory by kind, measured from the tensors that are alive and predicted from the configuration.

The kinds are those that fine-tuning methods differ in. Activations, which depend on the batch, are counted in
`lora_edu.memory.activations`; `lora_edu.memory.calculator` has all kinds for models that nobody has loaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass

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

# The two codebooks of double-quantized NF4, 16 and 256 float32 numbers: once for all layers, in none of the kinds.
CODEBOOK_BYTES = 4 * (16 + 256)

# (in, out) of a block's linear layers as multiples of d_model
BLOCK_LINEARS = {"q_proj": (1, 1), "k_proj": (1, 1), "v_proj": (1, 1), "o_proj": (1, 1),
                 "up_proj": (1, 4), "down_proj": (4, 1)}  # fmt: skip


def measured_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """The bytes of a model's tensors by kind, as they are in memory now. A tensor in two places counts once.

    The codebooks, which all quantized layers share, belong to no kind: `CODEBOOK_BYTES`, once.
    """
    found: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}  # kind -> identity of a storage -> bytes

    def count(kind: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            found[kind][tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()

    for path, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if "codebook" in name:
                continue  # one tensor for all layers: CODEBOOK_BYTES in all
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

    nf4: block linears in NF4. rank: None for full fine-tuning, else LoRA on `targets`. trained: with gradients and
    torch's AdamW's state, as they are after one step: two numbers per trained one, in its type (here float32), and
    a step count of four bytes per tensor. Raises TypeError for another kind of config, ValueError for a bad rank,
    target or block size.
    """
    if not isinstance(config, GPTConfig):
        raise TypeError(f"config must be a GPTConfig, got {type(config).__name__}: training_bytes knows other models")
    check(optional(whole(1)), rank=rank)
    check_settings(block_size, double_quant)
    d, layers = config.d_model, config.n_layers
    sizes = {name: (d * inner, d * outer) for name, (inner, outer) in BLOCK_LINEARS.items()}
    linear = layers * sum(inner * outer for inner, outer in sizes.values())
    biases = layers * sum(outer for _, outer in sizes.values())
    norms = 2 * d * (2 * layers + 1)
    embeddings = d * (config.vocab_size + config.context)
    head = d * config.vocab_size
    kept = embeddings + head + norms + biases  # never quantized
    total = {kind: 0 for kind in KINDS}
    total[BASE] = 4 * kept + (linear // 2 if nf4 else 4 * linear)
    if nf4:
        total[CONSTANTS] = layers * sum(
            _constant_bytes(inner * outer, block_size, double_quant) for inner, outer in sizes.values()
        )
    if rank is None:
        trained_numbers, trained_tensors = linear + kept, 3 + 2 * (2 * layers + 1) + 2 * 6 * layers
    else:
        chosen = target_names(sizes, targets)
        trained_numbers = layers * sum(rank * sum(sizes[name]) for name in chosen)
        trained_tensors = 2 * layers * len(chosen)
        total[ADAPTERS] = 4 * trained_numbers
    if trained:
        total[GRADIENTS] = 4 * trained_numbers
        total[OPTIMIZER] = 2 * 4 * trained_numbers + 4 * trained_tensors
    return total


def target_names(sizes: Iterable[str], targets: str | Iterable[str]) -> tuple[str, ...]:
    """The names of the block linears that have an adapter, each once. Raises ValueError for one that there is not."""
    chosen = set(sizes) if targets == ALL_LINEAR else layer_names("targets", targets)
    if unknown := chosen - set(sizes):
        raise ValueError(
            f"no linear layer of a block is named {', '.join(sorted(unknown))}; there are: {', '.join(sizes)}"
        )
    return tuple(name for name in sizes if name in chosen)


def _constant_bytes(n_weights: int, block_size: int, double_quant: bool | DoubleQuant) -> int:
    n_blocks = -(-n_weights // block_size)
    if not double_quant:
        return 4 * n_blocks  # one float32 absmax per block
    how = DoubleQuant() if double_quant is True else double_quant
    codes = -(-n_blocks // codes_per_byte(len(get_codebook(how.code.removesuffix("-cpu")))))  # as a rule, a byte each
    return codes + 4 * -(-n_blocks // how.block_size) + 4 * how.subtract_mean  # one float32 per 256, and the mean


def table(predicted: dict[str, int], measured: dict[str, int]) -> str:
    """Both side by side, in kB, as text."""
    lines = [f"{'':24}{'predicted kB':>14}{'measured kB':>14}"]
    for kind in [*KINDS, "total"]:
        pair = [sum(side.values()) if kind == "total" else side[kind] for side in (predicted, measured)]
        lines.append(f"{kind:24}{pair[0] / 1e3:>14,.1f}{pair[1] / 1e3:>14,.1f}")
    return "\n".join(lines)


# --- architectures ---------------------------------------------------------------------------------------------------
# The shapes of real language models, and how many numbers they hold.
#
# Sources: GPT-2, Radford et al. 2019, table 2 (and its released code); LLaMA, Touvron et al. 2023, arXiv 2302.13971,
# table 2, and for d_ff its released code (8/3 of d_model, rounded up to a multiple of 256).


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

    @classmethod
    def of_gpt(cls, config: GPTConfig) -> "Architecture":
        """The course's own GPT."""
        return cls(
            config.n_layers, config.d_model, config.n_heads, 4 * config.d_model, config.vocab_size, config.context
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of the linear layers of one block, by name."""
        d, f = self.d_model, self.d_ff
        mlp = {"gate_proj": (d, f)} if self.gated else {}
        return (
            {name: (d, d) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
            | mlp
            | {
                "up_proj": (d, f),
                "down_proj": (f, d),
            }
        )

    def parameters(self) -> dict[str, int]:
        """How many numbers there are, by kind. Only the block linears are ever quantized."""
        d, n_norms = self.d_model, 2 * self.n_layers + 1
        biases = 0 if self.gated else self.n_layers * sum(outer for _, outer in self.linears.values())
        return {
            "block linears": self.n_layers * sum(inner * outer for inner, outer in self.linears.values()),
            "embeddings": d * (self.vocab_size + (self.context if self.positions else 0)),
            "head": d * self.vocab_size if self.own_head else 0,
            "norms and biases": n_norms * (d if self.gated else 2 * d) + biases,  # LLaMA's norms have no shift
        }

    @property
    def n_parameters(self) -> int:
        return sum(self.parameters().values())

    def adapter_numbers(self, rank: int, targets: tuple[str, ...]) -> int:
        """How many numbers LoRA of this rank trains on these linear layers of every block."""
        return self.n_layers * sum(rank * sum(self.linears[name]) for name in targets)


def _gpt2(n_layers: int, d_model: int, n_heads: int) -> Architecture:
    return Architecture(n_layers, d_model, n_heads, 4 * d_model, vocab_size=50257, context=1024, own_head=False)


def _llama(n_layers: int, d_model: int, n_heads: int) -> Architecture:
    d_ff = 256 * -(-(8 * d_model // 3) // 256)
    return Architecture(n_layers, d_model, n_heads, d_ff, vocab_size=32000, context=2048, gated=True, positions=False)


ARCHITECTURES = {
    "GPT-2": _gpt2(12, 768, 12),
    "GPT-2 medium": _gpt2(24, 1024, 16),
    "GPT-2 large": _gpt2(36, 1280, 20),
    "GPT-2 XL": _gpt2(48, 1600, 25),
    "LLaMA 7B": _llama(32, 4096, 32),
    "LLaMA 13B": _llama(40, 5120, 40),
    "LLaMA 33B": _llama(60, 6656, 52),
    "LLaMA 65B": _llama(80, 8192, 64),
}
