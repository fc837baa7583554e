"""Right answers in other words: a check compares what a function gives, and never how it is written."""

from statistics import fmean

import numpy as np
import pytest
from torch.nn import functional as F

from lora_edu.exercises import nb01, nb02, nb03, nb04, nb05, nb06, nb09, nb10, nb11, nb14, nb16

# --- 01: of factors there are many -----------------------------------------------------------------------------------


def with_roots_in_both(update, rank, alpha):
    U, S, Vt = np.linalg.svd(update, full_matrices=False)
    root = np.sqrt(S[:rank] / (alpha / rank))
    return U[:, :rank] * root, root[:, None] * Vt[:rank]


def with_another_basis(update, rank, alpha):
    B, A = with_roots_in_both(update, rank, alpha)
    Q = np.random.default_rng(3).normal(size=(rank, rank))
    return B @ Q, np.linalg.inv(Q) @ A


# --- 03 --------------------------------------------------------------------------------------------------------------


def head_of_torch(x, W_q, W_k, W_v):
    q, k, v = (F.linear(x, weight)[None] for weight in (W_q, W_k, W_v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]


def guess_of_a_shorter_model(model, tokens, n_blocks):
    model.blocks = model.blocks[:n_blocks]
    return F.softmax(model(tokens)[0][0, -1], dim=0)


# --- 04: an adapter can be grown in several ways ---------------------------------------------------------------------


def grown_above(A, B, extra):
    """The new rows first, and the factor on the old part of B."""
    rows, factor = np.random.default_rng(3).normal(size=(extra, A.shape[1])), (len(A) + extra) / len(A)
    return np.vstack([rows, A]), np.hstack([np.zeros((len(B), extra)), factor * B])


def grown_with_zeros_in_A(A, B, extra):
    columns, factor = np.random.default_rng(3).normal(size=(len(B), extra)), (len(A) + extra) / len(A)
    return [np.vstack([factor * A, np.zeros((extra, A.shape[1]))]), np.hstack([B, columns])]


# --- 10 --------------------------------------------------------------------------------------------------------------


def by_principal_angles(M, N, i, j):
    """phi as the mean squared cosine of the angles between the two subspaces."""
    one, other = (np.linalg.svd(m.T, full_matrices=False)[0] for m in (M, N))
    return (np.linalg.svd(one[:, :i].T @ other[:, :j], compute_uv=False) ** 2).mean()


# --- 16 --------------------------------------------------------------------------------------------------------------


def from_the_mean(rewards):
    """Less the mean of all, and larger by as much as its own share in it made the difference smaller."""
    to_go = np.flip(np.flip(rewards, 1).cumsum(1), 1)
    return (to_go - to_go.mean(0)) * len(rewards) / (len(rewards) - 1)


RIGHT = [
    (nb01.update_factors, with_roots_in_both),
    (nb01.update_factors, with_another_basis),
    (nb01.largest_saving_rank, lambda d_out, d_in: int(np.ceil(d_out * d_in / (d_out + d_in))) - 1),
    (nb01.kept_share, lambda M, rank: np.linalg.eigvalsh(M @ M.T)[-rank:].sum() / (M**2).sum()),
    (nb02.grad_A, lambda x, g, B, alpha: np.einsum("bi,ik,bj->kj", g, B, x) * (alpha / B.shape[1])),
    (nb02.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * np.diag(B.T @ (g.T @ x) @ A.T)),
    (nb02.first_step, lambda G, A, alpha, lr: (alpha / len(A)) * (-lr * (alpha / len(A)) * (G @ A.T)) @ A),
    (nb03.head_output, head_of_torch),
    (nb03.guess_after, guess_of_a_shorter_model),
    (nb03.bits_per_byte, lambda z, n: np.average(z / n, weights=n) / np.log(2)),
    (nb03.block_weights, lambda n, d, h: sum(4 * d * d + h * d + d * h for _ in range(n))),
    (nb04.grow, grown_above),
    (nb04.grow, grown_with_zeros_in_A),
    (nb05.smallest_block, lambda b, budget, scale: max(1, 2 ** np.ceil(np.log2(scale / (budget - b)) - 1e-9))),
    (nb05.code_error, lambda v, c, top, b: ((v - c * top / (2 ** (b - 1) - 1)) ** 2).sum() ** 0.5 / v.norm()),
    (nb06.taken_over, lambda w, q, X: np.linalg.lstsq(X[:, 1:], X @ w - X[:, 0] * q, rcond=None)[0]),
    (nb09.stored_bytes, lambda d, n, v, c: n * (6 * d * d + 52 * d) + d * (8 * v + 4 * c + 8)),
    (nb09.lora_minus_full, lambda full, lora: min(map(fmean, lora.values())) - min(map(fmean, full.values()))),
    (nb10.shared, by_principal_angles),
    (nb11.plain_lora, lambda A, B, A0, B0: (np.vstack([-A, A0]), np.hstack([-B, -B0]))),
    (nb14.most_tokens, lambda card, base, each: max(0, int((card * 2**30 * 9 / 10 - base) / each))),
    (nb14.paged_bytes, lambda shapes, r: sum(8 * r * n * (r * n > 99_999) for pair in shapes for n in pair)),
    (nb16.advantages, from_the_mean),
    (nb16.divergence, lambda now, before: (np.exp(before) / np.exp(now) - 1 + now - before).mean()),
]


@pytest.mark.parametrize(("asked", "right"), RIGHT, ids=lambda part: getattr(part, "number", ""))
def test_a_right_answer_passes_however_it_is_written(asked, right, capsys):
    asked(right)
    assert capsys.readouterr().out == f"Exercise {asked.number}: correct\n"
