"""Right answers in other words: a check compares what a function gives, and never how it is written."""

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises import nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb09, nb11, nb14
from lora_edu.rounding import bits_per_weight

CODEBOOK = nf_codebook(4).numpy()


# --- 01: of factors there are many -----------------------------------------------------------------------------------


def with_roots_in_both(update, rank, alpha):
    U, S, Vt = np.linalg.svd(update, full_matrices=False)
    root = np.sqrt(S[:rank] / (alpha / rank))
    return U[:, :rank] * root, root[:, None] * Vt[:rank]


def with_another_basis(update, rank, alpha):
    B, A = with_roots_in_both(update, rank, alpha)
    Q = np.random.default_rng(3).normal(size=(rank, rank))
    return B @ Q, np.linalg.inv(Q) @ A


def without_an_svd(matrix, rank):
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return eigenvalues[:rank].sum() / (matrix**2).sum()


def by_a_mask(matrix, rank):
    order = np.argsort(-abs(matrix), axis=None)[: rank * sum(matrix.shape)]
    kept = np.zeros(matrix.size)
    kept[order] = matrix.ravel()[order]
    return np.linalg.norm(kept) ** 2 / np.linalg.norm(matrix) ** 2


# --- 03 --------------------------------------------------------------------------------------------------------------


def head_in_loops(x, W_q, W_k, W_v):
    rows = []
    for i in range(len(x)):
        scores = [float((W_q @ x[i]) @ (W_k @ x[j])) / math.sqrt(len(W_q)) for j in range(i + 1)]
        shares = [math.exp(score) for score in scores]
        rows.append(sum(share * (W_v @ x[j]) for j, share in enumerate(shares)) / sum(shares))
    return torch.stack(rows)


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


def summed_by_rank(A1, B1, A2, B2, weights, alpha):
    """One outer product for each rank, in float32."""
    update = np.zeros((len(B1), A1.shape[1]), dtype=np.float32)
    for weight, A, B in zip(weights, (A1, A2), (B1, B2), strict=True):
        for a, b in zip(A, B.T, strict=True):
            update += np.float32(weight * alpha / len(A)) * np.outer(b, a)
    return update


def operations_by_steps(T, d_in, d_out, r):
    forward = T * d_in * d_out + T * d_in * r + T * r * d_out
    grad_inputs = T * d_out * d_in + T * r * d_in + T * d_out * r
    grad_factors = r * T * d_in + d_out * T * r
    return forward + grad_inputs + grad_factors


# --- 05 to 07 --------------------------------------------------------------------------------------------------------


def rounded_in_numpy(block, bits):
    block = np.asarray(block, dtype=np.float64)
    marks = np.linspace(block.min(), block.max(), 2**bits)
    return marks[np.abs(block[:, None] - marks).argmin(axis=1)]


def levels_by_torch(offset, half):
    def side(count):
        return torch.special.ndtri(torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:-1])

    levels = torch.cat([-side(half - 1), torch.zeros(1), side(half).flip(0)])
    return levels / levels[-1]


def packed_in_a_loop(codes):
    padded = [*codes.tolist(), 7] if len(codes) % 2 else codes.tolist()
    return [(first << 4) | second for first, second in zip(padded[::2], padded[1::2], strict=True)]


def least_squares_anew(w, q, X):
    return np.linalg.lstsq(X[:, 1:], X @ w - X[:, 0] * q, rcond=None)[0]


def as_gptq_does(w, q, X):
    inverse = np.linalg.inv(X.T @ X)
    return w[1:] - (w[0] - q) * inverse[0, 1:] / inverse[0, 0]


def widths_tried_from_the_top(budget, block_size, second_size):
    return next(
        k for k in range(64, 0, -1) if bits_per_weight(4, block_size, bits_per_weight(k, second_size)) <= budget
    )


def filled_up_after_the_mean(absmax, code, block_size):
    """Zeros added after the mean is off change nothing."""
    offset = absmax.mean()
    padded = np.append(absmax - offset, np.zeros(-len(absmax) % block_size)).reshape(-1, block_size)
    scale = np.maximum(np.abs(padded).max(axis=1, keepdims=True), 1e-30)
    places = np.abs((padded / scale)[..., None] - code).argmin(axis=-1)
    return (code[places] * scale + offset).flatten()[: len(absmax)]


def moved_in_torch(trip, W):
    once = torch.from_numpy(trip(W))
    return (torch.from_numpy(trip(once.numpy())) - once).norm() / once.norm()


# --- 09 and 11 -------------------------------------------------------------------------------------------------------


def output_by_repeat(x, codes, absmax, a, b, alpha):
    scales = np.repeat(absmax, codes.size // len(absmax)).reshape(codes.shape)
    return np.einsum("ni,oi->no", x, CODEBOOK[codes] * scales) + alpha / b.shape[1] * np.dot(np.dot(x, a.T), b.T)


def dora_by_rows(W, A, B, m, alpha):
    V = W + alpha * B @ A / B.shape[1]
    return np.stack([length * row / np.linalg.norm(row) for length, row in zip(m, V, strict=True)])


def vera_by_diagonals(W, A, B, d, b):
    d_out, d_in = W.shape
    return W + np.diag(b) @ B[:d_out] @ np.diag(d) @ A[:, :d_in]


def suspects_in_lists(one, other, questions):
    steps, errors = [], []
    for row in (one, other):
        steps.append(row["alpha"] / row["rank"] ** (0.5 if row["method"] == "rsLoRA" else 1) * row["rate"])
        errors.append(row["accuracy"] * (1 - row["accuracy"]) / questions)
    return [steps[1] / steps[0], (other["accuracy"] - one["accuracy"]) / math.hypot(*map(math.sqrt, errors))]


RIGHT = [
    (nb01.update_factors, with_roots_in_both),
    (nb01.update_factors, with_another_basis),
    (nb01.largest_saving_rank, lambda d_out, d_in: int(np.ceil(d_out * d_in / (d_out + d_in))) - 1),
    (nb01.entries_share, by_a_mask),
    (nb01.kept_share, without_an_svd),
    (nb02.grad_A, lambda x, g, B, alpha: np.einsum("bi,ik,bj->kj", g, B, x) * (alpha / B.shape[1])),
    (nb02.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * np.diag(B.T @ (g.T @ x) @ A.T)),
    (nb02.merged_weight, lambda W, A, B, alpha: np.array(W) + (alpha / B.shape[1]) * np.dot(B, A)),
    (nb02.first_step, lambda G, A, alpha, lr: (alpha / len(A)) * (-lr * (alpha / len(A)) * (G @ A.T)) @ A),
    (nb03.head_output, head_in_loops),
    (nb03.head_output, head_of_torch),
    (nb03.guess_after, guess_of_a_shorter_model),
    (nb03.bits_per_byte, lambda z, n: np.average(z / n, weights=n) / np.log(2)),
    (nb03.block_weights, lambda n, d, h: sum(4 * d * d + h * d + d * h for _ in range(n))),
    (nb04.grow, grown_above),
    (nb04.grow, grown_with_zeros_in_A),
    (nb04.weighted_update, summed_by_rank),
    (nb04.training_operations, operations_by_steps),
    (nb05.smallest_block, lambda b, budget, scale: max(1, 2 ** np.ceil(np.log2(scale / (budget - b)) - 1e-9))),
    (nb05.code_error, lambda v, c, top, b: ((v - c * top / (2 ** (b - 1) - 1)) ** 2).sum() ** 0.5 / v.norm()),
    (nb05.round_between, rounded_in_numpy),
    (nb06.normal_float, levels_by_torch),
    (nb06.packed_codes, lambda codes: np.uint8(packed_in_a_loop(codes))),
    (nb06.taken_over, least_squares_anew),
    (nb06.taken_over, as_gptq_does),
    (nb07.bits_of_constants, widths_tried_from_the_top),
    (nb07.round_constants, filled_up_after_the_mean),
    (nb07.moved_again, moved_in_torch),
    (nb09.input_gradient, lambda grad_y, W, a, b, alpha: grad_y @ (W + alpha / len(a) * b @ a)),
    (nb09.qlora_output, output_by_repeat),
    (nb09.stored_bytes, lambda d, n, v, c: n * (6 * d * d + 52 * d) + d * (8 * v + 4 * c + 8)),
    (nb09.lora_minus_full, lambda full, lora: min(map(fmean, lora.values())) - min(map(fmean, full.values()))),
    (nb11.vera_weight, vera_by_diagonals),
    (nb11.dora_weight, dora_by_rows),
    (nb11.suspects, suspects_in_lists),
    (nb11.plain_lora, lambda A, B, A0, B0: (np.vstack([-A, A0]), np.hstack([-B, -B0]))),
    (nb14.most_tokens, lambda card, base, each: max(0, int((card * 2**30 * 9 / 10 - base) / each))),
    (nb14.paged_bytes, lambda shapes, r: sum(8 * r * n * (r * n > 99_999) for pair in shapes for n in pair)),
]


@pytest.mark.parametrize(("asked", "right"), RIGHT, ids=lambda part: getattr(part, "number", ""))
def test_a_right_answer_passes_however_it_is_written(asked, right, capsys):
    asked(right)
    assert capsys.readouterr().out == f"Exercise {asked.number}: correct\n"
