"""The exercises of notebook 10: other right answers pass, wrong ones are named."""

from itertools import pairwise

import numpy as np
import pytest

from lora_edu.exercises import nb10 as check

svd = np.linalg.svd


def angles(M, N, i, j):
    """phi as the mean squared cosine of the principal angles."""
    one, other = (svd(m.T, full_matrices=False)[0] for m in (M, N))
    return (svd(one[:, :i].T @ other[:, :j], compute_uv=False) ** 2).mean()


def by_hand(learned, forgotten, runs):
    runs = sorted(runs)
    for (x0, y0), (x1, y1) in pairwise(runs):
        if x0 <= learned <= x1:
            return forgotten - (y0 + (y1 - y0) * (learned - x0) / (x1 - x0))
    return float("nan")


def by_projection(W, dW, rank):
    U, _, Vt = svd(dW)
    return np.sqrt((dW**2).sum()) / np.linalg.norm(U[:, :rank] @ U[:, :rank].T @ W @ Vt[:rank].T @ Vt[:rank])


def by_loop(W, dW, k, bound):
    own, new = svd(W)[0][:, : min(W.shape)], svd(W + dW)[0]
    return sum(all(abs(new[:, j] @ u) < bound for u in own.T) for j in range(k))


def test_right_solutions_that_are_written_differently(capsys):
    check.shared(angles)
    check.extra_forgetting(by_hand)
    check.amplification(by_projection)
    check.count_intruders(by_loop)
    assert capsys.readouterr().out.count(": correct") == 4


def test_a_subspace_inside_another_one_gives_1_and_ranks_may_differ():
    M = np.random.default_rng(0).normal(size=(5, 12))
    assert check.shared.reference(M, M, 2, 4) == pytest.approx(1)
    assert 0 < check.shared.reference(M, np.random.default_rng(1).normal(size=(3, 12)), 2, 3) < 1


def rows(matrix, count):
    return svd(matrix)[2][:count]


def interpolated(learned, forgotten, runs, **ends):
    return forgotten - np.interp(learned, *zip(*sorted(runs), strict=True), **ends)


NAN = {"left": np.nan, "right": np.nan}


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (
            check.shared,
            lambda M, N, i, j: np.linalg.norm(svd(M)[0][:, :i].T @ svd(N)[0][:, :j]) ** 2 / min(i, j),
            "left",
        ),
        (
            check.shared,
            lambda M, N, i, j: np.linalg.norm(svd(M)[2][:, :i].T @ svd(N)[2][:, :j]) ** 2 / min(i, j),
            "columns",
        ),
        (check.shared, lambda M, N, i, j: np.linalg.norm(rows(M, i) @ rows(N, j).T) / min(i, j), "takes its square"),
        (check.shared, lambda M, N, i, j: np.linalg.norm(rows(M, i) @ rows(N, j).T, 2) / min(i, j), "spectral norm"),
        (check.shared, lambda M, N, i, j: ((rows(M, i) @ rows(N, j).T) ** 2).mean(), r"divides by i \* j"),
        (
            check.shared,
            lambda M, N, i, j: ((M[:i] @ N[:j].T) ** 2).sum() / min(i, j),
            "rows of the factors as they are",
        ),
        (
            check.shared,
            lambda M, N, i, j: ((rows(M, i) @ rows(N, j).T) ** 2).sum() / max(i, j),
            "the larger of i and j",
        ),
        (check.shared, lambda M, N, i, j: angles(M, N, i, j) - max(i, j) / M.shape[1], "subtracts what chance gives"),
        (check.shared, lambda M, N, i, j: rows(M, i) @ rows(N, j).T, "this is a table"),
        (check.shared, lambda M, N, i, j: M.mean() * 0 + 0.5, "`M` has no part in your result"),
        (check.extra_forgetting, interpolated, "this answers with the last one"),
        (check.extra_forgetting, lambda x, y, runs: y - np.interp(x, *zip(*runs, strict=True)), "sort the runs"),
        (check.extra_forgetting, lambda x, y, runs: y / (y - interpolated(x, y, runs, **NAN)), "a ratio"),
        (check.extra_forgetting, lambda x, y, runs: -interpolated(x, y, runs, **NAN), "the sign is turned"),
        (check.extra_forgetting, lambda x, y, runs: by_hand(x, y, runs) if x > 0.7 else None, "not None"),
        (check.extra_forgetting, lambda x, y, runs: y - min(runs, key=lambda r: abs(r[0] - x))[1], "nearest run"),
        (check.extra_forgetting, lambda x, y, runs: interpolated(x, y, runs, left=np.nan), "nothing was measured"),
        (
            check.amplification,
            lambda W, dW, r: np.linalg.norm(dW) / np.linalg.norm(W),
            "beside W, whatever the directions",
        ),
        (check.amplification, lambda W, dW, r: 1 / by_projection(W, dW, r), "upside down"),
        (
            check.amplification,
            lambda W, dW, r: by_projection(W, W, r) * np.linalg.norm(dW) / np.linalg.norm(W),
            "W's own",
        ),
        (check.amplification, lambda W, dW, r: by_projection(W, dW, r) ** 2, "the square of the factor"),
        (check.count_intruders, lambda W, dW, k, b: by_loop(W, dW, min(W.shape), b), "at most k|all directions"),
        (
            check.count_intruders,
            lambda W, dW, k, b: int((abs(svd(W + dW)[0][:, :k].T @ svd(W)[0]).max(1) < b).sum()),
            "square",
        ),
        (check.count_intruders, lambda W, dW, k, b: k - by_loop(W, dW, k, b), "directions that are old"),
        (
            check.count_intruders,
            lambda W, dW, k, b: int(((svd(W + dW)[0][:, :k].T @ svd(W, False)[0]).max(1) < b).sum()),
            "no sign",
        ),
    ],
)
def test_mistakes_are_named(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)


@pytest.mark.parametrize("exercise", [check.shared, check.extra_forgetting, check.amplification, check.count_intruders])
def test_each_known_mistake_gives_another_answer_than_the_reference(exercise):
    for sentence, mistake in exercise.misconceptions.items():
        answers = [(mistake(*case), exercise.reference(*case)) for case in exercise.cases]
        assert not all(np.array_equal(wrong, right, equal_nan=True) for wrong, right in answers), sentence
