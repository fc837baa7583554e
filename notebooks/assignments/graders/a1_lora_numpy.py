"""Assignment 1: the right answers, and the wrong ones that are known, with the points that each keeps."""

import numpy as np

from lora_edu.classroom.cheats import constantly, exiting, printing, replacing_allclose
from lora_edu.classroom.solutions import Solutions, Wrong


def needed_rank(c):
    def answer(matrix):
        energy = np.linalg.svd(matrix, compute_uv=False) ** 2
        return int(np.argmax(np.cumsum(energy) >= c.energy * energy.sum())) + 1

    return answer


def rank_by_a_loop(c):
    def answer(matrix, **unused):
        values, kept = np.linalg.svd(matrix)[1], 0.0
        for rank, value in enumerate(values, start=1):
            kept += value * value
            if kept >= c.energy * (values @ values):
                return rank

    return answer


def rank_by_eigenvalues(c):
    def answer(matrix):
        energy = np.sort(np.linalg.eigvalsh(matrix.T @ matrix))[::-1]
        return np.searchsorted(np.cumsum(energy) / energy.sum(), c.energy) + 1

    return answer


def rank_by_errors(c):
    def answer(matrix):
        U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
        total = (matrix**2).sum()
        for rank in range(1, len(S) + 1):
            error = ((matrix - U[:, :rank] * S[:rank] @ Vt[:rank]) ** 2).sum()
            if error <= (1 - c.energy) * total:
                return np.float32(rank)

    return answer


def _values(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def rank_in_place(c):
    def answer(matrix):
        rank = needed_rank(c)(matrix)
        matrix /= np.linalg.norm(matrix)
        return rank

    return answer


SOLUTIONS = {
    "1.1": Solutions(
        reference=needed_rank,
        right={"a loop": rank_by_a_loop, "eigenvalues": rank_by_eigenvalues, "errors": rank_by_errors},
        wrong=[
            Wrong(
                "not squared",
                lambda c: lambda M: int(np.argmax(np.cumsum(_values(M)) >= c.energy * _values(M).sum())) + 1,
                keeps=0,
                sentence="this adds up the singular values. The energy of a matrix is the sum of their squares.",
                see="notebook 01, section 3",
            ),
            Wrong(
                "off by one",
                lambda c: lambda M: needed_rank(c)(M) - 1,
                keeps=0,
                sentence="this is one too small. An index counts from 0, a rank from 1.",
                see="notebook 01, section 3",
            ),
            Wrong("changes its input", rank_in_place, keeps=2),
            Wrong("the full rank", lambda c: lambda M: int(np.linalg.matrix_rank(M)), keeps=0),
            Wrong("prints", lambda c: printing(needed_rank(c)), keeps=0),
            Wrong("the visible answer", lambda c: constantly(2), keeps=0),
            Wrong("replaces allclose", lambda c: replacing_allclose(lambda M: 1), keeps=0),
            Wrong("exits", lambda c: exiting, keeps=0),
        ],
    ),
}
