"""Repair the other way round: which small change of the right answer gives what a wrong one gave?

`repair` changes a learner's code until it is right. Where that fails (another way of writing it, no source), this looks
up the wrong results among those of the *reference* with one small change. A step is called by its comment in the
reference:

    groups = math.ceil(blocks / second_size)  # the number of groups

    Your answer behaves as if one step were different: the number of groups. Look at how it rounds: up, down, ...

What is said is true by construction, and claims no more: the changed reference was run on every case. All is made when
a wrong answer needs it, and ends after a fixed number of tries, so that no message depends on the load.
"""

import ast
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice
from typing import Any

from lora_course.checking import edits, repair
from lora_course.checking.describing import MOST_WORDS, within
from lora_course.checking.reference import Reference
from lora_course.checking.rows import Changes, Flat, Table, flat

SINGLES = 3000  # tries
SECONDS = 1.5  # of this thread's own time, for each kind of try: a safety stop
MOST_STEPS = 3  # so many places at most are named where each explains the same results
BEHAVES = "Your answer behaves as if"


class Slips(Reference):
    """A right answer whose small changes are looked through for one that behaves like a wrong answer."""

    # --- the tables ---

    @cached_property
    def right(self) -> Flat:
        return flat(self.see(self.solution()))

    @cached_property
    def tiers(self) -> list[Table]:
        """Each small change: first of what stands there, and at all places alike; then around it; then what is new."""
        likely, around, _, missing = self.rounds()  # the same at two places is `_alike`
        return [self._table(tried) for tried in (chain(self._alike(), likely), around, missing)]

    def _table(self, tried: Iterable[Changes]) -> Table:
        table, right, end = Table(), self.right, time.thread_time() + SECONDS
        with repair.silence():
            for changes in islice(tried, SINGLES):
                if time.thread_time() > end:
                    break
                if (made := self._made(changes)) and not made.same(right):
                    table.add(changes, made)
        return table

    def _made(self, changes: Changes) -> Flat | None:
        """What the changed reference gives; None where it stops."""
        try:
            return flat(self.see(self.solution(changes)))
        except (Exception, repair.TooLong):
            return None

    def _alike(self) -> Iterator[Changes]:
        groups: dict[tuple, dict[ast.AST, repair.Change]] = {}
        for change in self.changes(edits.local_changes):
            old, new = change.slot.node, change.node
            kind = tuple(ast.dump(n.func) if isinstance(n, ast.Call) else type(n).__name__ for n in (old, new))
            groups.setdefault((change.hint, kind), {}).setdefault(old, change)
        return (tuple(group.values()) for group in groups.values() if len(group) > 1)

    # --- words ---

    def explained(self, got: Flat, values: dict[str, Any], noticed: str = "") -> str:
        """What is to be said of an answer that behaves like one change.

        values: of the steps, or none to keep them; noticed: a sentence in front, which makes the rest shorter.
        """
        found = [tier.found(got) for tier in self.tiers]
        places, likely = (self._places(each, values) for each in (chain(*found), next(filter(None, found), [])))
        several = len(places) > MOST_STEPS
        return self._told(likely if several else places, noticed, several)

    def _told(self, places: dict[str, str], noticed: str, several: bool = False) -> str:
        """places: the words of each step that explains all -> the kind of change there."""
        if not 1 <= len(places) <= MOST_STEPS:  # too many steps give the same: a symptom says more
            return ""
        hints, words = list(dict.fromkeys(places.values())), ", or ".join(places)
        which = "of several steps" if several else "step" if len(places) == 1 else "of these"
        about = f"{BEHAVES} one {which} were different{', for example' * several}: {words}."
        return _led(noticed, words, about, *hints[: len(hints) == 1])

    def _places(self, found: Iterable[Changes], values: dict[str, Any]) -> dict[str, str]:
        """The words of each step -> the kind of change there."""
        places: dict[str, str] = {}
        for changes in found:
            words = " and ".join(dict.fromkeys(self.words(change.slot.node, values) for change in changes))
            places.setdefault(words, turned(changes[0]))
        return places


def turned(change: repair.Change) -> str:
    """The hint for who has the changed code: what was left out of the reference is missing there."""
    node, hint = change.slot.node, change.hint
    if hint == edits.TOO_MUCH or hint.endswith("needed there?"):
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        usual = isinstance(node, ast.Call) and len(node.args) < 2  # the larger of two is no matter of many numbers
        family = (said for names, said in edits.FAMILIES.items() if usual and name in names)
        return next(family, "Something is missing there.")
    if hint in (edits.MISSING_TERM, edits.MISSING_FACTOR):
        return "Something there is too much."
    if hint == "Is this step needed?":
        return "Is this step there?"
    return "Does the right quantity stand there?" if "`" in hint else hint


def _led(noticed: str, words: str, about: str, *hints: str) -> str:
    """The short form behind what was noticed, if both are short enough; else the long one alone."""
    short = f"{noticed} Look at {words}."
    return within(short if noticed and len(short.split()) <= MOST_WORDS else about, *dict.fromkeys(hints))
