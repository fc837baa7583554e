"""Notebook 10: right answers in other words."""

import numpy as np
import pytest

from lora_edu.exercises import nb10 as check

svd = np.linalg.svd


def angles(M, N, i, j):
    """phi as the mean squared cosine of the principal angles."""
    one, other = (svd(m.T, full_matrices=False)[0] for m in (M, N))
    return (svd(one[:, :i].T @ other[:, :j], compute_uv=False) ** 2).mean()


def by_projection(W, dW, rank):
    U, _, Vt = svd(dW)
    return np.sqrt((dW**2).sum()) / np.linalg.norm(U[:, :rank] @ U[:, :rank].T @ W @ Vt[:rank].T @ Vt[:rank])


@pytest.mark.parametrize(("exercise", "right"), [(check.shared, angles), (check.amplification, by_projection)])
def test_right_solutions_that_are_written_differently(exercise, right, capsys):
    exercise(right)
    assert capsys.readouterr().out.endswith(": correct\n")


def test_a_subspace_inside_another_one_gives_1_and_ranks_may_differ():
    M = np.random.default_rng(0).normal(size=(5, 12))
    assert check.shared.reference(M, M, 2, 4) == pytest.approx(1)
    assert 0 < check.shared.reference(M, np.random.default_rng(1).normal(size=(3, 12)), 2, 3) < 1
