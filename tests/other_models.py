"""Tiny models of Hugging Face's transformers, randomly initialized."""

from torch import nn


def tiny_llama(**options) -> nn.Module:
    """A Llama with fewer key heads than query heads and a vocabulary of 60."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=60, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **(sizes | options))).eval()


def tiny_gpt2() -> nn.Module:
    """A GPT-2, whose query, key and value are one Conv1D."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=60, n_positions=16, n_embd=24, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def twin(shape, **options) -> nn.Module:
    """The model with this shape in transformers: a Llama, a Qwen3, dense or a mixture, or a Gemma 3."""
    import transformers

    kind = "Gemma3Text" if shape.norms_after else "Qwen3" if shape.head_norms else "Llama"
    if shape.n_experts:
        kind = "Qwen3Moe"
        experts = {"num_experts": shape.n_experts, "num_experts_per_tok": shape.experts_used}
        options |= experts | {"moe_intermediate_size": shape.d_ff}
    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=shape.n_layers, hidden_size=shape.d_model, intermediate_size=shape.d_ff,
        num_attention_heads=shape.n_heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        vocab_size=shape.vocab_size, tie_word_embeddings=not shape.own_head, **options,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config)
