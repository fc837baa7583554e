"""Looking at what a student's answer does: its result, and how it treats its inputs.

An answer is observed case by case. Whatever it does (print, warn, raise, exit, run for ever) is caught here.

Students have this file, and the grader looks through it too. It is one file on purpose: with two, a check could say
"correct" where the grade takes a point. Reading it gives nothing away. It knows nothing that is expected, and no hidden
case: these are drawn from a word that comes with each test, out of the teacher's folder. What an answer puts in its
place can claim good manners, and no result: results are compared in the teacher's process, where alone they are known.
"""

import copy
import json
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lora_course.assignments.core import VISIBLE, Assignment, Task
from lora_course.assignments.verdict import UNUSABLE
from lora_course.checking import stopping
from lora_course.checking.comparing import plain
from lora_course.checking.probing import overwritten
from lora_course.checking.repair import silence


class NotDone(Exception):
    """The answer returned `...`, as the untouched stub does."""


class Complaint(Exception):
    """What is observed is not what was asked for, in words. The answer itself did not stop: the observer did.

    numbers: what the answer computed all the same, which shows the grader that it is at work.
    """

    def __init__(self, text: str, numbers: Any = None):
        super().__init__(text)
        self.numbers = numbers


@dataclass(frozen=True)
class Observed:
    """What one call did. `inputs` is "unchanged" or "changed"; `memory` is "its own" or "shared with an input"."""

    value: Any
    inputs: str
    memory: str
    dtype: str  # such as "float32", the same word for NumPy and torch; "" without one

    @property
    def manners(self) -> str:
        """Inputs and memory in one word: "good", or what is wrong."""
        if self.inputs == "changed":
            return "an input was changed"
        return "good" if self.memory == "its own" else "the result shares memory with an input"


def done(result: Any) -> Any:
    """What an answer returned, of a generator the list. Raises NotDone for `...`, which the untouched stub returns."""
    if result is ...:
        raise NotDone
    return list(result) if isinstance(result, Iterator) else result


def array(value: Any) -> np.ndarray:
    """What an exercise in NumPy asks for, from all that means the same: lists of lists, a matrix, a torch tensor."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(value.float() if str(getattr(value, "dtype", "")) == "torch.bfloat16" else value)


def in_order(value: Any, *names: str) -> list:
    """The results in the order of their names. Raises Complaint, in words, if they are not as many as the names."""
    asked = f"{len(names)} results are asked for, in this order: {', '.join(names)}"
    if value is None:
        raise Complaint(f"nothing was returned, and {asked}")
    try:
        found = None if isinstance(value, dict | str) else list(value)
    except TypeError:  # one number, say
        found = None
    if found is None or len(found) != len(names):
        raise Complaint(f"{asked}; there {'is one' if found is None else f'are {len(found)}'}")
    return found


def call(answer: Callable, *arguments: Any) -> Any:
    """The answer's result on deep copies of its arguments. Raises NotDone for an untouched stub."""
    return done(answer(*copy.deepcopy(arguments)))


def observed(answer: Callable, *arguments: Any) -> Observed:
    """Call the answer once on deep copies, and look at the result and at what happened to the copies."""
    given = copy.deepcopy(arguments)
    result = done(answer(*given))
    first = result[0] if isinstance(result, tuple | list) and result and hasattr(result[0], "shape") else result
    return Observed(
        value=result,
        inputs="changed" if overwritten(arguments, given) else "unchanged",
        memory="shared with an input" if _share(arrays(result), arrays(given)) else "its own",
        dtype=str(getattr(first, "dtype", "")).removeprefix("torch."),
    )


def observe_case(task: Task, constants: Any, answer: Callable, case: tuple) -> dict[str, Any]:
    """part -> plain value, {"error": name} where the answer raised, {"error": "NotDone"} for an untouched stub."""
    try:
        values = task.observe(answer, constants, *copy.deepcopy(case))
        values = {part: values[part] for part in task.parts}
    except BaseException as error:
        return dict.fromkeys(task.parts, _named(error))
    for part, value in values.items():
        try:
            values[part] = plain(value() if callable(value) else value)
        except BaseException as error:
            values[part] = _named(error)
    return values


def observe_all(assignment: Assignment, number: str, answer: Callable, word: str = VISIBLE) -> list[dict[str, Any]]:
    """What is observed in each visible case of a task, or each that a word draws, and what follows from it."""
    return concluded(assignment, number, observe(assignment, number, answer, word), word)


def observe(assignment: Assignment, number: str, answer: Callable, word: str) -> list[dict[str, Any]]:
    """What is observed in each case that a word draws. Nothing is printed or raised."""
    task = assignment.tasks[number]
    seen: list[dict[str, Any]] = []
    with silence():
        spent = [0.0, 0.0]
        for case in assignment.cases(number, word):
            try:
                with stopping.limited(task.seconds, spent):
                    there = observe_case(task, assignment.constants, answer, case)
            except stopping.TooSlow as error:
                there = dict.fromkeys(task.parts, _named(error))
            seen.append(there)
    return seen


def concluded(assignment: Assignment, number: str, seen: list[dict], word: str) -> list[dict[str, Any]]:
    """What was observed, with the parts that the grader works out itself: no word of an answer decides them."""
    task = assignment.tasks[number]
    if not task.concluded:
        return seen
    pairs = zip(assignment.cases(number, word), seen, strict=False)
    found = [there | task.concluded(assignment.constants, case, there) for case, there in pairs]
    return [{part: plain(value) if not isinstance(value, dict) else value for part, value in t.items()} for t in found]


MIME = "application/x-lora-edu-observation"


def emit(assignment: Assignment, number: str, answer: Callable, word: str) -> None:
    """Hand over what is observed in the cases of this word to the program that runs this notebook, which judges it.

    What is expected there never comes near the notebook.
    """
    from IPython.display import display

    display({MIME: json.dumps(observe(assignment, number, answer, word))}, raw=True)


# Where an error can arise without a line of the answer being at work: in the observers, and in what they call.
OURS = (str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), "<frozen")


def _named(error: BaseException) -> dict | str:
    if isinstance(error, Complaint):
        return str(error) if error.numbers is None else {"said": str(error), **plain(error.numbers)}
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = isinstance(error, Exception) and not isinstance(error, NotDone) and all(p.startswith(OURS) for p in places)
    return {"error": type(error).__name__ + (UNUSABLE if ours else ""), "text": str(error)[:200]}


# --- arrays and tensors, wherever they are ----------------------------------------------------------------------------


def arrays(value: Any) -> list:
    """Every NumPy array and torch tensor in a value, also in lists, tuples and dictionaries."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__array__"):
        return [value]
    if isinstance(value, dict):
        return [found for inner in value.values() for found in arrays(inner)]
    if isinstance(value, list | tuple):
        return [found for inner in value for found in arrays(inner)]
    return []


def _share(results: list, inputs: list) -> bool:
    return any(np.may_share_memory(array(result), array(given)) for result in results for given in inputs)
