"""Is it the same run? Two runs with the same settings, the same description and the same trainable parameters compute
the same, so one can go on from the checkpoint of the other."""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.tensor_files import fingerprint, shape_and_type


def as_json(value):
    """A value as it comes back from JSON: a tuple is a list then."""

    def plain(odd):
        return odd.item() if hasattr(odd, "item") else describe_function(odd) if callable(odd) else str(odd)

    return json.loads(json.dumps(value, default=plain))


def describe_run(model: nn.Module, data: Iterable[Tensor]) -> dict[str, str]:
    """Describe a model and a text: the shape of each trainable parameter, the numbers in each layer, fingerprints.

    The values of trainable parameters are left out: a checkpoint holds them.
    """
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    frozen |= dict(model.named_buffers())  # a 4-bit weight is a buffer
    return {
        "the text": fingerprint(data)[:12],
        "the frozen weights": fingerprint(value for _, value in sorted(frozen.items()))[:12],
        **{f"the trainable {name}": shape_and_type(value) for name, value in trainable.items()},
        **{f"the layer {path or '(the model)'}": _numbers(module) for path, module in model.named_modules()},
    }


def _numbers(module: nn.Module) -> str:
    """A layer and the numbers that its arithmetic depends on: LoRALinear(alpha=16, rank=8, scaling=2.0)."""
    own = sorted(item for item in vars(module).items() if type(item[1]) in (int, float, torch.dtype))
    return f"{type(module).__name__}({', '.join(f'{name}={value}' for name, value in own if name[0] != '_')})"


def describe_function(function: Callable) -> str:
    """A function's name, the names that it uses, and its numbers: of two with one name, one may compute other things.

    One that wraps another, and says so (`functools.wraps`), counts as the other.
    """
    function = inspect.unwrap(function)
    code, partial = getattr(function, "__code__", None), getattr(function, "func", None)
    names = [describe_function(partial) if partial else getattr(function, "__qualname__", type(function).__name__)]
    values = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    values += [*(getattr(function, "__defaults__", None) or ()), *getattr(function, "args", ())]
    values += [*getattr(function, "keywords", {}).values(), *getattr(function, "__dict__", {}).values()]
    if code:
        names += code.co_names
        values += [value for value in code.co_consts if isinstance(value, float)]
    return " ".join([*names, *(str(value) for value in values if type(value) in (int, float, bool))])


def check_same_run(stored: dict, wanted: dict, defaults: dict, path: Path) -> None:
    names = [*wanted, *(name for name in stored if name not in wanted)]
    stored = {name: defaults[name] for name in wanted if name in defaults} | stored
    there, here = ({name: settings.get(name, "missing") for name in names} for settings in (stored, wanted))
    said = [f"{name} is {there[name]} there and {here[name]} here" for name in names if there[name] != here[name]]
    if said:
        told = "; ".join(said[:3]) + (f" (and {len(said) - 3} more)" if len(said) > 3 else "")
        what = f"{path} is a checkpoint of another run: {told}"
        raise ValueError(f"{what}. Use the same settings to continue that run, or name another folder for this one")


def warn_if_another_torch(written_with: dict) -> None:
    for name, here in versions().items():
        if (there := written_with.get(name)) != here:
            warnings.warn(
                f"the checkpoint was written with {name} {there}, this is {name} {here}: the run goes on, "
                "but its numbers may differ in the last digits from those of a run that was not stopped",
                stacklevel=5,
            )


def versions() -> dict:
    """What the last digits of a sum depend on."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
