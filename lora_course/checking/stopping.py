"""What it means that a learner's function stopped: Python's error in the words of the exercise. Or what if it does not.

`why_it_stopped` knows the errors that come up again and again. It says which shapes there were, which name is unknown,
or what a part of the model is called; the error itself is shown beside it. `limited` ends what does not end by itself.
"""

import contextlib
import inspect
import linecache
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

GIVEN = "Given are"
SHAPES = "the shapes of two arrays do not fit: does one need a transpose, or another place?"
RESHAPED = (
    "these numbers do not fill that shape, there are too few or too many: multiply the shape's sizes, and compare. Is "
    "one of them another number in each case?"
)
IN_A_ROW = "`view` needs numbers that lie in a row in memory: `reshape` and `flatten` do without."
PRODUCT = "the shapes of a product do not fit: a factor needs a transpose or another place."
TOO_LARGE = "a place is asked for that is not there: the first place is 0. Have two indices changed places?"
ONE_NUMBER = (
    "a whole array or shape stands where one number belongs: `math.log` takes one number, `np.log` each entry; "
    "`x.shape[0]` is one number, `x.shape` is not."
)
A_LIST = "a list has rows and no columns: `np.array` of it first, then `[:, 0]`."
NOT_WHOLE = "a count or an index is no whole number here: `/` gives a float, `//` a whole number."
NO_ARRAY = "one number is taken for an array or a list: it has no length, no shape and no entries."
NOT_CALLABLE = "round brackets call a function, and this is none: square ones pick entries."
OF_NONE = "a calculation meets None: a function that was called before it returns nothing."
LIST_TIMES = "a list or tuple does not multiply like an array: take its entries, or `np.array` of it."
NO_SUPER = "a module takes no parameters before it is set up: `super().__init__()` is the first line of `__init__`."
FORMATS = "two tensors of different formats meet, float32 and float64, say: convert one of them."
TWO_KINDS = "a NumPy array and a torch tensor meet: stay with the kind that is handed to your function."
OTHER_ARGUMENTS = "the first line of your function has other arguments than before: leave it as it stands."
GRADIENTS = (
    "`backward` returns as many things as `forward` has arguments beside `ctx`, in the same order: None for those that "
    "need no gradient."
)
QUANTILE = "a quantile is asked of a probability of 0 or 1, where it is infinite, or of one beyond."
NO_VALUE = "this has no value: the logarithm of 0, the root of a negative number, a division by 0."

# What the error's text contains, one pattern or another -> what it means. The first one that fits counts.
MEANINGS = {
    "matmul|cannot be multiplied|dot: |not aligned": PRODUCT,
    "broadcast|must match the size|(of tensors|axis) must match|same (shape|number of dim)|einstein sum|einsum": SHAPES,
    "cannot reshape|is invalid for input of size": RESHAPED,
    "view size is not compatible": IN_A_ROW,
    "out of bounds|out of range|too many indices": TOO_LARGE,
    "only 0-dimensional|only length-1|only one element|must be real number|truth value": ONE_NUMBER,
    "integers or slices, not tuple": A_LIST,
    "as an integer|a single integer|must be integers|only integer|used as indices": NOT_WHOLE,
    r"has no len\(\)|is not subscriptable|not iterable|index to scalar|0-d|1-dimensional tensor": NO_ARRAY,
    "is not callable": NOT_CALLABLE,
    "'NoneType'": OF_NONE,
    "can't multiply sequence": LIST_TIMES,
    "before Module.__init__": NO_SUPER,
    "expected scalar type|same dtype|expected m1 and m2": FORMATS,
    "must be Tensor, not|'Tensor' and 'numpy|'numpy.ndarray' and 'Tensor": TWO_KINDS,
    "incorrect number of gradients": GRADIENTS,
    "0.0 < p < 1.0": QUANTILE,
    "math domain error|expected a positive input|division by zero|invalid value encount": NO_VALUE,
}
WITH_SHAPES = (PRODUCT, SHAPES, TOO_LARGE, ONE_NUMBER)
LONGEST = 15  # words of an error's text


def why_it_stopped(error: BaseException, function: Callable, case: Sequence[Any]) -> str:
    """A sentence about an error, and the arguments where they help; empty for an error that needs no other words."""
    names, name = parameters(function), getattr(function, "__name__", "")
    if isinstance(error, UnboundLocalError):
        return f"`{error.name}` is read before it has a value." if error.name else ""
    if isinstance(error, NameError):
        arguments = f" It is given {_and(f'`{name}`' for name in names)}." if names else ""
        return f"`{error.name}` is a name that your function does not know.{arguments}"
    if isinstance(error, AttributeError) and error.name and "before Module.__init__()" not in str(error):
        return _no_such_part(error)
    if isinstance(error, TypeError) and re.match(rf"\S*{re.escape(name)}\(\) (takes|missing)", str(error)):
        return OTHER_ARGUMENTS
    meaning = next((said for pattern, said in MEANINGS.items() if re.search(pattern, str(error))), "")
    shapes = [tuple(getattr(value, "shape", ())) for value in case] if len(names) == len(case) else []
    shown = [f"`{name}` {shape}" for name, shape in zip(names, shapes, strict=False) if shape]
    return f"{meaning} {GIVEN} {_and(shown)}." if shown and meaning in WITH_SHAPES else meaning


def parameters(function: Callable) -> list[str]:
    """The names of a function's arguments; empty where they cannot be known or are not fixed."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    usual = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in found] if all(each.kind in usual for each in found) else []


def _no_such_part(error: AttributeError) -> str:
    """Of a model: what its parts are called. Of an array: whether the other library has the method."""
    owner: Any = error.obj
    kind = type(owner).__name__
    if hasattr(owner, "named_children"):
        parts = [name for name, _ in (*owner.named_children(), *owner.named_parameters(recurse=False))]
        return f"a `{kind}` has no `{error.name}`. Its parts are {_and(f'`{part}`' for part in parts)}."
    torch = sys.modules.get("torch")
    if kind == "ndarray" and torch is not None and hasattr(torch.Tensor, error.name or ""):
        return f"`{error.name}` is a method of torch tensors, and this is a NumPy array."
    if kind in ("int", "float"):
        return NO_ARRAY
    if kind == "list":
        return f"a list has no `{error.name}`: make an array of it."
    kind = {"ndarray": "NumPy array", "Tensor": "torch tensor"}.get(kind, kind)
    return f"a {kind} has no `{error.name}`."


def _and(words) -> str:
    *first, last = list(words)
    return f"{', '.join(first)} and {last}" if first else last


def in_pythons_words(error: BaseException) -> str:
    """An error with its text, in one line, without what only its authors understand."""
    words = re.sub(r",? ?\(?with gufunc signature \S+", "", str(error)).split()
    return f"{type(error).__name__} ({' '.join(words[:LONGEST])}{' ...' * (len(words) > LONGEST)})"


def where(error: BaseException) -> str:
    """The line of the learner's own code at which it stopped, where that is known."""
    found = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if is_a_cell(name) and (line := linecache.getline(name, number).strip()):
            found = f", at the line `{line}`"
    return found


def is_a_cell(file: str) -> bool:
    """Whether code comes from a cell of a notebook."""
    return "ipykernel" in file or file.startswith("<ipython-input")


# --- what does not come back ------------------------------------------------------------------------------------------


TICK = 0.1  # seconds from one look at the clock to the next


class TooSlow(BaseException):
    """A block ran longer than it may. Not an Exception: `except Exception` in an answer does not catch it."""


@contextlib.contextmanager
def limited(seconds: float, spent: list[float] | None = None) -> Iterator[None]:
    """Raise TooSlow inside the block, again and again, once the time is over. Without a timer, do nothing.

    The time is that of the processor. By the clock it may take five times as long, at most 100 seconds: a machine that
    is busy with other things costs nothing, and what is imported meanwhile costs no time. spent: the time of several
    blocks together, of the processor and by the clock, which starts as [0.0, 0.0].
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    spent, longest = [0.0, 0.0] if spent is None else spent, min(5 * seconds, 100)
    last, running = [time.thread_time(), time.monotonic()], [True]

    def look(_: int, frame: Any) -> None:
        now = [time.thread_time(), time.monotonic()]
        passed, last[:] = [new - old for new, old in zip(now, last, strict=True)], now
        if _importing(frame):  # a library whose import is cut off can crash the process
            return
        spent[:] = [total + more for total, more in zip(spent, passed, strict=True)]
        if running and spent[0] > seconds:
            raise TooSlow(f"took more than {seconds:g} seconds of the processor")
        if running and spent[1] > longest:
            raise TooSlow(f"did not end in {longest:g} seconds")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        running.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _importing(frame: Any) -> bool:
    return any(each.f_code.co_filename.startswith("<frozen importlib") for each, _ in traceback.walk_stack(frame))
