"""The shapes of real language models, and how many numbers they hold.

Sources: GPT-2, Radford et al. 2019, table 2 (and its released code); LLaMA, Touvron et al. 2023, arXiv 2302.13971,
table 2, and for d_ff its released code (8/3 of d_model, rounded up to a multiple of 256).
"""

from dataclasses import dataclass

from lora_edu.gpt import GPTConfig


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
