"""Right answers in other words: a check compares what a function gives, and never how it is written."""

import numpy as np
import pytest
import torch
from test_exercises_layers import BRANCH
from torch.nn import functional as F

from lora_course.nb01 import check as nb01
from lora_course.nb03 import check as nb03
from lora_course.nb04 import check as nb04
from lora_course.nb06 import check as nb06
from lora_course.nb08 import check as nb08
from lora_course.nb10 import check as nb10
from lora_edu import nf_codebook
from lora_edu.quantization import pack

# --- 01: of factors there are many -----------------------------------------------------------------------------------


def with_another_basis(update, rank, alpha):
    B, A = nb01.update_factors.reference(update, rank, alpha)
    Q = np.random.default_rng(3).normal(size=(rank, rank))
    return B @ Q, np.linalg.inv(Q) @ A


def head_of_torch(x, W_q, W_k, W_v):
    q, k, v = (F.linear(x, weight)[None] for weight in (W_q, W_k, W_v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]


# --- 04: an adapter can be grown in several ways ---------------------------------------------------------------------


def grown_with_zeros_in_A(A, B, extra):
    columns, factor = np.random.default_rng(3).normal(size=(len(B), extra)), (len(A) + extra) / len(A)
    return [np.vstack([factor * A, np.zeros((extra, A.shape[1]))]), np.hstack([B, columns])]


def by_principal_angles(M, N, i, j):
    """phi as the mean squared cosine of the angles between the two subspaces."""
    one, other = (np.linalg.svd(m.T, full_matrices=False)[0] for m in (M, N))
    return (np.linalg.svd(one[:, :i].T @ other[:, :j], compute_uv=False) ** 2).mean()


RIGHT = [
    (nb01.update_factors, with_another_basis),
    (nb03.head_output, head_of_torch),
    (nb04.grow, "[A, new_rows] -> [new_rows, A] & [factor * B, new_columns] -> [new_columns, factor * B]"),
    (nb04.grow, grown_with_zeros_in_A),
    (nb06.packed_codes, lambda codes: pack(torch.tensor(codes), nf_codebook(4))),
    (nb06.normal_float, lambda offset, half: nf_codebook(int(np.log2(2 * half)), offset)),
    (nb06.taken_over, lambda w, q, X: np.linalg.lstsq(X[:, 1:], X @ w - X[:, 0] * q, rcond=None)[0]),
    (nb10.shared, by_principal_angles),
    (nb04.lora_layer, f"{BRANCH} -> F.linear(self.dropout(x), self.lora_B @ self.lora_A)"),
    (nb04.lora_layer, "self.dropout(x) -> F.dropout(x, dropout, self.training)"),
    (nb04.lora_layer,
     "self.dropout(x) -> x * (torch.rand(x.shape) >= dropout) / (1 - dropout) if self.training else x"),
    (nb08.quantized_linear, "x @ quantized.dequantize().T -> quantized.dequantize().mm(x.T).T"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "right"), RIGHT, ids=lambda part: getattr(part, "number", ""))
def test_a_right_answer_passes_however_it_is_written(asked, right, capsys):
    asked(asked.source.edited(right).solution() if isinstance(right, str) else right)
    assert capsys.readouterr().out == f"Exercise {asked.number}: correct\n"
