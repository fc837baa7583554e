"""Points and words for what was observed of an answer, from plain data alone.

The student's check uses it, and so does the grader.
"""

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from lora_course.checking.comparing import difference, equal, is_numbers, recognized
from lora_course.checking.symptoms import symptom

ELSEWHERE = "-"  # what is expected of a part in the cases that do not concern it
FOLLOWS = "follows"  # beside the parts: the one that is right for the answer's own other parts, though they be wrong
BESIDE = "this is as it should be, and counts only beside a result that had to be computed."
SLOW = "your answer was stopped: it "
UNUSABLE = " of the check"  # behind the name of an error: the answer came back, and could not be looked at


def earned(got: list[dict], expected: list[dict], task: Any, work: list[dict] | None = None) -> dict[str, float]:
    """part -> its points, if it is as expected in all cases that concern it, else 0.

    Where "-" is expected, a case does not concern a part: an answer that fails there loses the parts that it is about.
    A part that is a word, such as inputs: "unchanged", says how the answer works. It counts only if one of the parts
    that say what comes out, the numbers, is earned: `return 0` changes no inputs, and earns nothing by that. And none
    counts for an answer that computed nothing in the hidden cases (`at_work`).
    """
    wrong = {part for _, part in failing(readable(got, expected), expected, task.tolerance)}
    right = set(task.parts) - wrong if len(got) == len(expected) else set()
    numbers = {part for part in task.parts if not all(isinstance(there[part], str) for there in expected)}
    computed = set(task.computed) or numbers or set(task.parts)
    if not right & computed and not (right & numbers and at_work(got, work or [], task.tolerance)):
        right = set()
    return {part: points if part in right else 0.0 for part, points in task.parts.items()}


def readable(observed: list[dict], expected: list[dict]) -> list[dict]:
    """What was observed, to compare and to tell: of a complaint its text, without the numbers that came with it; what
    follows from the answer's own other parts is as expected, though one of them be wrong; and one number in an array or
    a list is a number, where one is asked for."""

    def fitted(value: Any, there: Any) -> Any:
        if isinstance(value, dict) and "said" in value:
            return value["said"]
        alone = is_numbers(value) and is_numbers(there) and there["shape"] == [] and len(value["values"]) == 1
        return value | {"shape": []} if alone else value

    def counted(part: str, seen: dict, there: dict) -> Any:
        return there[part] if seen.get(FOLLOWS) == part else fitted(seen[part], there[part])

    pairs = zip(observed, expected, strict=False)
    return [{part: counted(part, seen, there) for part in there} for seen, there in pairs]


def at_work(got: list[dict], work: list[dict], tolerance: float) -> bool:
    """Whether an answer whose computed parts are all wrong gave something there that nobody gives who does not compute.

    work: for each case {part: {"known": what the right answer and wrong ones give, "base": what there is without any}}.
    Either a value is one of the known ones, in one hidden case at least; or what it adds to the base goes as the right
    addition does, in all cases that concern the part: an update with another scaling, say. `prove` tries both against
    all that somebody without an answer may say.
    """
    seen = [{part: numbers_of(case.get(part)) for part in there} for case, there in zip(got, work, strict=True)]
    if any(equal(case[part], value, tolerance) for case, there in zip(seen, work, strict=True)
           for part in there for value in there[part]["known"]):  # fmt: skip
        return True
    for part in {part for there in work for part in there}:
        cases = [(case[part], there[part]) for case, there in zip(seen, work, strict=True) if part in there]
        if all("base" in there and _goes_along(value, there["known"][0], there["base"]) for value, there in cases):
            return True
    return False


def numbers_of(value: Any) -> Any:
    """The numbers that came with a complaint, or the value itself."""
    return {key: value[key] for key in ("shape", "values")} if isinstance(value, dict) and "said" in value else value


def _goes_along(value: Any, right: Any, base: Any) -> bool:
    """Whether value - base and right - base have a correlation of 0.9.

    Words go their own way, see `_names_go_along`.
    """
    if isinstance(value, str) != isinstance(right, str) or value == base:
        return False
    if isinstance(value, str):
        return _names_go_along(value, right, base)
    if not (is_numbers(value) and value["shape"] == right["shape"] == base["shape"] and len(value["values"]) > 3):
        return False
    added, wanted = (np.array(each["values"]) - base["values"] for each in (value, right))
    usable = np.isfinite(added).all() and np.ptp(added) > 0
    return bool(usable and abs(np.corrcoef(added, wanted)[0, 1]) > 0.9)


def _names_go_along(value: str, right: str, base: str) -> bool:
    """Whether more than half of the right names are there, not merely all that the base has, with the right settings.

    Such words are "a, b with rank 2, alpha 9.5; returned was b". What stands behind ";" is no matter here.
    """
    names, settings = _names_and_settings(value)
    right_names, right_settings = _names_and_settings(right)
    every, _ = _names_and_settings(base)
    return names != every and 2 * len(names & right_names) > len(right_names) and right_settings <= settings


def _names_and_settings(words: str) -> tuple[set[str], set[str]]:
    """ "a, b with rank 2, alpha 9.5; returned was b" -> {"a", "b"}, {"2", "9.5"}"""
    names, _, settings = words.partition(";")[0].partition(" with ")
    return set(names.split(", ")), set(re.findall(r"\d+(?:\.\d+)?", settings))


def is_untouched(got: list[dict]) -> bool:
    """Whether the answer returned `...` in every case, and nothing else in any."""
    found = [[_error(value) for value in seen.values() if isinstance(value, dict)] for seen in got]
    return bool(found) and all(errors and set(errors) == {"NotDone"} for errors in found)


def errors(got: list[dict]) -> set[str | None]:
    """By what the answer was stopped: "TooSlow" if its time was over, "KeyboardInterrupt" if somebody pressed stop."""
    return {_error(value) for seen in got for value in seen.values()}


def failing(got: list[dict], expected: list[dict], tolerance: float) -> list[tuple[int, str]]:
    """Of each part that is not as expected the first case and its name, in the order in which they are met."""
    found: dict[str, int] = {}
    for case, (seen, there) in enumerate(zip(got, expected, strict=False)):
        for part in there:
            if there[part] != ELSEWHERE and not equal(seen[part], there[part], tolerance):
                found.setdefault(part, case)
    return [(case, part) for part, case in found.items()]


def explanation(got: list[dict], stored: dict, tolerance: float, shown: list[str] | None = None) -> str:
    """What is wrong, for each part that is; one sentence where one mistake explains all of it.

    shown: each case, described.
    """
    sentences: dict[str, str] = {}
    for case, part in failing(got, stored["expected"], tolerance):
        text, see = reason(got, stored, (case, part), tolerance, shown)
        sentence = text + (f" See {see}." if see else "")
        alone = sentence.partition(f", {part}: ")[2] or sentence.removeprefix(f"{part}: ")
        sentences.setdefault(alone, sentence)  # what is the same, once
    return " ".join(sentences.values())


def reason(
    got: list[dict], stored: dict, where: tuple[int, str], tolerance: float, shown: list[str] | None
) -> tuple[str, str]:
    """The mistake by its name and where to read on, or else where it shows: the part, the case, one entry.

    stored: {"expected": [...], "mistakes": [{"sentence", "see", "observed"}]}; shown: each case, described.
    """
    case, part = where
    mistake, start = _mistake(got, stored, part, tolerance)
    if mistake:
        return start + mistake["sentence"], mistake["see"] or ""
    value, expected = got[case][part], stored["expected"][case][part]
    place = f"for ({shown[case]}), {part}: " if shown else f"case {case + 1}, {part}: "
    if value is None:
        return place + "your answer gave None. A function hands its result over with `return`, not with `print`.", ""
    if _error(value) == "TooSlow":
        return f"{place}{SLOW}{value.get('text')}.", ""
    if _error(value) == "NotDone":
        return place + "not done yet, it returns `...`.", ""
    text = f" ({value['text']})" if _error(value) and value.get("text") else ""
    if (_error(value) or "").endswith(UNUSABLE):
        return f"{place}what your answer gave cannot be used: {value['error'].removesuffix(UNUSABLE)}{text}.", ""
    return place + difference(value, expected).removesuffix(".") + text + "." + _alike(got, stored, part), ""


def _alike(got: list[dict], stored: dict, part: str) -> str:
    """What the numbers of a part look like in every case that concerns it: twice too large, transposed, rounded."""
    pairs = [(seen[part], there[part]) for seen, there in zip(got, stored["expected"], strict=True)]
    said = symptom(*zip(*(pair for pair in pairs if pair[1] != ELSEWHERE), strict=True))
    return f" {said[0].upper()}{said[1:]}" if said else ""


def _mistake(got: list[dict], stored: dict, part: str, tolerance: float) -> tuple[dict | None, str]:
    """A known mistake, and how the sentence about it begins.

    It gives all that was got; or all the numbers, for an answer with, say, bad manners besides; or the numbers of this
    part, if they are so many that this is no coincidence.
    """

    def numbers(observed: list[dict], parts: set[str]) -> list[dict]:
        pairs = zip(observed, stored["expected"], strict=True)
        return [{name: seen[name] for name in parts if is_numbers(there[name])} for seen, there in pairs]

    ways: list[tuple[Callable, str]] = [(lambda observed: observed, "")]
    if any(is_numbers(there[part]) for there in stored["expected"]):
        ways.append((lambda observed: numbers(observed, set().union(*got)), ""))
    if len({value for seen in got if is_numbers(seen[part]) for value in seen[part]["values"]}) >= 6:
        ways.append((lambda observed: numbers(observed, {part}), f"{part}: "))
    for look, start in ways:
        known = [(mistake, look(mistake["observed"])) for mistake in stored["mistakes"]]
        if look(got) != look(stored["expected"]) and (found := recognized(look(got), known, tolerance)):
            return cast(dict, found), start
    return None, ""


def judge(task: Any, got: list[dict], stored: dict, shown: list[str] | None = None) -> dict:
    """-> {"points", "message", "lost"}: the points and the feedback. shown: each case, described.

    lost: for each part its name, points, reason, where to read.
    """
    points, tolerance = earned(got, stored["expected"], task, stored.get("work")), task.tolerance
    total, best, cases = sum(points.values()), task.points, len(got)
    got = readable(got, stored["expected"])
    if cases != len(stored["expected"]):
        return {"points": 0.0, "message": "the answer could not be observed", "lost": []}
    places = {part: (case, part) for case, part in failing(got, stored["expected"], tolerance)}
    if not places or is_untouched(got):
        start = "not done" if places else "correct"
        return {"points": total, "message": f"{start}, {total:g} of {best:g} points", "lost": []}
    lost = []
    for part in [part for part, value in points.items() if value == 0]:
        why = reason(got, stored, places[part], tolerance, shown) if part in places else (BESIDE, "")
        lost.append([part, task.parts[part], *why])
    names = ", ".join(f"{part} ({worth:g})" for part, worth, *_ in lost)
    text = f"{total:g} of {best:g} points. Lost: {names}. {explanation(got, stored, tolerance, shown)}"
    alone = ", ".join(part for part, _, why, _ in lost if why == BESIDE)
    return {"points": total, "message": text + (f" {alone}: {BESIDE}" if alone else ""), "lost": lost}


def _error(value: Any) -> str | None:
    return value.get("error") if isinstance(value, dict) else None
