"""lora-edu: LoRA and QLoRA built by hand, proven equal to the real libraries.

The core is seven files, an hour's reading in this order:

    lora_numpy      a linear layer with an adapter, forward and backward by hand, and the gradient check
    lora            LoRALinear in torch; adapters of a whole model: add, merge, save, combine
    codebooks       the fixed numbers of each format: NF4 and its relatives
    quantization    blocks, codes, packing, double quantization
    qlora           NF4Linear, the frozen layer in 4 bits; inside a LoRALinear it is QLoRA
    gpt             the small GPT that the course adapts
    training        the loop, evaluation, history

Beside it: layers (which are linear, what may be done to them), measures (errors, bits, low rank), peft_io (adapter
files), variants (rsLoRA, LoRA+, DoRA, PiSSA, VeRA), texts, files, records. What is fast, long or drawn has rooms of its
own: engine, models, memory, figures, experiments, exercises, assignments, setup, alive.

Importing this package is light: each name below is imported when it is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "GPT": "gpt",
    "GPTConfig": "gpt",
    "History": "training",
    "LoRALinear": "lora",
    "NF4Linear": "qlora",
    "PagedAdamW": "memory.paged",
    "adapter_state": "lora",
    "add_lora": "lora",
    "available_texts": "texts",
    "combine": "lora",
    "data_file": "files",
    "dequantize_linears": "qlora",
    "evaluate": "training",
    "load_adapter": "peft_io",
    "load_adapter_state": "lora",
    "load_base": "models.pretrain",
    "load_pretrained": "models.pretrained",
    "load_text": "texts",
    "measured_activation_bytes": "memory.activations",
    "measured_bytes": "memory.shapes",
    "merge": "lora",
    "nf_codebook": "codebooks",
    "predicted_activation_bytes": "memory.activations",
    "predicted_bytes": "memory.shapes",
    "pick_size": "models.pretrain",
    "quantize": "quantization",
    "quantize_linears": "qlora",
    "save_adapter": "peft_io",
    "train": "training",
    "training_bytes": "memory.calculator",
    "trainable_summary": "layers",
    "unload": "lora",
    "unmerge": "lora",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'lora_edu' has no attribute {name!r}")
    return getattr(import_module(f"lora_edu.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
