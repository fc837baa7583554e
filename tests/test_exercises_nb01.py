"""Notebook 01: right answers in other words, and the factors of 1.4, of which there are many."""

import numpy as np
import pytest
import torch
from test_exercises import said

from lora_edu.exercises import nb01 as check


def svd(matrix):
    return np.linalg.svd(matrix, full_matrices=False)


def with_everything_in_a(update, rank, alpha):
    U, S, Vt = svd(update)
    return U[:, :rank], alpha**-1 * rank * S[:rank, None] * Vt[:rank]


def with_roots_in_both(update, rank, alpha):
    U, S, Vt = svd(update)
    root = np.sqrt(S[:rank] / (alpha / rank))
    return U[:, :rank] * root, root[:, None] * Vt[:rank]


def with_another_basis(update, rank, alpha):
    B, A = with_roots_in_both(update, rank, alpha)
    Q = np.random.default_rng(3).normal(size=(rank, rank))
    return B @ Q, np.linalg.inv(Q) @ A


def with_torch(update, rank, alpha):
    U, S, Vt = torch.linalg.svd(torch.from_numpy(update), full_matrices=False)
    return U[:, :rank] * S[:rank] * rank / alpha, Vt[:rank]


def without_an_svd(matrix, rank):
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return eigenvalues[:rank].sum() / (matrix**2).sum()


def by_a_mask(matrix, rank):
    order = np.argsort(-abs(matrix), axis=None)[: rank * sum(matrix.shape)]
    kept = np.zeros(matrix.size)
    kept[order] = matrix.ravel()[order]
    return np.linalg.norm(kept) ** 2 / np.linalg.norm(matrix) ** 2


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        *((check.update_factors, right) for right in (with_everything_in_a, with_roots_in_both)),
        *((check.update_factors, right) for right in (with_another_basis, with_torch)),
        (check.largest_saving_rank, lambda d_out, d_in: int(np.ceil(d_out * d_in / (d_out + d_in))) - 1),
        (check.entries_share, by_a_mask),
        (check.kept_share, without_an_svd),
    ],
)
def test_right_answers_in_other_words(exercise, right, capsys):
    exercise(right)
    assert capsys.readouterr().out.endswith(": correct\n")


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda m, r, a: with_torch(m, r, a)[::-1], "return B first, then A."),
        (lambda m, r, a: (svd(m)[0][:, :r], svd(m)[2][:r].T), "A (2, 8), got (5, 2) and (8, 2)."),
        (lambda m, r, a: m, "should return two matrices"),
        (lambda m, r, a: (np.zeros((len(m), r)), svd(m)[2][:r]), "as in an adapter before its training"),
        (lambda m, r, a: (svd(m)[0][:, :r] * svd(m)[1][:r], svd(m)[2][:r]), "s = alpha / rank, here 8, so divide by s"),
        (lambda m, r, a: (with_torch(m, r, a)[0] * a, svd(m)[2][:r]), "times `a` once more"),
    ],
)
def test_what_is_said_of_factors(attempt, sentence):
    assert sentence in said(check.update_factors, attempt)
