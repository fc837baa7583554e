"""Repair the other way round: which small change of the right answer gives what a wrong one gave?

`repair` changes a learner's code until it is right. Where that fails (another way of writing it, no source), this looks
up the wrong results among those of the *reference* with one small change, or with another number. A step is called by
its comment in the reference:

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

import numpy as np

from lora_edu.exercises import edits, repair
from lora_edu.exercises.describing import MOST_WORDS, within
from lora_edu.exercises.reference import Reference
from lora_edu.exercises.rows import Changes, Flat, Table, flat

SINGLES = 3000  # tries
SECONDS = 1.5  # of this thread's own time, for each kind of try: a safety stop
MOST_STEPS = 3  # so many places at most are named where each explains the same results
BEHAVES = "Your answer behaves as if"
FREE = "__free__"  # a number that is not known yet


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
        sizes = ((change,) for change in self.changes(self._other_sizes))
        return [
            self._table(tried) for tried in (chain(self.also, self._alike(), likely), around, chain(missing, sizes))
        ]

    @cached_property
    def singles(self) -> Table:
        """All of them together."""
        table = Table()
        for tier in self.tiers:
            for kind, rows in tier.rows.items():
                table.rows.setdefault(kind, []).extend(rows)
                table.changes.setdefault(kind, []).extend(tier.changes[kind])
        return table

    def _other_sizes(self, node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
        return edits.other_sizes(node, self.names)

    def _table(self, tried: Iterable[Changes]) -> Table:
        table, right, end = Table(), self.right, time.thread_time() + SECONDS
        with repair.silence():
            for changes in islice(tried, SINGLES):
                if time.thread_time() > end:
                    break
                if (made := self._made(changes)) and not made.same(right):
                    table.add(changes, made)
        return table

    def _made(self, changes: Changes, only: int | None = None) -> Flat | None:
        """What the changed reference gives, in all cases or only in one; None where it stops."""
        try:
            return flat(self.see(self.solution(changes), only))
        except (Exception, repair.TooLong):
            return None

    def _alike(self) -> Iterator[Changes]:
        groups: dict[tuple, dict[ast.AST, repair.Change]] = {}
        for change in self.changes(edits.local_changes):
            old, new = change.slot.node, change.node
            kind = tuple(ast.dump(n.func) if isinstance(n, ast.Call) else type(n).__name__ for n in (old, new))
            groups.setdefault((change.hint, kind), {}).setdefault(old, change)
        return (tuple(group.values()) for group in groups.values() if len(group) > 1)

    def numbers(self, got: list[dict], first: int) -> list[Changes]:
        """One number that is another one, a factor or a term too much: its value is found from the first case that
        failed, and counts if it gives all of what was got."""
        found, there, everywhere = [], flat(got[first : first + 1]), flat(got)
        with repair.silence():
            for slot, hint, node, start in self._numbers():
                free = (repair.Change(slot, hint, node),)
                for value in self._values_for(there, free, first, start):
                    self.known[FREE] = value
                    if value != start and (made := self._made(free)) and made.same(everywhere):
                        found.append((repair.Change(slot, hint, edits.number(value)),))
                        break
        return found

    def _numbers(self) -> Iterator[tuple[repair.Slot, str, ast.expr, float]]:
        """Where a number stands or may be put: the place, a hint, an expression with FREE, and what changes nothing."""
        free = ast.Name(FREE, ast.Load())
        for slot in self.slots:
            constant = isinstance(slot.node, ast.Constant) and type(slot.node.value) in (int, float)
            if constant and not edits.is_axis(slot.node, slot.parent):
                yield slot, edits.NUMBER, free, slot.node.value
        for slot in self.slots:
            if slot.field == "value" and isinstance(slot.parent, ast.Assign | ast.Return):
                yield slot, edits.SOME_FACTOR, edits.both(slot.node, ast.Mult, free), 1
                yield slot, edits.SOME_TERM, edits.both(slot.node, ast.Add, free), 0

    def _values_for(self, wanted: Flat, free: Changes, case: int, start: float) -> list[float]:
        """Numbers that may give what is wanted in a case: as if this grew in a straight line, as a power, or so."""
        self.known[FREE], other = start, start + 1
        one = self._made(free, case)
        self.known[FREE] = other
        two = self._made(free, case)
        if not one or not two or not one.kind == two.kind == wanted.kind or one.same(two):
            return []
        place = int(np.nan_to_num(np.abs(two.values - one.values), nan=0, posinf=0).argmax())
        low, high, goal = (row.values[place] for row in (one, two, wanted))
        with np.errstate(all="ignore"):
            share = (goal - low) / (high - low), np.log(goal / low) / np.log(high / low)
            share = *share, (1 / goal - 1 / low) / (1 / high - 1 / low)
            guesses = [start + part for part in share] + [start * (other / start) ** share[1]] if start else [*share]
        exact = [float(guess) for guess in guesses if np.isfinite(guess)]
        return [float(f"{guess:.{digits}g}") for guess in exact for digits in (9, 4, 3, 2, 1)]

    # --- words ---

    def explained(self, got: Flat, values: dict[str, Any], noticed: str = "") -> str:
        """What is to be said of an answer that behaves like one change.

        values: of the steps, or none to keep them; noticed: a sentence in front, which makes the rest shorter.
        """
        found = [tier.found(got) for tier in self.tiers]
        places, likely = (self._places(each, values) for each in (chain(*found), next(filter(None, found), [])))
        several = len(places) > MOST_STEPS
        return self._told(likely if several else places, noticed, several)

    def explained_by_a_number(self, got: list[dict], first: int, values: dict[str, Any], noticed: str = "") -> str:
        """The same of an answer in which a number is another one, whatever it is; first: the first case that failed."""
        return self._told(self._places(self.numbers(got, first), values), noticed)

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
