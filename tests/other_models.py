"""Tiny models of Hugging Face's transformers, randomly initialized."""

from torch import nn


def tiny_llama(**options) -> nn.Module:
    """A Llama with fewer key heads than query heads and a vocabulary of 60."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, num_key_value_heads=2, **(sizes | options))).eval()
