"""Repair the other way round: which small change of the right answer gives what a wrong one gave?

`repair` changes a learner's code until it is right. Where that fails (two slips, another way of writing it, no source),
this looks up the wrong results among those of the *reference* with one small change, with two, or with a taught mistake
and one more. A step is called by its comment in the reference:

    groups = math.ceil(blocks / second_size)  # the number of groups

    Your answer behaves as if one step were different: the number of groups. Look at how it rounds: up, down, ...

What is said is true by construction, and claims no more: the changed reference was run on every case. All is made when
a wrong answer needs it, and ends after a fixed number of tries, so that no message depends on the load.
"""

import ast
import contextlib
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice, product
from typing import Any

import numpy as np

from lora_edu.exercises import edits, repair
from lora_edu.exercises.comparing import is_numbers, plain
from lora_edu.exercises.describing import MOST_WORDS, within
from lora_edu.exercises.reference import ANSWER, Reference, copied
from lora_edu.exercises.rows import Changes, Flat, Table, flat

SINGLES, LIKELY, PAIRS, AT_THE_END, SUMS = 3000, 400, 8000, 4000, 300  # tries
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

    def _likely(self) -> Iterator[Changes]:
        """The changes of what stands there; nothing is put around it."""
        small = self.changes(edits.local_changes, self._other_names, edits.changed_statements)
        return chain(self.also, ((change,) for change in small))

    @cached_property
    def likely(self) -> list[Changes]:
        """Of those that make the same of their step one, another number last."""
        found: dict[Any, Changes] = {}
        for changes in self._bounded(self._likely(), LIKELY):
            with contextlib.suppress(Exception, repair.TooLong):
                codes, step = self._codes(changes), self.body[self._place(changes[-1])]
                name = (
                    ANSWER if isinstance(step, ast.Return) else getattr(getattr(step, "targets", [step])[0], "id", "")
                )
                made = [plain(self._run(codes, copied(case)).get(name)) for case in self.cases]
                found.setdefault(repr(made) if all(map(is_numbers, made)) else id(changes), changes)
        return sorted(found.values(), key=lambda changes: changes[0].hint == edits.NUMBER)

    def _other_sizes(self, node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
        return edits.other_sizes(node, self.names)

    def _table(self, tried: Iterable[Changes]) -> Table:
        table, right = Table(), self.right
        for changes in self._bounded(tried, SINGLES):
            if (made := self._made(changes)) and not made.same(right):
                table.add(changes, made)
        return table

    def _bounded(self, tried: Iterable[Changes], tries: float) -> Iterator[Changes]:
        end = time.thread_time() + SECONDS
        with repair.silence():
            for changes, _ in zip(tried, range(int(tries)), strict=False):
                if time.thread_time() > end:
                    return
                yield changes

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

    def sums(self, got: Flat) -> list[Changes]:
        """Two changes whose differences add up to that of what was got, as those of different terms of a sum do.

        Or whose ratios multiply to its ratio: then their logarithms add up.
        """
        right, kind = self.right, self.right.kind
        if got.kind != kind or kind not in self.singles.rows:
            return []
        for scale in (np.asarray, _logarithms):
            with np.errstate(all="ignore"):
                there = np.array([scale(values) for values in (*self.singles.rows[kind], got.values, right.values)])
            known = np.isfinite(there[-2:]).all(axis=0)
            away = there[:-1, known] - there[-1, known]
            allowed = (got.allowed + right.allowed)[known] if scale is np.asarray else np.full(known.sum(), 1e-5)
            if known.any() and (found := self._adding_up(away[:-1], away[-1], allowed, got)):
                return found
        return []

    def _adding_up(self, away: np.ndarray, wanted: np.ndarray, allowed: np.ndarray, got: Flat) -> list[Changes]:
        mix = np.random.default_rng(0).normal(size=len(wanted))  # makes one number of each row, to find its partner by
        shadows = np.nan_to_num(away, nan=1e30, posinf=1e30, neginf=-1e30) @ mix
        order, near = np.argsort(shadows), 3 * allowed @ np.abs(mix)
        begin, end = (np.searchsorted(shadows[order], wanted @ mix - shadows + by) for by in (-near, near))
        changes, tries = self.singles.changes[got.kind], 0
        for one in np.flatnonzero(end > begin):
            for other in order[begin[one] : end[one]]:
                both = (*changes[one], *changes[other])
                if one < other and tries < SUMS and _apart(changes[one], changes[other]):
                    tries += 1
                    if (made := self._made(both)) and made.same(got):
                        return [both]
        return []

    def pairs(self, got: list[dict], first: int) -> list[Changes]:
        """Two of the likely changes that give what was got. All are tried in the first case that failed."""
        last = [changes for changes in self.likely if self._place(changes[0]) == len(self.body) - 1]
        singles = [changes for there in self.singles.changes.values() for changes in there]
        for tried, tries in ((_in_pairs(self.likely), PAIRS), (product(last, singles), AT_THE_END)):
            both = ((*one, *other) for one, other in tried if _apart(one, other))
            if pair := list(islice(self._search(both, tries * self.share, got, first), 1)):
                return pair
        return []

    def _search(self, tried: Iterable[Changes], tries: float, got: list[dict], first: int) -> Iterator[Changes]:
        """Those that give what was got: all are tried in the first case that failed, and what fits there in all."""
        there, everywhere = flat(got[first : first + 1]), flat(got)
        for changes in self._bounded(tried, tries):
            if (made := self._made(changes, first)) and made.same(there):
                if (made := self._made(changes)) and made.same(everywhere):
                    yield changes

    # --- words ---

    def explained(self, got: Flat, values: dict[str, Any], noticed: str = "") -> str:
        """What is to be said of an answer that behaves like one change.

        values: of the steps, or none to keep them; noticed: a sentence in front, which makes the rest shorter.
        """
        found = [tier.found(got) for tier in self.tiers]
        places, likely = (self._places(each, values) for each in (chain(*found), next(filter(None, found), [])))
        several = len(places) > MOST_STEPS
        places = likely if several else places
        if not 1 <= len(places) <= MOST_STEPS:  # too many steps give the same: a symptom says more
            return ""
        hints, words = list(dict.fromkeys(places.values())), ", or ".join(places)
        which = "of several steps" if several else "step" if len(places) == 1 else "of these"
        about = f"{BEHAVES} one {which} were different{', for example' * several}: {words}."
        return _led(noticed, words, about, *hints[: len(hints) == 1])

    def explained_twice(self, got: list[dict], first: int, values: dict[str, Any], noticed: str = "") -> str:
        """The same of two changes; first: the first case that failed."""
        if self.singles.found(flat(got)):  # one change is enough, and too many steps have one
            return ""
        for pair in self.sums(flat(got)) or self.pairs(got, first):
            (one, hint), (other, too) = ((self.words(change, values), turned(change)) for change in (pair[0], pair[-1]))
            words = f"{one}; and {other}" if one != other else f"{one}, twice"
            return _led(noticed, words, f"{BEHAVES} two things were different: {words}.", hint, too)
        return ""

    def besides(self, got: list[dict], first: int, values: dict[str, Any]) -> str:
        """The same of one of the likely changes, where this is the version with a taught mistake."""
        wrapped = ((change,) for change in self.changes(self._wraps))
        places = self._places(list(self._search(chain(self._likely(), wrapped), LIKELY, got, first)), values)
        if not 1 <= len(places) <= MOST_STEPS:
            return ""
        return f"Besides, look at {', or '.join(places)}. {next(iter(places.values()))}".strip()

    def _places(self, found: Iterable[Changes], values: dict[str, Any]) -> dict[str, str]:
        """The words of each step -> the kind of change there."""
        places: dict[str, str] = {}
        for changes in found:
            words = " and ".join(dict.fromkeys(self.words(change, values) for change in changes))
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


def _in_pairs(items: list) -> Iterator[tuple]:
    """All pairs, those of the first items first."""
    for both in range(1, 2 * len(items) - 2):
        for one in range(max(0, both - len(items) + 1), (both + 1) // 2):
            yield items[one], items[both - one]


def _logarithms(values: np.ndarray) -> np.ndarray:
    return np.log(np.abs(values))


def _apart(one: Changes, other: Changes) -> bool:
    """Whether no change stands inside of another."""
    nodes = [change.slot.node for change in (*one, *other)]
    return not any(b is not a and b in ast.walk(a) for a in nodes for b in nodes) and len(set(nodes)) == len(nodes)
