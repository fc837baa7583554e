"""The peak memory of a QLoRA step in mixed precision, predicted from the model's shape: the course's GPT, adapters on
all block linears, nothing compiled, no checkpointing.

`lora_edu.activations` counts float32. Under autocast the types mix: what runs through the blocks (the residual stream)
and the norms' inputs stay in float32, matrix products are in 16 bits, and every adapter keeps a 16-bit copy of its
input of its own. With many tokens the peak is not at the end of the forward pass. It is in the last block's MLP, where
`down_proj`'s adapter holds its wide input three times: as it came, in float32 for a moment, and in 16 bits again.

`tests/test_step_memory.py` holds both against measurements on the CPU; `benchmarks/gpu.py` against a GPU's own count.
"""

from lora_edu.gpt import GPTConfig
from lora_edu.memory import GRADIENTS, predicted_bytes


def block_bytes(config: GPTConfig, rank: int) -> dict[str, int]:
    """What one block keeps for the backward pass: name -> bytes for each token."""
    d = config.d_model
    return {
        "inputs of both norms, float32": 2 * 4 * d,
        "mean and deviation in both norms": 2 * 8,
        "q, k, v and attention's output": 4 * 2 * d,
        "log-sum of each softmax row": 4 * config.n_heads,
        "copies of the adapters' inputs": 2 * (5 * d + 4 * d),  # five of width d, and down_proj's
        "s A x of six adapters": 6 * 2 * rank,
        "GELU's input": 2 * 4 * d,
    }


def kept_bytes(config: GPTConfig, batch_size: int, seq_len: int, rank: int) -> int:
    """All that the forward pass keeps, the targets included: to the byte on the CPU."""
    d, vocab, n_tokens = config.d_model, config.vocab_size, batch_size * seq_len
    norm = 4 * d + 8  # a norm's input, and its two statistics
    blocks = config.n_layers * sum(block_bytes(config, rank).values())
    # The first block's norm reads frozen embeddings and keeps nothing; after the last block there is one norm more.
    per_token = blocks - norm + norm + _loss_bytes(config) + 8
    # 16-bit copies of A and B, but of A only where a gradient passes through it, not at the first q, k and v
    adapters = 2 * (config.n_layers * rank * 18 * d - 3 * rank * d)
    return n_tokens * per_token + adapters + 2 * vocab * d + 4  # the head in 16 bits, and the number of tokens


def peak_bytes(config: GPTConfig, batch_size: int, seq_len: int, rank: int) -> int:
    """The most memory at one moment of a training step: weights, constants, adapters, AdamW's state, the batch, and
    the activations with their temporary copies. Not counted: what the libraries of a GPU take for themselves.
    """
    d, n_tokens = config.d_model, batch_size * seq_len
    resident = predicted_bytes(config, nf4=True, rank=rank)
    resident = sum(resident.values()) - resident[GRADIENTS]  # they are not there yet
    # Three moments. In the last MLP the final norm and the loss are still to come; the MLP holds its input in float32
    # (4 d) and GELU's output in 16 bits (8 d).
    in_mlp = 4 * d + 8 * d - (4 * d + 8) - _loss_bytes(config)
    # down_proj's adapter: a float32 copy of its input (16 d); the product with W is there (2 d).
    in_adapter = n_tokens * (in_mlp + 16 * d + 2 * d)
    # Before that, its dequantized W, in float32 and in 16 bits; the adapter's own copy (8 d) is not there yet.
    in_product = n_tokens * (in_mlp - 8 * d) + (4 + 2) * 4 * d * d
    # The loss: two gradients of the logits.
    in_loss = n_tokens * 2 * _loss_bytes(config)
    batch = 8 * n_tokens  # the inputs; the targets are kept anyway
    return resident + batch + kept_bytes(config, batch_size, seq_len, rank) + max(in_adapter, in_product, in_loss)


def _loss_bytes(config: GPTConfig) -> int:
    """For each token: the logarithms of the probabilities, float32."""
    return 4 * config.vocab_size
