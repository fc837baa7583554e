"""lora-edu: LoRA and QLoRA built by hand, proven equal to the real libraries.

The core is seven files, an hour's reading in this order:

    lora_numpy      a linear layer with an adapter, forward and backward by hand, and the gradient check
    lora            LoRALinear in torch; adapters of a whole model: add, merge, save, combine
    codebooks       the fixed numbers of each format: NF4 and its relatives
    quantization    blocks, codes, packing, double quantization
    qlora           NF4Linear, the frozen layer in 4 bits; inside a LoRALinear it is QLoRA
    gpt             the small GPT that the course adapts
    training        the loop, evaluation, history

Beside it: layers (which are linear, what may be done to them), adapters (what they must be), peft_io (their files),
variants (rsLoRA, LoRA+, DoRA, PiSSA, VeRA); measures (errors, KL, low rank), rounding (codes and bits), calibration
(one temperature), observing (a model at work); files (where they are), downloads, tensor_files, records, texts. What
is fast or safe has a room of its own, engine; so have models and memory. What stands behind the notebooks is
`lora_course`.

Importing this package is light: each name below is imported when it is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "codebooks": ("nf_codebook",),
    "files": ("data_file",),
    "gpt": ("GPT", "GPTConfig"),
    "layers": ("trainable_summary",),
    "lora": (
        "LoRALinear",
        "adapter_state",
        "adapters_off",
        "add_lora",
        "combine",
        "load_adapter_state",
        "merge",
        "unload",
        "unmerge",
    ),
    "memory.activations": ("measured_activation_bytes", "predicted_activation_bytes"),
    "memory.calculator": ("training_bytes",),
    "memory.paged": ("PagedAdamW",),
    "memory.shapes": ("measured_bytes", "predicted_bytes"),
    "models.base": ("load_base", "pick_size"),
    "models.pretrained": ("load_pretrained",),
    "peft_io": ("load_adapter", "save_adapter"),
    "qlora": ("NF4Linear", "dequantize_linears", "merge_into_nf4", "quantize_linears"),
    "quantization": ("quantize",),
    "texts": ("available_texts", "load_text"),
    "training": ("History", "evaluate", "train"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'lora_edu' has no attribute {name!r}")
    return getattr(import_module(f"lora_edu.{_HOME[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
