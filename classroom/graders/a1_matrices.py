"""Assignment 1, exercises 1.1 and 1.2: how much rank a matrix needs, and the best two factors."""

import numpy as np

from classroom.solutions import Solutions, Wrong


def needed_rank(c):
    def answer(matrix):
        energy = np.linalg.svd(matrix, compute_uv=False) ** 2
        return int(np.argmax(np.cumsum(energy) >= c.energy * energy.sum())) + 1

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


def _rank_of(values, energy):
    """The first rank at which the sum of these values reaches its share, counted from 1."""
    return int(np.argmax(np.cumsum(values) >= energy * values.sum())) + 1


def _values(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


def rank_in_place(c):
    def answer(matrix):
        rank = needed_rank(c)(matrix)
        matrix /= np.linalg.norm(matrix)
        return rank

    return answer


COMPONENTS = "notebook 01, section 2"

NEEDED_RANK = Solutions(
    reference=needed_rank,
    right={"eigenvalues": rank_by_eigenvalues, "errors": rank_by_errors},
    wrong=[
        Wrong("not squared", lambda c: lambda M: _rank_of(_values(M), c.energy), 0,
              "this adds up the singular values. The energy of a matrix is the sum of their squares.", COMPONENTS),
        Wrong("off by one", lambda c: lambda M: needed_rank(c)(M) - 1, 0,
              "this is one too small: an index counts from 0, a rank from 1.", COMPONENTS),
        Wrong("the norm instead of its square", lambda c: lambda M: _rank_of(_values(M) ** 2, c.energy**2), 0,
              "this asks for a share of the norm. The energy is the square of the norm: leave the root out.",
              COMPONENTS),
        Wrong("what is left out", lambda c: lambda M: _rank_of(_values(M) ** 2, 1 - c.energy), 0,
              "this keeps the share 1 - c.energy. That much may be left out: c.energy is what stays.", COMPONENTS),
        Wrong("the error instead of its square", lambda c: lambda M: _rank_of(_values(M) ** 2, 1 - (1 - c.energy) ** 2),
              0, "this bounds the relative error. The energy left out is the square of that error.",
              "notebook 01, section 3"),
        Wrong("changes its input", rank_in_place, 2),
    ],
)  # fmt: skip


# --- 1.2 --------------------------------------------------------------------------------------------------------------


def split(c):
    def answer(matrix, rank):
        return _factors(matrix, rank, c.share, 1 - c.share)

    return answer


def _factors(matrix, rank, for_A, for_B, start=0):
    """A: (rows, rank), B: (columns, rank), each with this power of the singular values."""
    U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
    kept = slice(start, start + rank)
    return U[:, kept] * S[kept] ** for_A, Vt[kept].T * S[kept] ** for_B


def split_by_a_loop(c):
    def answer(matrix, rank, **unused):
        U, S, Vt = np.linalg.svd(matrix)
        A, B = np.zeros((matrix.shape[0], rank)), np.zeros((matrix.shape[1], rank))
        for k in range(rank):
            A[:, k] = U[:, k] * S[k] ** c.share
            B[:, k] = Vt[k] * S[k] ** (1 - c.share)
        return [A, B]

    return answer


def split_by_eigenvectors(c):
    def answer(matrix, rank):
        energy, vectors = np.linalg.eigh(matrix.T @ matrix)
        V = vectors[:, ::-1][:, :rank]
        S = np.sqrt(energy[::-1][:rank])
        return -(matrix @ V) / S ** (1 - c.share), -V @ np.diag(S ** (1 - c.share))

    return answer


def split_in_place(c):
    def answer(matrix, rank):
        A, B = split(c)(matrix, rank)
        matrix -= A @ B.T
        return A, B

    return answer


SPLIT = Solutions(
    reference=split,
    right={"a loop": split_by_a_loop, "eigenvectors": split_by_eigenvectors},
    wrong=[
        Wrong("the shares exchanged", lambda c: lambda M, r: _factors(M, r, 1 - c.share, c.share), 3,
              "this gives A the share of B: A takes each singular value to the power c.share.", COMPONENTS),
        Wrong("square roots", lambda c: lambda M, r: _factors(M, r, 0.5, 0.5), 3,
              "this gives both factors the square root. Here A takes the power c.share, B the rest.", COMPONENTS),
        Wrong("the values twice", lambda c: lambda M, r: _factors(M, r, 1, 1), 0,
              "the singular values stand in both factors, so they count twice in the product.", COMPONENTS),
        Wrong("no values", lambda c: lambda M, r: _factors(M, r, 0, 0), 0,
              "the singular values are missing: U and V alone have columns of length 1.", COMPONENTS),
        Wrong("off by one", lambda c: lambda M, r: _factors(M, r, c.share, 1 - c.share, start=1), 0,
              "this leaves out the first layer, the largest one: Python counts from 0.", COMPONENTS),
        Wrong("all in A", lambda c: lambda M, r: _factors(M, r, 1, 0), 3,
              "the singular values stand in A alone. Here the two share them: powers c.share and 1 - c.share.",
              COMPONENTS),
        Wrong("A and B exchanged", lambda c: lambda M, r: _factors(M, r, c.share, 1 - c.share)[::-1], 0,
              "this returns B first. A, which has a row for each row of the matrix, comes first.",
              "notebook 02, section 2"),
        Wrong("wrong axis", lambda c: lambda M, r: _factors(M.T, r, c.share, 1 - c.share), 2),
        Wrong("changes its input", split_in_place, 3),
    ],
)  # fmt: skip

SOLUTIONS = {"1.1": NEEDED_RANK, "1.2": SPLIT}
