"""The assignments of the classroom: what is asked, and the visible checks. No solution is in this package.

from lora_course.assignments import constants, checks

c = constants("a1_lora_numpy", COHORT)          # the numbers that are drawn for this class
check = checks("a1_lora_numpy", COHORT)
check.forward(forward)                          # correct, not done yet, or the mistake by name
"""

from importlib import import_module

_HOME = {"checks": "visible", "constants": "core", "load": "core", "names": "core"}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'lora_course.assignments' has no attribute {name!r}")
    return getattr(import_module(f"lora_course.assignments.{_HOME[name]}"), name)
