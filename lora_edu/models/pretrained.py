"""Language models that nobody here wrote, to be quantized, adapted and trained like the course's own.

`transformers`, `gguf` and `accelerate` come with the course, and are imported when a model is loaded.
Weights are read from safetensors or GGUF files only. A pickle could run any code when it is opened: it is refused, and
no code that comes with a model is run.
"""

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from lora_edu.downloads import DownloadError, model_folder
from lora_edu.training import pick_device

BUNDLED = "smollm2"
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"  # owner/name
# What the libraries raise for files that they cannot read: struct.error, for one, where a GGUF file ends too early.
UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, TypeError, struct.error, SafetensorError)


class Pretrained(NamedTuple):
    """A language model and the tokenizer it was trained with."""

    model: nn.Module  # called with ids (batch, seq) int64; its result has logits (batch, seq, vocab)
    tokenizer: Any


def load_pretrained(name_or_path: str | Path = BUNDLED, device: str | torch.device | None = None) -> Pretrained:
    """Load a causal language model in float32, in evaluation mode, and its tokenizer.

    name_or_path: `smollm2` (SmolLM2-135M-Instruct, fetched once like the texts), a folder (with one GGUF file, or with
    the files that `save_pretrained` writes), or the id of a model on the Hugging Face hub, `owner/name`.
    device: where to put it; None chooses as `train` does.
    Raises ModuleNotFoundError without `transformers`, DownloadError for what is neither here nor to be had,
    FileNotFoundError for a folder that does not exist, ValueError for one without a language model.
    """
    source, options = _locate(str(name_or_path))
    with no_reports(), _read_once() if "gguf_file" in options else nullcontext():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        wanted = dict(torch_dtype=torch.float32, use_safetensors=True)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model, report = AutoModelForCausalLM.from_pretrained(
                source, **options, **wanted, ignore_mismatched_sizes=True, output_loading_info=True
            )
        except UNREADABLE as error:
            raise _explained(str(name_or_path), error) from error
    _check_complete(str(name_or_path), report)
    return Pretrained(model.eval().to(pick_device(device)), tokenizer)


def next_token_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The `loss_fn` of a `transformers` model: the mean surprise at the targets, in nats per token. Both (batch, seq).

    Their own `labels=` is not used: it moves the labels on by one token, and our targets are moved on already.
    """
    logits = model(inputs, use_cache=False).logits  # (batch, seq, vocab)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def tokenize(tokenizer: Any, text: Tensor) -> Tensor:
    """The bytes of a text, (n_bytes,) uint8, as the tokens of a model, (n_tokens,) int64."""
    characters = bytes(text.tolist()).decode("utf-8")
    options = dict(add_special_tokens=False, verbose=False)
    return torch.tensor(tokenizer(characters, **options)["input_ids"])


def _check_complete(name: str, report: dict) -> None:
    """What the file does not have, or has in another shape, was filled with random numbers."""
    if report["missing_keys"]:
        raise ValueError(f"{name} is not a causal language model: it has no weights for {min(report['missing_keys'])}")
    if report["mismatched_keys"]:
        weight, found, expected = min(report["mismatched_keys"])
        raise ValueError(
            f"the files of {name} do not belong together: {weight} has the shape {tuple(found)}, and config.json asks "
            f"for {tuple(expected)}. Take both from the same model"
        )


def _locate(name: str) -> tuple[str, dict]:
    """What `from_pretrained` is called with: the place, and options such as the name of a GGUF file."""
    options = {"trust_remote_code": False}  # without it, transformers asks the reader, and runs it after a yes
    folder = model_folder(BUNDLED) if name == BUNDLED else Path(name).expanduser()
    if not folder.exists():
        if re.fullmatch(HUB_ID, name):
            return name, options
        raise FileNotFoundError(
            f"there is no folder {name}, and it is no name of a model: use {BUNDLED!r} (comes with the course), "
            "the path of a folder, or an id on the Hugging Face hub such as 'HuggingFaceTB/SmolLM2-135M'"
        )
    if folder.is_file():
        raise ValueError(f"{folder} is a file: pass the folder that it lies in, {folder.parent}")
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{folder} has {len(files)} GGUF files, keep one of them: {', '.join(files)}")
    if not files and not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no model: expected one GGUF file, or config.json and model.safetensors")
    return str(folder), options | ({"gguf_file": files[0]} if files else {})


def _explained(name: str, error: Exception) -> Exception:
    """The same error in words that say what to do."""
    if name == BUNDLED or Path(name).expanduser().exists():
        return ValueError(
            f"the files of {name} cannot be read as a language model ({_first_line(error)}). If one may be incomplete, "
            "copy or download it again. Weights must be in model.safetensors or in a GGUF file; pickles "
            "(pytorch_model.bin) are not opened"
        )
    return DownloadError(
        f"{name!r} could not be loaded from the Hugging Face hub ({_first_line(error)}). Check the name and the "
        f"network, or download the model elsewhere and pass its folder; {BUNDLED!r} comes with the course"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def no_reports() -> Iterator[None]:
    """Without the reports of libraries that look for parts they lack. Progress bars stay."""
    before = logging.root.manager.disable  # the caller may have switched something off too
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _read_once() -> AbstractContextManager:
    """`transformers` reads a GGUF file three times, seconds each, and asks for its names anew for each module."""
    import gguf

    once: dict[str, Any] = {name: cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    return patch.multiple(gguf, **once)
