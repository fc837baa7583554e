import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("right", [with_everything_in_a, with_roots_in_both, with_another_basis, with_torch])
def test_right_factors(right, capsys):
    check.update_factors(right)
    assert capsys.readouterr().out == "Exercise 1.3: correct\n"


def scaled(power=1.0, division=1.0):
    """B, A with B A = U S^power Vt / s^division."""

    def attempt(update, rank, alpha):
        U, S, Vt = svd(update)
        return U[:, :rank] * S[:rank] ** power / (alpha / rank) ** division, Vt[:rank]

    return attempt


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (scaled(division=0), "so divide by s"),
        (scaled(division=-1), "this multiplies by s, and so does the layer"),
        (scaled(division=2), "this divides by s twice"),
        (lambda m, r, a: (scaled(division=0)(m, r, a)[0] / a, svd(m)[2][:r]), "this divides by alpha"),
        (scaled(power=0), "the singular values are missing"),
        (scaled(power=0, division=0), "and the division by s are both missing"),
        (scaled(power=2), "so they count twice"),
        (lambda m, r, a: scaled()(m, r, a)[::-1], "return B first, then A"),
        (lambda m, r, a: (svd(m)[0][:, :r], svd(m)[2][:r].T), r"A \(2, 8\), got \(5, 2\) and \(8, 2\)"),
    ],
)
def test_wrong_factors_are_named(attempt, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check.update_factors(attempt)


def test_untouched_stubs(capsys):
    for exercise in (check.largest_saving_rank, check.kept_share, check.update_factors):
        exercise(lambda *arguments: ...)
    assert capsys.readouterr().out.count("not done yet") == 3


def test_other_right_ways_to_count_and_to_measure(capsys):
    check.largest_saving_rank(
        lambda d_out, d_in: max(r for r in range(min(d_out, d_in)) if r * (d_out + d_in) < d_out * d_in)
    )
    check.largest_saving_rank(lambda d_out, d_in: int(np.ceil(d_out * d_in / (d_out + d_in))) - 1)

    def without_an_svd(matrix, rank):
        eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
        return eigenvalues[:rank].sum() / (matrix**2).sum()

    check.kept_share(without_an_svd)
    check.kept_share(lambda m, r: np.float32(1 - (np.linalg.svd(m)[1][r:] ** 2).sum() / np.linalg.norm(m) ** 2))
    assert capsys.readouterr().out.count("correct") == 4
