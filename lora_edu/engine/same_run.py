"""Is it the same run? A checkpoint goes on only if everything that the curve depends on is as it was.

A description is a table of facts, such as {"lr": "0.003", "the model.2": "torch.nn.modules.activation.GELU"}. What
describes

    a number, a text           how it is printed
    a tensor                   its shape, its type and a checksum; of one that the checkpoint holds, shape and type
    what a library made        its name; the library's version is a fact of its own
    a layer                    its class, its settings, its tensors, its hooks and what was put into it
    a reader's own function    what Python runs of it, and all that it refers to
    a reader's own object      its class, and what it holds
    anything else              its class: it is not compared, and a warning says so when the run goes on
"""

import dis
import functools
import hashlib
import sys
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.tensor_files import fingerprint, shape_and_type

PRINTED = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # `training` is among them, which `train` sets
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
BEHIND = ("fget", "fset", "fdel", "__func__", "__wrapped__")  # of a property, a static, a class and a cached method
PYTHON = "{}.{}".format(*sys.version_info)
VERSION = "the version of "
NOT_COMPARED = "cannot be compared"


def describe_run(settings: dict[str, Any], model: nn.Module, data: Iterable[Tensor]) -> dict[str, str]:
    """Everything that the curve of a run depends on, but the values that a checkpoint holds.

    settings: by name, the loss function among them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stored = {id(tensor) for tensor in [*trained, *model.buffers()]}
    facts: dict[str, str] = {}
    met: dict[int, tuple[str, Any]] = {}  # by id; the thing too: while it lives, its id is no other's

    def add(path: str, value: Any, owner: str | None) -> None:
        """owner: the library whose layer, function or object holds the value; None for a reader's own."""
        printed = _printed(value)
        if printed:
            facts[path] = printed
            return
        first, _ = met.setdefault(id(value), (path, value))
        if first != path:  # what is shared; and a circle ends here
            facts[path] = f"the same as {first}"
        elif id(value) in stored:
            facts[path] = f"{shape_and_type(value)} (stored)"
        else:
            library = _library_of(value)
            if library and library != "Python":
                facts[VERSION + library] = _version(library)
            facts[path], parts = _describe(value, library, owner)
            for name, part in parts.items():
                add(f"{path}.{name}", part, library)

    add("the model", model, None)
    add("the text", list(data), None)
    add("the default type", torch.get_default_dtype(), None)
    for name, setting in settings.items():
        add(name, setting, None)
    facts["threads"] = str(torch.get_num_threads())
    facts[f"{VERSION}Python"] = PYTHON
    facts[f"{VERSION}torch"] = _version("torch")
    return facts


def check_same_run(stored: dict[str, str], wanted: dict[str, str], path: Path) -> None:
    """Raise ValueError, with the first facts that differ, if a checkpoint at this path is of another run.

    Where a library or Python has been updated since, or something cannot be compared, one warning says so.
    """
    other: list[str] = []  # what makes it another run
    noted: list[str] = []  # what one should know when it goes on
    for name in wanted | stored:
        there = stored.get(name, "missing")
        here = wanted.get(name, "missing")
        difference = f"{name} is {there} there and {here} here"
        if there == here:
            if here.endswith(NOT_COMPARED):
                noted.append(f"{name} ({here})")
        elif name == "threads" or name.startswith(VERSION) or _is_an_update(there, here, stored, wanted):
            noted.append(difference)
        else:
            other.append(difference)
    if other:
        what = f"{path} is a checkpoint of another run: {_first_three(other)}"
        raise ValueError(f"{what}. Use the same settings to continue that run, or name another folder for this one")
    if noted:
        what = f"the run of {path} goes on, but not all is known to be as it was: {_first_three(noted)}"
        warnings.warn(f"{what}. The curve may differ from that of a run that was not stopped", stacklevel=5)


def _is_an_update(there: str, here: str, stored: dict[str, str], wanted: dict[str, str]) -> bool:
    """Whether two texts describe the same thing of a library (or of Python), of which another version is here.

    A text is "torch.nn.modules.activation.GELU (approximate='none')": the library, the name, and its settings.
    """
    known = here if there == "missing" else there
    library = known.partition(".")[0]
    version = VERSION + library
    same_name = "missing" in (there, here) or there.partition(" (")[0] == here.partition(" (")[0]
    return same_name and version in stored | wanted and stored.get(version) != wanted.get(version)


def _first_three(sentences: list[str]) -> str:
    more = f" (and {len(sentences) - 3} more)" if len(sentences) > 3 else ""
    return "; ".join(sentences[:3]) + more


# --- libraries -------------------------------------------------------------------------------------------------------


def _library_of(value: Any) -> str | None:
    """The library that made a thing (by the module of it, or of its class), None for a reader's own."""
    module: Any
    if isinstance(value, ModuleType):
        module = value.__name__
    elif isinstance(value, FunctionType):
        module = value.__globals__.get("__name__")  # of a wrapper, `__module__` is that of what it wraps
    elif isinstance(value, type) or hasattr(value, "__wrapped__"):
        module = value.__module__
    else:
        named = getattr(value, "__module__", None) if callable(value) else None
        module = named if isinstance(named, str) else type(value).__module__
    package = str(module).partition(".")[0]
    if package in sys.stdlib_module_names:
        return "Python"
    return package if _is_installed(package) else None


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether a package was installed, in editable mode too: it is known by its name and its version."""
    place = Path(getattr(sys.modules.get(package), "__file__", None) or "").parts
    if "site-packages" in place or "dist-packages" in place or package == __name__.partition(".")[0]:
        return True
    try:
        return bool(metadata.version(package))
    except (metadata.PackageNotFoundError, ValueError):
        return False


def _version(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__version__", "unknown"))


# --- one thing at a time: a text, and the parts that are described on their own --------------------------------------


def _printed(value: Any) -> str | None:
    """A number, a text, or a list of such, as it is printed; None for what is not described by that."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in (tuple, torch.Size):
        value = list(value)
    if type(value) in (set, frozenset):
        value = sorted(value, key=repr)  # each process has its own order of them
    parts = value if type(value) is list else [value]
    if not all(type(part) in PRINTED for part in parts):
        return None
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:40]}... {_checksum(text)}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _describe(value: Any, library: str | None, owner: str | None) -> tuple[str, dict[str, Any]]:
    kind = type(value)
    if isinstance(value, nn.Module):
        return _describe_layer(value, library)
    if isinstance(value, Tensor):
        return f"{shape_and_type(value)} {fingerprint([value])[:12]}", {}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.shape} {value.dtype} {_checksum(value.tobytes().hex())}", {}
    if isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return f"{kind.__name__} of {len(value)}", {str(key): part for key, part in items}
    if isinstance(value, functools.partial):
        return "partial", {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return "method", {"of": value.__self__, "function": value.__func__}
    if isinstance(value, FunctionType):
        return _describe_function(value, library)
    if hasattr(value, "__wrapped__"):  # a function behind a cache
        return kind.__name__, {"__wrapped__": value.__wrapped__}
    if isinstance(value, ModuleType):
        return f"module {value.__name__}", {}
    if isinstance(value, type):
        return _describe_class(value, library)
    if library and callable(value) and hasattr(value, "__qualname__"):  # a function in C
        return f"{value.__module__}.{value.__qualname__}", {}
    if library is None and hasattr(value, "__dict__"):
        return kind.__qualname__, {"class": kind} | vars(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return (name if owner else f"a {name}, which {NOT_COMPARED}"), {}


def _describe_layer(layer: nn.Module, library: str | None) -> tuple[str, dict[str, Any]]:
    """Its class with its settings in one text; its tensors, its layers, its hooks and other attributes as parts."""
    kind = type(layer)
    attributes = {name: value for name, value in vars(layer).items() if name not in OF_EVERY_MODULE}
    parts = layer._parameters | layer._buffers | layer._modules
    parts |= {hook: list(vars(layer)[hook].values()) for hook in HOOKS if vars(layer)[hook]}
    if library is None:
        return kind.__qualname__, {"class": kind} | attributes | parts
    settings = {name: _printed(value) for name, value in attributes.items()}
    text = ", ".join(f"{name}={setting}" for name, setting in settings.items() if setting)
    parts |= {name: value for name, value in attributes.items() if not settings[name]}
    return f"{kind.__module__}.{kind.__qualname__} ({text})", parts


def _describe_class(kind: type, library: str | None) -> tuple[str, dict[str, Any]]:
    if library:
        return f"{kind.__module__}.{kind.__qualname__}", {}
    parts: dict[str, Any] = {"bases": list(kind.__bases__)}
    for name, part in vars(kind).items():
        if not name.startswith("__") or isinstance(part, FunctionType):
            behind = [getattr(part, attribute) for attribute in BEHIND if hasattr(part, attribute)]
            parts[name] = behind or part
    return kind.__qualname__, parts


def _describe_function(function: FunctionType, library: str | None) -> tuple[str, dict[str, Any]]:
    """Its instructions, not its text: a lambda has none of its own, and a file may have been edited since."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    parts: dict[str, Any] = {name: cell.cell_contents for name, cell in cells}
    if library:
        return f"{function.__module__}.{function.__qualname__}", parts
    codes = _codes(function.__code__)
    steps = [step for code in codes for step in dis.get_instructions(code) if type(step.argval) is not CodeType]
    done = [(step.opname, _printed(step.argval) or repr(step.argval)) for step in steps]
    done += [(code.co_varnames, code.co_argcount, code.co_kwonlyargcount, code.co_flags) for code in codes]
    parts["defaults"] = [function.__defaults__, function.__kwdefaults__, vars(function)]
    names = {step.argval for step in steps if type(step.argval) is str}
    globals_read = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"} & function.__globals__.keys()
    for name in sorted(globals_read):
        parts[name] = found = function.__globals__[name]
        if isinstance(found, ModuleType) and _library_of(found) is None:  # what the function uses of a reader's file
            parts |= {f"{name}.{used}": vars(found)[used] for used in sorted(names & vars(found).keys())}
    return f"Python.{function.__qualname__} ({_checksum(repr(done))})", parts


def _codes(code: CodeType) -> list[CodeType]:
    """A function's code and that of the functions inside it."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(each for one in inside for each in _codes(one))]
