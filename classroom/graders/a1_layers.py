"""Assignment 1, exercises 1.3 and 1.4: forward and backward in the orientation x W + s (x A) B^T."""

import numpy as np

from classroom.solutions import Solutions, Wrong


def forward(c):
    def answer(x, W, A, B, alpha):
        s = alpha / A.shape[1] ** c.power
        return x @ W + s * (x @ A) @ B.T

    return answer


def forward_by_einsum(c):
    def answer(x, W, A, B, alpha, **unused):
        low = np.einsum("ni,ir->nr", x, A)
        return np.einsum("ni,io->no", x, W) + float(alpha * len(B.T) ** -c.power) * np.einsum("nr,or->no", low, B)

    return answer


def forward_by_a_loop(c):
    def answer(x, W, A, B, alpha):
        y = np.empty((len(x), W.shape[1]), dtype=x.dtype)
        for row in range(len(x)):
            y[row] = x[row] @ W + (B @ (x[row] @ A)) * alpha / A.shape[1] ** c.power
        return y

    return answer


def forward_per_rank(c):
    def answer(x, W, A, B, alpha):
        y = np.matmul(x, W)
        for a, b in zip(A.T, B.T, strict=True):
            y += alpha / A.shape[1] ** c.power * np.outer(x @ a, b)
        return y

    return answer


def _forward(scaling):
    """A forward pass with another scaling: scaling(c, A, B, alpha) -> s"""

    def make(c):
        def answer(x, W, A, B, alpha):
            return x @ W + scaling(c, A, B, alpha) * (x @ A) @ B.T

        return answer

    return make


def forward_through_the_product(c):
    def answer(x, W, A, B, alpha):
        return x @ (W + alpha / A.shape[1] ** c.power * A @ B.T)

    return answer


def forward_in_float64(c):
    def answer(x, W, A, B, alpha):
        s = np.float64(alpha) / A.shape[1] ** c.power
        return np.asarray(x @ W + s * (x @ A) @ B.T, dtype=np.float64)

    return answer


def forward_in_place(c):
    def answer(x, W, A, B, alpha):
        y = forward(c)(x, W, A, B, alpha)
        x *= 2
        return y

    return answer


def forward_of_lora_edu(c):
    def answer(x, W, A, B, alpha):
        from lora_edu.lora_numpy import LoRALinear

        layer = LoRALinear(W.T, A.shape[1], alpha, np.random.default_rng(0))
        layer.lora_A, layer.lora_B = A.T, B
        return layer.forward(x)

    return answer


FORWARD = Solutions(
    reference=forward,
    right={"einsum": forward_by_einsum, "a loop over rows": forward_by_a_loop, "a loop over ranks": forward_per_rank},
    wrong=[
        Wrong("alpha", _forward(lambda c, A, B, alpha: alpha), 0,
              "this scales by alpha. The scaling is s = alpha / rank**c.power.", "notebook 02, section 2"),
        Wrong("alpha / rank", _forward(lambda c, A, B, alpha: alpha / A.shape[1]), 0,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.",
              "notebook 02, section 9"),
        Wrong("no scaling", _forward(lambda c, A, B, alpha: 1), 0,
              "this leaves the scaling s out.", "notebook 02, section 2"),
        Wrong("the wrong side", _forward(lambda c, A, B, alpha: alpha / len(A) ** c.power), 0,
              "this takes the rows of A for the rank. In this orientation its columns are counted.",
              "notebook 02, section 2"),
        Wrong("the branch alone", lambda c: lambda x, W, A, B, alpha: alpha / A.shape[1] ** c.power * (x @ A) @ B.T, 0,
              "this is the branch alone. The frozen weight's part, x W, is added to it.", "notebook 02, section 2"),
        Wrong("the square root of rank-stabilized LoRA", _forward(lambda c, A, B, alpha: alpha / A.shape[1] ** 0.5), 0,
              "this divides alpha by the square root of the rank. Here the rank is taken to the power c.power.",
              "notebook 02, section 9"),
        Wrong("alpha to the power, too", _forward(lambda c, A, B, alpha: (alpha / A.shape[1]) ** c.power), 0,
              "alpha is taken to the power c.power as well. It is the rank alone: alpha / rank**c.power.",
              "notebook 02, section 9"),
        Wrong("the base scaled, too",
              lambda c: lambda x, W, A, B, alpha: alpha / A.shape[1] ** c.power * (x @ W + (x @ A) @ B.T), 0,
              "the frozen weight's part is scaled as well. s stands in front of the branch alone.",
              "notebook 02, section 2"),
        Wrong("the product A B^T", forward_through_the_product, 4,
              "A B^T is formed, a matrix as large as W, for each forward pass. First x A, then times B^T.",
              "notebook 02, section 2"),
        Wrong("float64", forward_in_float64, 4,
              "a float32 input gives a float64 result: a scalar of NumPy hands its type on, as np.sqrt's does. "
              "Make s a number of Python with float().", "exercise 1.3 above"),
        Wrong("changes x", forward_in_place, 4),
        Wrong("calls lora_edu", forward_of_lora_edu, 0),
    ],
)  # fmt: skip


# --- 1.4 --------------------------------------------------------------------------------------------------------------


def backward(c):
    def answer(x, W, A, B, alpha, grad_output):
        s = alpha / A.shape[1] ** c.power
        grad_low = s * grad_output @ B
        return x.T @ grad_low, s * grad_output.T @ (x @ A), grad_output @ W.T + grad_low @ A.T

    return answer


def backward_from_G(c):
    def answer(x, W, A, B, alpha, grad_output, **unused):
        s, G = alpha / B.shape[1] ** c.power, x.T @ grad_output  # (d_in, d_out)
        return [s * G @ B, s * G.T @ A, grad_output @ (W + s * A @ B.T).T]

    return answer


def backward_by_a_loop(c):
    def answer(x, W, A, B, alpha, grad_output):
        s = alpha / A.shape[1] ** c.power
        grad_A, grad_B, grad_x = np.zeros_like(A), np.zeros_like(B), np.zeros_like(x)
        for row, (x_row, g_row) in enumerate(zip(x, grad_output, strict=True)):
            grad_A += s * np.outer(x_row, g_row @ B)
            grad_B += s * np.outer(g_row, x_row @ A)
            grad_x[row] = W @ g_row + s * A @ (B.T @ g_row)
        return grad_A, grad_B, grad_x

    return answer


def backward_by_einsum(c):
    def answer(x, W, A, B, alpha, grad_output):
        s = alpha / A.shape[1] ** c.power
        grad_A = s * np.einsum("ni,no,or->ir", x, grad_output, B)
        grad_B = s * np.einsum("no,ni,ir->or", grad_output, x, A)
        grad_x = np.einsum("no,io->ni", grad_output, W) + s * np.einsum("no,or,ir->ni", grad_output, B, A)
        return grad_A, grad_B, grad_x

    return answer


def _backward(scaling=lambda c, A, alpha: alpha / A.shape[1] ** c.power, change=lambda a, b, x, case: (a, b, x)):
    """A backward pass with another scaling, or with its three results changed."""

    def make(c):
        def answer(x, W, A, B, alpha, grad_output):
            s = scaling(c, A, alpha)
            grad_low = s * grad_output @ B
            grads = x.T @ grad_low, s * grad_output.T @ (x @ A), grad_output @ W.T + grad_low @ A.T
            return change(*grads, (x, W, A, B, alpha, grad_output, s))

        return answer

    return make


def backward_in_place(c):
    def answer(x, W, A, B, alpha, grad_output):
        grad_output *= alpha / A.shape[1] ** c.power  # seems to save a matrix
        grad_low = grad_output @ B
        grad_x = grad_output @ W.T / (alpha / A.shape[1] ** c.power) + grad_low @ A.T
        return x.T @ grad_low, grad_output.T @ (x @ A), grad_x

    return answer


def backward_of_lora_edu(c):
    def answer(x, W, A, B, alpha, grad_output):
        from lora_edu.lora_numpy import LoRALinear

        layer = LoRALinear(W.T, A.shape[1], alpha, np.random.default_rng(0))
        layer.lora_A, layer.lora_B = A.T, B
        grad_A, grad_B, grad_x = layer.backward(x, grad_output)
        return grad_A.T, grad_B, grad_x

    return answer


BACKWARD = Solutions(
    reference=backward,
    right={"through G": backward_from_G, "a loop over rows": backward_by_a_loop, "einsum": backward_by_einsum},
    wrong=[
        Wrong("no scaling", _backward(lambda c, A, alpha: 1), 0,
              "this leaves the scaling s out of the gradients.", "notebook 02, section 3"),
        Wrong("alpha", _backward(lambda c, A, alpha: alpha), 0,
              "this scales by alpha. The scaling is s = alpha / rank**c.power, in the gradients too.",
              "notebook 02, section 3"),
        Wrong("alpha / rank", _backward(lambda c, A, alpha: alpha / A.shape[1]), 0,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.",
              "notebook 02, section 9"),
        Wrong("no branch in grad_x", _backward(change=lambda a, b, x, case: (a, b, case[5] @ case[1].T)), 5,
              "the gradient of x is that of x W alone. The branch hands a part of it down as well.",
              "notebook 02, section 3"),
        Wrong("A and B exchanged", _backward(change=lambda a, b, x, case: (b, a, x)), 2,
              "this returns the gradient of B first. A comes first.", "notebook 02, section 3"),
        Wrong("transposed", _backward(change=lambda a, b, x, case: (a.T, b.T, x)), 2,
              "these are the transposed gradients. A gradient has the shape of its parameter.",
              "notebook 02, section 3"),
        Wrong("a mean over the batch", _backward(change=lambda a, b, x, case: (a / len(x), b / len(x), x)), 2,
              "this averages over the batch. grad_output contains the average already: sum the rows.",
              "notebook 02, section 3"),
        Wrong("s twice", _backward(change=lambda a, b, x, case: (a * case[6], b * case[6], x)), 2,
              "the scaling s stands twice in the gradients. Each one carries it once.", "notebook 02, section 4"),
        Wrong("s twice in A", _backward(change=lambda a, b, x, case: (a * case[6], b, x)), 4),
        Wrong("no s in B", _backward(change=lambda a, b, x, case: (a, b / case[6], x)), 4),
        Wrong("wrong axis", _backward(change=lambda a, b, x, case: (a[:, ::-1], b, x)), 4),
        Wrong("changes grad_output", backward_in_place, 5),
        Wrong("a view of x", _backward(change=lambda a, b, x, case: (a, b, case[0])), 4),
        Wrong("calls lora_edu", backward_of_lora_edu, 0),
    ],
)  # fmt: skip

SOLUTIONS = {"1.3": FORWARD, "1.4": BACKWARD}
