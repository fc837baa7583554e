"""The checks of the exercises: `exercise` is the mechanism, `nb00` and so on the exercises themselves.

An *exercise* is a right answer in commented steps, what people believe instead, and cases; its *check* runs a learner's
function on the cases and says "correct", or what is wrong and where. `progress()` shows what is done in all notebooks.
"""

__all__ = ["progress"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'lora_course.checking' has no attribute {name!r}")
    from lora_course.checking import grading  # here: `comparing` is imported with the standard library alone

    return getattr(grading, name)
