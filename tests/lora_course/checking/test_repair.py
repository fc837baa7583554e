"""Locating by repair: the place and the kind of the one change that makes a wrong answer right, and no more."""

import linecache

import numpy as np
import pytest
from test_exercises import cell, said

from lora_course.checking import edits, repair
from lora_course.checking.exercise import exercise


@pytest.fixture(autouse=True)
def enough_time(monkeypatch):
    monkeypatch.setattr(repair, "SECONDS", 20)
    monkeypatch.setattr("lora_course.checking.answers.QUICK", 20)


RNG = np.random.default_rng(0)


@exercise("1.1", [(RNG.normal(size=shape) - 1, n) for shape, n in (((3, 4), 2), ((2, 5), 5), ((4, 3), 7))])
def SPREAD(x, n):
    return np.abs(x).max(axis=1) / (2**n - 1) + np.sqrt((x**2).sum(axis=1))  # the spread


@exercise("1.2", [(10, 3, True), (12, 4, False), (7, 5, True)])
def COUNT(n, k, on):
    return -(-n // k) + (4 * n if on else 8)  # the count


SPREAD_RIGHT = """def f(x, n):
    top = np.abs(x).max(axis=1)
    return top / (2**n - 1) + np.sqrt((x**2).sum(axis=1))"""
COUNT_RIGHT = """def f(n, k, on):
    blocks = -(-n // k)
    return blocks + (4 * n if on else 8)"""
ENDLESS = """def f(x, n):
    print("here")
    x -= 1
    k = 0
    while 2**k < n:
        k += 1
        try:
            x + 1
        except Exception:
            pass
    return k + 1"""


CHANGES = [
    ("max(axis=1)", "max(axis=0)", "np.abs(x).max(axis=0)", 2, edits.AXIS),
    ("np.abs(x).max", "np.abs(x).min", "np.abs(x).min(axis=1)", 2, edits.REDUCTION),
    ("np.abs(x)", "x", "x.max(axis=1)", 2, edits.MAGNITUDE),
    ("2**n", "2 * n", "2 * n - 1", 3, edits.ROOT),
    ("top / (2**n - 1)", "top * (2**n - 1)", "top * (2**n - 1)", 3, edits.FACTOR),
    (") + np", ") - np", "top / (2**n - 1) - np.sqrt((x**2).sum(axis=1))", 3, edits.SIGN),
    ("n - 1)", "n - 1) / n", "top / (2**n - 1) / n", 3, "Is `n` needed there?"),
    ("-(-n // k)", "n // k", "n // k", 2, edits.ROUNDING),
    ("if on", "if not on", "4 * n if not on else 8", 3, edits.CONDITION),
    ("(2**n - 1) + np", "(2**n - 1) * np", "top / (2**n - 1) * np.sqrt((x**2).sum(axis=1))", 3, edits.SUM),
    ("4 * n", "4 * k", "4 * k if on else 8", 3, "Is `k` what is meant there?"),
    ("(4 * n if on else 8)", "4 * n if on else 8", "blocks + 4 * n if on else 8", 3, edits.PARENTHESES),
]


@pytest.mark.parametrize(("right", "wrong", "place", "line", "hint"), CHANGES)
def test_one_change_is_located(right, wrong, place, line, hint):
    asked, source = (SPREAD, SPREAD_RIGHT) if right in SPREAD_RIGHT else (COUNT, COUNT_RIGHT)
    told = said(asked, cell(source.replace(right, wrong)))
    assert f"A change at `{place}`, in line {line}, makes every case right. {hint}" in told, told


def test_the_same_change_at_two_places():
    told = said(SPREAD, cell(SPREAD_RIGHT.replace("axis=1", "axis=0")))
    assert "The same change at `np.abs(x).max(axis=0)`, in line 2 and at " in told and f"{edits.AXIS} An" in told


@pytest.mark.parametrize("source", [SPREAD_RIGHT, COUNT_RIGHT])
def test_of_two_mistakes_no_place_is_claimed(source):
    asked = SPREAD if source is SPREAD_RIGHT else COUNT
    wrong = source.replace("np.abs(x)", "x").replace("2**n", "3**n").replace("-(-n // k)", "n // k").replace("4", "5")
    assert "makes every case right" not in said(asked, cell(wrong))


UP = """class Up:
    def of(self, n, k):
        return n // k

def blocks(n, k):
    return Up().of(n, k)

def f(n, k, on):
    return blocks(n, k) + (4 * n if on else 8)"""


def test_a_function_and_a_class_of_the_same_cell():
    assert "A change at `n // k`, in line 3," in said(COUNT, cell(UP))


def test_an_answer_that_stops_is_located():
    told = said(SPREAD, cell(SPREAD_RIGHT.replace("(x**2).sum(axis=1)", "(x.T**2).sum(axis=1)")))
    assert told.index(edits.TRANSPOSE) < told.index("stopped with ValueError")  # where, before Python's words


def test_nothing_goes_on_for_ever_or_is_heard_or_touches_the_arguments(capsys):
    given = []

    def observed(solution, x, n):
        given.append(x.tolist())
        return solution(x, n)

    cases = [(np.arange(3.0), n) for n in (5, 8, 9, 100)]

    @exercise("1.3", cases, observe=observed)
    def asked(x, n):
        return int(np.ceil(np.log2(n)))  # the bits

    assert "A change at `k + 1`, in line 11," in said(asked, cell(ENDLESS))
    assert len(given) > 40 and all(x == [0, 1, 2] for x in given)
    assert capsys.readouterr().out == "here\n" * 4  # of the answer itself, once a case
    endless = "def f(x, n):\n    k = 0\n    while 2**k < 2 * n:\n        k += 1\n    return 3 * k"
    assert said(asked, cell(endless))


@pytest.mark.parametrize("call", ["open('/dev/null')", "np.save('x', n)", "model.train()", "os.getpid()"])
def test_what_writes_or_trains_is_not_run_again(call):
    source = f"def f(n, k, on):\n    if n is None:\n        {call}\n    return n // k + (4 * n if on else 8)"
    assert "makes every case right" not in said(COUNT, cell(source))


@pytest.mark.parametrize(
    "source", ["2 * n * k + 4", "2 ** (k % 4) * n", "(1 << k % 4) * n", "n * len([i for i in range(k)]) + 2"]
)
def test_no_number_takes_for_ever(source):
    """No change puts a count of billions into an exponent."""

    @exercise("1.4", [(7 * 10**9, 3), (5 * 10**9, 2), (10**9, 5)])
    def asked(n, k):
        return n * k + 1  # the count

    assert said(asked, cell(f"def f(n, k):\n    return {source}"))


def test_no_list_fills_the_memory():
    """What is put into a product may be a list, and the other factor a count of millions."""
    code = repair.Code.of(cell("def f(n, k):\n    parts = [n for _ in range(k)]\n    return n * sum(parts)"))
    lists = [found for tried in code.rounds() for found in tried if code.runs(lambda f: f(2, 3) * 1 > [], found)]
    assert lists and not any(code.runs(lambda f: len(f(10**6, 3)) > repair.MOST_ENTRIES, found) for found in lists)


@pytest.mark.parametrize("lines", [None, COUNT_RIGHT.replace("blocks +", "blocks -").splitlines(keepends=True)])
def test_without_its_source_or_with_an_older_one_an_answer_is_not_located(lines):
    function = cell(COUNT_RIGHT.replace("-(-n // k)", "n // k"))
    file = function.__code__.co_filename
    linecache.cache.pop(file)
    if lines:
        linecache.cache[file] = (1, None, lines, file)
    assert "makes every case right" not in said(COUNT, function)


def test_an_error_in_the_search_stops_no_check(monkeypatch):
    monkeypatch.setattr(edits, "wraps", lambda node: 1 / 0)
    assert said(COUNT, cell(COUNT_RIGHT.replace("-(-n // k)", "abs(n - k)")))
