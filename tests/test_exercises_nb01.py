import numpy as np
import pytest
import torch

from lora_edu.exercises import nb01 as check
from lora_edu.exercises import repair


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
    assert capsys.readouterr().out == "Exercise 1.4: correct\n"


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
    for exercise in (check.largest_saving_rank, check.entries_share, check.kept_share, check.update_factors):
        exercise(lambda *arguments: ...)
    assert capsys.readouterr().out.count("not done yet") == 4


def test_other_right_ways_to_count_and_to_measure(capsys):
    check.largest_saving_rank(
        lambda d_out, d_in: max(r for r in range(min(d_out, d_in)) if r * (d_out + d_in) < d_out * d_in)
    )
    check.largest_saving_rank(lambda d_out, d_in: int(np.ceil(d_out * d_in / (d_out + d_in))) - 1)

    def without_an_svd(matrix, rank):
        eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
        return eigenvalues[:rank].sum() / (matrix**2).sum()

    def entry_by_entry(matrix, rank):
        squares = sorted((float(entry) ** 2 for entry in matrix.flat), reverse=True)
        return sum(squares[: rank * matrix.shape[0] + matrix.shape[1] * rank]) / sum(squares)

    def by_a_mask(matrix, rank):
        order = np.argsort(-abs(matrix), axis=None)[: rank * sum(matrix.shape)]
        kept = np.zeros(matrix.size)
        kept[order] = matrix.ravel()[order]
        return np.linalg.norm(kept) ** 2 / np.linalg.norm(matrix) ** 2

    check.entries_share(entry_by_entry)
    check.entries_share(by_a_mask)
    check.kept_share(without_an_svd)
    check.kept_share(lambda m, r: np.float32(1 - (np.linalg.svd(m)[1][r:] ** 2).sum() / np.linalg.norm(m) ** 2))
    assert capsys.readouterr().out.count("correct") == 6


def size(count):
    """The share in the largest entries, so many of them."""
    return lambda m, r: np.sort((m**2).ravel())[::-1][: count(m, r)].sum() / (m**2).sum()


@pytest.mark.parametrize(
    ("exercise", "attempt", "sentence"),
    [
        (
            check.largest_saving_rank,
            lambda o, i: o * i // (o + i) + 1,
            "rank 205 hold 262,400 of 262,144 numbers: that is",
        ),
        (check.largest_saving_rank, lambda o, i: min(o, i) // 4, "rank 64 hold 81,920 .* so it is at the next rank"),
        (check.largest_saving_rank, lambda o, i: (o + i) / 7, "a rank is a whole number"),
        (check.largest_saving_rank, lambda o, i: -(-o * i // (o + i)), "this is the first rank that saves nothing"),
        (check.entries_share, size(lambda m, r: r), "this keeps `rank` entries"),
        (check.entries_share, size(lambda m, r: sum(m.shape)), "leaves the rank out"),
        (check.entries_share, size(lambda m, r: r * len(m)), "the numbers of B only"),
        (check.entries_share, size(lambda m, r: 3), "add up the squares of the 26 largest entries, in magnitude, and"),
        (check.kept_share, lambda m, r: 0.1, "add up the squares of the 2 largest singular values, and divide by"),
        (check.kept_share, lambda m, r: 100 * r, "a share lies between 0 and 1"),
        (check.update_factors, lambda m, r, a: np.zeros((5, 3)), "should return two matrices"),
        (check.update_factors, lambda m, r, a: scaled()(2 * m, r, a), "2 times as large as it should be"),
        (
            check.update_factors,
            lambda m, r, a: scaled()(m + 1, r, a),
            "is possible at rank 2: take the first 2 columns",
        ),
    ],
)
def test_more_wrong_answers(exercise, attempt, sentence, monkeypatch):
    monkeypatch.setattr(repair, "SECONDS", 0)
    with pytest.raises(AssertionError, match=sentence):
        exercise(attempt)


def test_every_named_mistake_is_a_mistake_and_has_its_own_sentence():
    for exercise in (check.largest_saving_rank, check.entries_share, check.kept_share):
        for sentence, mistake in exercise.misconceptions.items():
            with pytest.raises(AssertionError) as caught:
                exercise(mistake)
            assert str(caught.value) == f"Exercise {exercise.number}: {sentence}"
