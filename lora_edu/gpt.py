"""A small GPT: the model that the course adapts.

Architecture: GPT-2 (Radford et al. 2019) with pre-normalization, learned positions and the tanh-approximated GELU.
What differs from the published GPT-2 code:
    - tokens are bytes, so there are 256 of them and no tokenizer to explain;
    - the output head is a linear layer of its own ("untied"), not the transposed token embedding;
    - query, key and value are three linear layers and not one, so that an adapter can target each by name.
`tests/lora_edu/test_gpt.py` holds the logits against `transformers` with the same weights.

Shapes: batch B, sequence S, heads H, head size D, model width `d_model` = H * D.
"""

import math
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_edu.checks import GENERATOR, NOT_NEGATIVE, check, check_tokens, optional, whole, with_checked_tokens
from lora_edu.layers import evaluating, has_hooks

CHECKPOINTING = ("none", "non-reentrant", "reentrant")


def encode(text: str) -> Tensor:
    """Turn text into tokens: its UTF-8 bytes, a uint8 tensor of shape (seq,)."""
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.uint8, device="cpu")


def decode(tokens: Tensor) -> str:
    """Turn tokens (seq,) back into text; a byte that is not valid UTF-8 becomes the replacement character."""
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class GPTConfig:
    """The numbers that fix the shape of a GPT. The defaults are the course's laptop model, 3.4 million parameters."""

    vocab_size: int = 256  # one token per byte value
    context: int = 256  # the longest sequence the model can read
    n_layers: int = 4  # blocks, one after the other
    n_heads: int = 4  # of attention, in each block
    d_model: int = 256  # the width of the stream: how many numbers stand for a token

    def __post_init__(self) -> None:
        check(whole(1), **vars(self))
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got d_model={self.d_model}, n_heads={self.n_heads}"
            )


class Attention(nn.Module):
    """Causal multi-head attention: each position takes a weighted average over itself and the positions before it."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.o_proj = nn.Linear(config.d_model, config.d_model)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, S, H * D) -> (B, H, S, D)"""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, d_model) -> (B, S, d_model)"""
        q, k, v = (self.split_heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        # softmax(q k^T / sqrt(D) + causal mask) v
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, S, D)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to each position on its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, 4 * config.d_model)
        self.down_proj = nn.Linear(4 * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, d_model) -> (B, S, d_model)"""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class Block(nn.Module):
    """One transformer block: attention and an MLP, each added to the stream that runs past it."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, d_model) -> (B, S, d_model)"""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """A decoder-only transformer that reads bytes and predicts the next one.

    checkpointing: "none" keeps what every block computes until the backward pass. The two others keep each block's
    input only and compute the rest again in the backward pass (Chen et al. 2016, arXiv 1604.06174); use
    "non-reentrant". "reentrant" is torch's older way, which gives adapters no gradient when the embeddings are frozen
    (notebook 08). It can be switched at any time, `model.checkpointing = "non-reentrant"`; no weight depends on it.
    """

    def __init__(self, config: GPTConfig, checkpointing: str = "none"):
        super().__init__()
        _check_checkpointing(checkpointing)
        self.config, self.checkpointing = config, checkpointing
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context, config.d_model)
        blocks = [Block(config) for _ in range(config.n_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.apply(_init_weights)
        # GPT-2 scales what is added to the stream: 2 * n_layers terms of variance 1 / (2 * n_layers) sum to 1.
        for block in blocks:
            for proj in (block.attention.o_proj, block.mlp.down_proj):
                nn.init.normal_(proj.weight, std=0.02 / math.sqrt(2 * config.n_layers))

    @with_checked_tokens
    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Predict the next token at every position.

        tokens: (B, S) of integers, S <= context; targets: (B, S) or None.
        Returns logits (B, S, vocab_size) and the mean cross-entropy in nats per token (None without targets).
        Raises ValueError for another shape, a sequence longer than the context or a token outside the vocabulary (on a
        GPU torch stops with "device-side assert triggered" instead), TypeError for tokens that are no whole numbers.
        """
        seq = tokens.shape[-1]
        if seq > self.config.context:
            raise ValueError(
                f"a sequence may have at most {self.config.context} tokens (the model's context), got {seq}"
            )
        positions = torch.arange(seq, device=tokens.device)
        x = self.token_embedding(tokens.long()) + self.position_embedding(positions)  # (B, S, d_model)
        for block in self.blocks:
            x = self._run_block(block, x)
        logits = self.lm_head(self.final_norm(x))  # (B, S, vocab_size)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().long())

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """x: (B, S, d_model) -> (B, S, d_model)"""
        _check_checkpointing(self.checkpointing)
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            return block(x)
        return checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")

    @torch.no_grad()
    def generate(
        self,
        prompt: str | Tensor,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> str | Tensor:
        """Continue a prompt, one token at a time.

        prompt: text, or tokens (B, S); the answer is of the same kind and starts with the prompt.
        temperature: divides the logits; 0 takes the likeliest token. top_k: sample among the k likeliest only.
        generator: a CPU generator, for samples that can be repeated.
        The model reads at most its context: a longer prompt is cropped to its end, with a warning.
        Raises ValueError for an empty prompt, a token outside the vocabulary, a negative temperature or top_k below 1.
        """
        check(whole(0), max_new_tokens=max_new_tokens)
        check(NOT_NEGATIVE, temperature=temperature)
        check(optional(whole(1)), top_k=top_k)
        check(optional(GENERATOR), generator=generator)
        tokens = self._prompt_tokens(prompt)  # (B, S)
        with evaluating(self):
            cache, unread = KVCache(self), tokens
            for _ in range(max_new_tokens):
                if cache.is_plain and tokens.shape[-1] <= self.config.context:
                    logits = cache.read(unread)
                else:  # beyond the context the first token goes, and every position moves: the cache no longer fits
                    logits = self(tokens[:, -self.config.context :])[0][:, -1]
                unread = sample(logits.float().cpu(), temperature, top_k, generator).to(tokens.device)  # (B, 1)
                tokens = torch.cat([tokens, unread], dim=1)
        return decode(tokens[0]) if isinstance(prompt, str) else tokens

    def _prompt_tokens(self, prompt: str | Tensor) -> Tensor:
        """The prompt as tokens (B, S) int64 on the model's device, checked."""
        tokens = encode(prompt)[None] if isinstance(prompt, str) else prompt
        check_tokens("prompt", tokens, self.config.vocab_size)
        if tokens.ndim != 2:
            raise ValueError(f"prompt must be text or tokens of shape (B, S), got shape {tuple(tokens.shape)}")
        if tokens.shape[-1] == 0:
            raise ValueError("the prompt is empty: give the model at least one character to continue")
        if tokens.shape[-1] > self.config.context:
            warnings.warn(
                f"the prompt has {tokens.shape[-1]} tokens; only the last {self.config.context} fit the context",
                stacklevel=4,  # two more than usual: this function, and no_grad around generate
            )
        return tokens.long().to(self.token_embedding.weight.device)


class KVCache:
    """The keys and values of the tokens that a model has read, kept so that the next token is read alone.

    A token's key and value depend on the tokens before it only, and never change again: so n tokens cost n passes over
    one token each, and not over 1 + 2 + ... + n. The arithmetic is that of the classes above: a model in which a part
    has hooks, is another or may look at other positions is read in full.
    """

    def __init__(self, model: GPT):
        self.model, self.length = model, 0
        self.is_plain = is_as_written(model)
        self.pairs: list[tuple[Tensor, Tensor] | None] = [None] * len(model.blocks)  # (B, H, length, D) each

    def read(self, tokens: Tensor) -> Tensor:
        """tokens: (B, S) that follow those read before -> logits (B, vocab_size) after the last of them."""
        model = self.model
        positions = torch.arange(self.length, self.length + tokens.shape[-1], device=tokens.device)
        x = model.token_embedding(tokens) + model.position_embedding(positions)  # (B, S, d_model)
        for number, block in enumerate(model.blocks):
            x = x + self._attention(number, block.attention, block.attention_norm(x))
            x = x + block.mlp(block.mlp_norm(x))
        self.length += tokens.shape[-1]
        return model.lm_head(model.final_norm(x[:, -1]))

    def _attention(self, number: int, layer: Attention, x: Tensor) -> Tensor:
        """x: (B, S, d_model) -> (B, S, d_model)"""
        q, k, v = (layer.split_heads(proj(x)) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))
        if before := self.pairs[number]:
            k, v = (torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True))
        self.pairs[number] = (k, v)
        # a token sees all that is cached; of several at once, the prompt, each sees those before it
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        return layer.o_proj(mixed.transpose(1, 2).flatten(-2))


WRITTEN = {kind: dict(vars(kind)) for kind in (GPT, Block, Attention, MLP)}  # the classes, as they are written above
ONE_BY_ONE = (nn.ModuleList, nn.Embedding, nn.LayerNorm, nn.Linear, nn.Dropout)  # each position by itself


def is_as_written(model: GPT) -> bool:
    """Whether all that a model computes is what the classes above say: no hook, no other part, no method replaced."""
    places: dict[nn.Module, type[nn.Module]] = {model: GPT}
    for block in model.blocks:
        places[block] = Block
        if type(block) is Block:
            places |= {block.attention: Attention, block.mlp: MLP}
    if nn.modules.module._has_any_global_hook():
        return False
    return all(_is_plain(module, places.get(module)) for module in model.modules())


def _is_plain(module: nn.Module, wanted: type[nn.Module] | None) -> bool:
    """Whether a module is unchanged, and of the class that is wanted in its place, or one that works one by one."""
    kind = type(module)
    replaced = [name for name in vars(module) if callable(getattr(kind, name, None))]
    if replaced or has_hooks(module):
        return False
    if wanted or kind in WRITTEN:
        return kind is wanted and dict(vars(kind)) == WRITTEN[kind]
    return kind in ONE_BY_ONE or kind.__module__.startswith("lora_edu.")


def sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row from logits (B, vocab_size); returns (B, 1)."""
    if temperature < 1e-30:  # 0, or so small that only the likeliest token is left
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        smallest_kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    return torch.multinomial(F.softmax(logits / temperature, dim=-1), num_samples=1, generator=generator)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _check_checkpointing(checkpointing: str) -> None:
    if checkpointing not in CHECKPOINTING:
        raise ValueError(f"checkpointing must be one of {', '.join(CHECKPOINTING)}, got {checkpointing!r}")
