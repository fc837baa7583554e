"""What the public names take: each argument, its default, its kind. A change is seen in review, beside CHANGELOG.md."""

import inspect
import types
from pathlib import Path

import lora_edu

STORED = Path(__file__).with_name("public_names.txt")


def arguments(function) -> str:
    """`(model, *, lr=0.003)`: without types, and a function that is a default by its name."""
    signature = inspect.signature(function)
    bare = []
    for parameter in signature.parameters.values():
        default = parameter.default.__name__ if inspect.isfunction(parameter.default) else parameter.default
        bare.append(parameter.replace(annotation=parameter.empty, default=default))
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def taken() -> str:
    """A line for each public name, and for each method of a public class."""
    lines = []
    for name in lora_edu.__all__:
        public = getattr(lora_edu, name)
        lines.append(name + arguments(public))
        if isinstance(public, type):
            methods = {own: getattr(public, own) for own in vars(public) if not own.startswith("_")}
            lines += [f"{name}.{own}{arguments(made)}" for own, made in methods.items()
                      if isinstance(made, types.FunctionType | types.MethodType)]  # fmt: skip
    return "\n".join(lines) + "\n"


def test_public_names_take_what_they_took():
    """After a change that is meant, `python tests/lora_edu/test_public.py` writes the file anew."""
    assert taken() == STORED.read_text(encoding="utf-8")


if __name__ == "__main__":
    STORED.write_text(taken(), encoding="utf-8")
