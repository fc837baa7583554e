"""Notebook 15: right answers in other words, and what was said of the wrong step once."""

from itertools import pairwise

import numpy as np
import pytest
from test_exercises import said

from lora_edu.exercises import nb15 as check

svd = np.linalg.svd


def by_hand(learned, forgotten, runs):
    runs = sorted(runs)
    for (x0, y0), (x1, y1) in pairwise(runs):
        if x0 <= learned <= x1:
            return forgotten - (y0 + (y1 - y0) * (learned - x0) / (x1 - x0))
    return float("nan")


def by_arguments(learned, forgotten, runs):
    return forgotten - np.interp(learned, *zip(*sorted(runs), strict=True), left=np.nan, right=np.nan)


def by_loop(W, dW, k, bound):
    own, new = svd(W)[0][:, : min(W.shape)], svd(W + dW)[0]
    return sum(all(abs(new[:, j] @ u) < bound for u in own.T) for j in range(k))


@pytest.mark.parametrize(
    ("exercise", "right"),
    [(check.extra_forgetting, by_hand), (check.extra_forgetting, by_arguments), (check.count_intruders, by_loop)],
)
def test_right_solutions_that_are_written_differently(exercise, right, capsys):
    exercise(right)
    assert capsys.readouterr().out.endswith(": correct\n")


NAN = {"left": np.nan, "right": np.nan}


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        (lambda y, there: y - there, NAN),
        (lambda y, there: y - there, {}),
        (lambda y, there: there - y, NAN),
        (lambda y, there: y / there, NAN),
    ],
)
def test_unsorted_runs_are_not_blamed_on_the_line_between_them(how, ends):
    text = said(check.extra_forgetting, lambda x, y, runs: how(y, np.interp(x, *zip(*runs, strict=True), **ends)))
    steps = "Which step of yours gives another number? The order of the runs."
    assert text.startswith(("Your answer leaves the runs in the order in which they come.", steps))


def test_nan_everywhere_is_one_constant():
    assert "returns nan in every case" in said(check.extra_forgetting, lambda x, y, runs: np.nan)


def test_intruders_need_the_columns_that_belong_to_a_component():
    assert "square U" in said(
        check.count_intruders, lambda W, dW, k, b: int((abs(svd(W + dW)[0][:, :k].T @ svd(W)[0]).max(1) < b).sum())
    )
