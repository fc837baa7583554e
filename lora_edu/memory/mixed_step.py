"""The peak memory of a QLoRA step in mixed precision, predicted from the model's shape: the course's GPT, adapters on
all block linears, nothing compiled, no checkpointing.

What stays between two steps is in `shapes`, what the forward pass keeps in `activations`. On top come temporary copies.
With many tokens the peak is in the last block's MLP, where `down_proj`'s adapter holds its wide input three times: as
it came, in float32 for a moment (adapters are float32), and in 16 bits again (autocast casts it back).
`tests/test_cuda.py` holds this against a measurement, `benchmarks/gpu.py` against a GPU's own count.
"""

from lora_edu.gpt import GPTConfig
from lora_edu.memory.activations import predicted_activation_bytes
from lora_edu.memory.shapes import GRADIENTS, predicted_bytes


def step_peak_bytes(config: GPTConfig, batch_size: int, seq_len: int, rank: int) -> int:
    """The most memory at one moment of a training step: weights, constants, adapters, AdamW's state, the batch, and
    the activations with their temporary copies. Not counted: what the libraries of a GPU take for themselves.
    """
    n_tokens = batch_size * seq_len
    resident = predicted_bytes(config, nf4=True, rank=rank)
    resident = sum(resident.values()) - resident[GRADIENTS]  # they are not there yet
    inputs = 8 * n_tokens  # the targets are kept anyway
    kept = predicted_activation_bytes(config, batch_size, seq_len, rank=rank, precision="autocast", nf4=True)
    return resident + inputs + kept + max(_temporary_bytes(config, n_tokens).values())


def _temporary_bytes(config: GPTConfig, n_tokens: int) -> dict[str, int]:
    """What three moments add to all that is kept, or are still without: name -> bytes."""
    d, loss = config.d_model, 4 * config.vocab_size  # of a token: float32 logarithms of the probabilities
    # In the last MLP the final norm (its input and two statistics) and the loss are still to come. The MLP holds its
    # own input, float32, and GELU's output, 16 bits.
    in_mlp = 4 * d + 2 * 4 * d - (4 * d + 8) - loss
    return {
        # the float32 copy of the adapter's input; the product with W is there
        "down_proj's adapter": n_tokens * (in_mlp + 4 * 4 * d + 2 * d),
        # W in 16 bits, and what it is decoded with: float32 values, and an index of 4 bytes for two of them; the
        # adapter's own copy of its input is not there yet
        "down_proj's product": n_tokens * (in_mlp - 2 * 4 * d) + (2 + 4 + 2) * 4 * d * d,
        # two gradients of the logits
        "the loss": n_tokens * 2 * loss,
    }
