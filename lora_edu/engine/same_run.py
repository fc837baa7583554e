"""Is it the same run? A state is described by everything that it depends on, or is not resumed.

A description is a table of facts, such as {"lr": "0.003", "the model.blocks.0.mlp": "MLP"}. A run goes on from a
checkpoint if all facts are the same; if not, those that differ are the message. What describes

    a number, a text      how it is printed
    a tensor              its shape, its type and a checksum; of one that the checkpoint holds, shape and type
    a model               its tensors, and of each layer its class, its attributes and its hooks
    a function, a class   of a library, its name; of one's own, what Python runs of it, and all that it refers to
    an object             of a library, its class: its insides change with a release; of one's own, its attributes too
"""

import dis
import functools
import hashlib
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.tensor_files import fingerprint, shape_and_type

PRINTED = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)
SETS = (set, frozenset)  # each process has its own order of them
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # `training` is among them, which `train` sets
PARTS = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
BEHIND = ("fget", "fset", "fdel", "__func__", "func", "args", "keywords")  # of a property, a static or cached method
PYTHON = "{}.{}".format(*sys.version_info)
LAST_DIGITS = ("torch", "threads", "Python")  # facts that a run may go on without


def describe_run(settings: dict[str, Any], model: nn.Module, data: Iterable[Tensor]) -> dict[str, str]:
    """Everything that the curve of a run depends on, but the values that a checkpoint holds.

    settings: by name, the loss function among them.
    """
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    stored = {id(tensor) for tensor in (*trained, *model.buffers())}
    facts: dict[str, str] = {}
    met: dict[int, tuple[str, Any]] = {}  # by id; the thing too: while it lives, its id is no other's

    def add(path: str, value: Any) -> None:
        if fact := _printed(value) or _name_in_library(value):
            facts[path] = fact
        elif (first := met.setdefault(id(value), (path, value))[0]) != path:  # what is shared; and a circle ends
            facts[path] = f"the same as {first}"
        elif id(value) in stored:
            facts[path] = f"{shape_and_type(value)} (stored)"
        else:
            facts[path], parts = _take_apart(value)
            for name, part in parts.items():
                add(f"{path}.{name}", part)

    versions = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "Python": PYTHON}
    about = {"the model": model, "the text": list(data), "the default type": torch.get_default_dtype()}
    for name, value in (about | settings | versions).items():
        add(name, value)
    return facts


def check_same_run(stored: dict[str, str], wanted: dict[str, str], path: Path) -> None:
    """Raise ValueError, with the first facts that differ, if a checkpoint at this path is of another run."""
    there, here = ({name: facts.get(name, "missing") for name in wanted | stored} for facts in (stored, wanted))
    said = {name: f"{name} is {there[name]} there and {here[name]} here" for name in here if here[name] != there[name]}
    digits = [said.pop(name) for name in LAST_DIGITS if name in said]
    if said:
        told = "; ".join([*said.values()][:3]) + (f" (and {len(said) - 3} more)" if len(said) > 3 else "")
        what = f"{path} is a checkpoint of another run: {told}"
        raise ValueError(f"{what}. Use the same settings to continue that run, or name another folder for this one")
    if digits:
        last = "the run goes on, but its last digits may differ from those of a run that was not stopped"
        warnings.warn(f"{path} comes from elsewhere ({'; '.join(digits)}): {last}", stacklevel=5)


def _printed(value: Any) -> str | None:
    """A number, a text, or a list of such, as it is printed; None for what is not described by that."""
    value = value.item() if isinstance(value, np.generic) else value
    value = list(value) if type(value) in (tuple, torch.Size) else value
    value = sorted(value, key=repr) if type(value) in SETS else value
    if not all(type(part) in PRINTED for part in (value if type(value) is list else [value])):
        return None
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:40]}... {_checksum(text)}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_library(module: str) -> bool:
    """Whether a module is Python's, this package's or installed: those do not change while somebody works."""
    package = module.partition(".")[0]
    places = Path(getattr(sys.modules.get(package), "__file__", None) or "").parts
    known = package in sys.stdlib_module_names or package == __name__.partition(".")[0]
    return known or "site-packages" in places or "dist-packages" in places


def _name_in_library(value: Any) -> str | None:
    """The name of a function or a class that a library made; None for one's own, and for what wraps one's own."""
    if not isinstance(value, type | FunctionType | BuiltinFunctionType) or hasattr(value, "__wrapped__"):
        return None
    module = value.__module__ or "builtins"
    if isinstance(value, FunctionType):
        module = value.__globals__.get("__name__", "builtins")  # a decorator can give a function another's __module__
    return f"{module}.{value.__qualname__}" if _is_library(module) else None


def _take_apart(value: Any) -> tuple[str, dict[str, Any]]:
    """What kind of thing this is, and what it consists of, by name."""
    kind = type(value)
    if isinstance(value, Tensor):
        return f"{shape_and_type(value)} {fingerprint([value])[:12]}", {}
    if isinstance(value, ModuleType):
        return f"module {value.__name__}", {}
    if isinstance(value, FunctionType):
        return _take_function_apart(value)
    if isinstance(value, type):
        written = {name: part for name, part in vars(value).items() if name[:2] != "__" and name != "_abc_impl"}
        special = {name: part for name, part in vars(value).items() if isinstance(part, FunctionType)}
        parts = {"bases": list(value.__bases__)}
        for name, part in (written | special).items():
            parts[name] = [getattr(part, own) for own in BEHIND if hasattr(part, own)] or part
        return value.__qualname__, parts
    if isinstance(value, list | tuple | dict) and not hasattr(value, "__dict__"):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return f"{kind.__name__} of {len(value)}", {str(key): part for key, part in items}
    if hasattr(value, "__wrapped__"):  # a function behind a cache
        return kind.__name__, {"__wrapped__": value.__wrapped__}
    if isinstance(value, np.ndarray):
        return _take_apart(torch.from_numpy(value.copy()))
    if isinstance(value, functools.partial):
        return "partial", {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return "method", {"of": value.__self__, "function": value.__func__}
    if isinstance(value, nn.Module):
        parts = {name: part for name, part in vars(value).items() if name not in OF_EVERY_MODULE}
        parts |= {name: part for part_kind in PARTS for name, part in vars(value)[part_kind].items()}
        parts |= {hook: list(vars(value)[hook].values()) for hook in HOOKS if vars(value)[hook]}
    elif _is_library(kind.__module__):
        parts = {}
    else:
        parts = {"state": vars(value)} if hasattr(value, "__dict__") else {}
    return kind.__qualname__, {"class": kind} | parts


def _take_function_apart(function: FunctionType) -> tuple[str, dict[str, Any]]:
    """Its instructions, not its text: a lambda has none of its own, and a file may have been edited since."""
    codes, known = _codes(function.__code__), function.__globals__
    steps = [step for code in codes for step in dis.get_instructions(code) if type(step.argval) is not CodeType]
    read = sorted({step.argval for step in steps if step.opname == "LOAD_GLOBAL"} & known.keys())
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts = {"defaults": [function.__defaults__, function.__kwdefaults__, vars(function)]}
    parts |= {name: cell.cell_contents for name, cell in cells} | {name: known[name] for name in read}
    for name in read:
        if isinstance(known[name], ModuleType) and not _is_library(known[name].__name__):  # what is used of a file
            used = sorted({step.argval for step in steps if type(step.argval) is str} & vars(known[name]).keys())
            parts |= {f"{name}.{part}": vars(known[name])[part] for part in used}
    done = [(code.co_varnames, code.co_argcount, code.co_kwonlyargcount, code.co_flags) for code in codes]
    done += [(step.opname, _printed(step.argval) or repr(step.argval)) for step in steps]
    return f"{function.__qualname__} {_checksum(repr(done))} (Python {PYTHON})", parts


def _codes(code: CodeType) -> list[CodeType]:
    """A function's code and that of the functions inside it."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(each for one in inside for each in _codes(one))]
