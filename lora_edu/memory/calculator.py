"""A memory calculator: what fine-tuning a model of a known shape needs, by kind, before anything is downloaded.

Conventions, those of the QLoRA paper where it states them:
    - full fine-tuning takes 12 bytes for each number in 16 bits: the weight 2, its gradient 2, AdamW's two means 8.
      These means are in float32 whatever the weights are, as in bitsandbytes' AdamW; torch's own (and `PagedAdamW`)
      keep them in the weights' type, which makes 8 bytes. A float32 master copy of the weights, which many programs
      keep for full fine-tuning, would make 16: it is not in the 12;
    - quantized are the block linears only; embeddings, head, norms and biases stay in 16 bits. So do the experts of a
      mixture: `load_in_4bit` of transformers 5 with bitsandbytes replaces linear layers, and they are none
      (bitsandbytes#1849). They have no adapters here either;
    - fewer than 16 bits come with double-quantized constants, 0.127 bits a weight;
    - activations are those of code like the course's GPT, computed in bfloat16 without autocast, at the worst moment
      of a step (`Step.peak_parts`). Adapters in 32 bits keep float32 copies of their inputs;
    - logits are a kind of their own: three numbers of four bytes for each token and each word of the vocabulary, at the
      loss. If the worst moment is in a block, they are not there.
Not counted: the full copy of one weight that each product makes for a moment, and what the driver and the allocator
take for themselves. Leave 10% of a card for these, or more.
"""

from lora_edu.layers import ALL_LINEAR
from lora_edu.memory.activations import Step
from lora_edu.memory.shapes import (
    ADAPTERS,
    BASE,
    CONSTANTS,
    GRADIENTS,
    KINDS,
    OPTIMIZER,
    Architecture,
    as_architecture,
    target_names,
)

ACTIVATIONS, LOGITS = "activations", "logits"
ALL_KINDS = (*KINDS, ACTIVATIONS, LOGITS)
BITS = (4, 8, 16, 32)
CONSTANT_BITS = 8 / 64 + 32 / (64 * 256)  # double quantization, a weight
CARDS_GB = (8, 12, 16, 24, 32, 40, 48, 80)  # as they are sold: a "24 GB" card has 24 GiB
GIB = 2**30
USABLE = 0.9  # of a card: what is above it is left for the driver, the allocator and temporary tensors


def training_bytes(
    shape: Architecture,
    *,
    bits: int = 16,
    rank: int | None = None,
    targets: str | tuple[str, ...] = ALL_LINEAR,
    batch_size: int = 1,
    seq_len: int = 512,
    checkpointing: bool = False,
    adapter_bits: int = 32,
    paged: bool = False,
    float32_rest: bool = False,
) -> dict[str, float]:
    """The bytes by kind while a model is trained.

    shape: the model's, such as `ARCHITECTURES["LLaMA 7B"]`.
    bits: of each weight in the block linears.
    rank: None for full fine-tuning, else LoRA on `targets`, its numbers and their gradients in `adapter_bits`.
    batch_size: how many sequences a step sees. seq_len: how many tokens each has.
    checkpointing: each block keeps its input only, and computes the rest again.
    paged: the optimizer's state is on the host.
    float32_rest: what is no block linear is in 32 bits, and so are all activations: PEFT's
    `prepare_model_for_kbit_training`, which casts the experts of a mixture, too.
    Raises ValueError for bits that are not 4, 8, 16 or 32, adapter_bits that are not 16 or 32, for training weights of
    fewer than 16 bits, and for a rank, a batch or a length below 1.
    """
    _check_bits(bits, adapter_bits, rank)
    precision = "float32" if bits == 32 or float32_rest else "bfloat16"
    precision += ", float32 adapters" * (precision == "bfloat16" and adapter_bits == 32)
    shape = as_architecture(shape)
    step = Step(shape, batch_size, seq_len, rank, targets, checkpointing, precision)
    numbers = shape.parameters()
    linear, kept = numbers["block linears"], shape.n_parameters - numbers["block linears"]
    total = dict.fromkeys(ALL_KINDS, 0.0)
    total[BASE] = (linear * bits + kept * max(bits, 32 if float32_rest else 16)) / 8
    total[CONSTANTS] = linear * CONSTANT_BITS / 8 if bits < 16 else 0.0
    if rank is None:
        trained, trained_bits = shape.n_parameters, bits
    else:
        trained, trained_bits = shape.adapter_numbers(rank, target_names(shape.linears, targets)), adapter_bits
        total[ADAPTERS] = trained * adapter_bits / 8
    total[GRADIENTS] = trained * trained_bits / 8
    total[OPTIMIZER] = 0.0 if paged else 8.0 * trained  # two float32 numbers, whatever the type of the weight
    total[ACTIVATIONS], total[LOGITS] = step.peak_parts
    return total


def smallest_card(n_bytes: float) -> int | None:
    """The smallest card that holds so many bytes with a tenth to spare, by the number in its name: times 2**30 bytes.
    None if none does."""
    return next((card for card in CARDS_GB if n_bytes <= USABLE * card * GIB), None)


def _check_bits(bits: int, adapter_bits: int, rank: int | None) -> None:
    if bits not in BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
    if adapter_bits not in (16, 32):
        raise ValueError(f"adapter_bits must be 16 or 32, got {adapter_bits!r}")
    if rank is None and bits < 16:
        raise ValueError(f"{bits}-bit weights cannot be trained themselves: give a rank, for adapters, or 16 bits")
