"""QLoRA as users of Hugging Face's libraries write it, on a small random model, beside the two calls of the course.

The libraries come with `make test`, not with the course: `missing()` says which are not there.
"""

import contextlib
import importlib.util
import io
import tempfile
import warnings

import torch
from torch import nn

from lora_edu import quantize_linears, trainable_summary
from lora_edu.lora import add_lora, lora_layers
from lora_edu.models.pretrained import no_reports

LIBRARIES = ("transformers", "accelerate", "peft", "bitsandbytes")


def missing() -> list[str]:
    """Those of the libraries that are not installed here."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def compare(rank: int = 8, alpha: int = 16) -> dict[str, bool]:
    """Build the same QLoRA model twice, with the libraries and with the course. What is equal: question -> answer."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from transformers import LlamaForCausalLM

        torch.manual_seed(0)
        base = LlamaForCausalLM(_small_config())
        base.save_pretrained(folder)
        theirs = by_the_libraries(folder, rank, alpha)
        ours = add_lora(quantize_linears(base, double_quant=True), rank, alpha, targets="all-linear")
        layers = lora_layers(ours)
        others = {path: theirs.base_model.model.get_submodule(path).base_layer for path in layers}
        codes = all(torch.equal(layer.base.codes, others[path].weight.flatten()) for path, layer in layers.items())
        tokens = torch.arange(12)[None]  # in evaluation mode bitsandbytes may pack its weights anew, for bfloat16
        apart = (theirs.train()(tokens).logits - ours(tokens).logits).abs().max().item()
    return {
        "the same layers are in 4 bits": all(type(layer).__name__ == "Linear4bit" for layer in others.values()),
        "every byte of codes": codes,
        "as many numbers are trained": theirs.get_nb_trainable_parameters()[0] == trainable_summary(ours).trainable,
        "the logits, up to rounding": apart < 1e-3,
    }


def by_the_libraries(folder: str, rank: int, alpha: int) -> nn.Module:
    """The four calls of notebook 09."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, dtype=torch.float32)
    model = prepare_model_for_kbit_training(model)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear"))


def _small_config():
    from transformers import LlamaConfig

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 300}
    return LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)


@contextlib.contextmanager
def quiet():
    """Without what the libraries say about this machine while they are imported."""
    with no_reports(), warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
        yield
