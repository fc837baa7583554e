"""The checks of notebook 02, LoRA in NumPy."""

import numpy as np

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "first_step", "grad_A", "merged_weight"]


def _cases(*names: str) -> list[tuple]:
    """Random cases: alpha is never the rank, and no two sides are equal."""
    cases = []
    for seed, (batch, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 11, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        shapes = {
            "x": (batch, d_in),
            "grad_output": (batch, d_out),
            "grad_weight": (d_out, d_in),
            "weight": (d_out, d_in),
            "lora_A": (rank, d_in),
            "lora_B": (d_out, rank),
        }
        values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        values |= {"alpha": alpha, "lr": 0.1}
        cases.append(tuple(values[name] for name in names))
    return cases


merged_weight = Exercise(
    "2.1",
    lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
    _cases("weight", "lora_A", "lora_B", "alpha"),
    {
        "this adds alpha times B A. The update is scaled by alpha / rank.": lambda W, A, B, alpha: W + alpha * B @ A,
        "this leaves the scaling alpha / rank out.": lambda W, A, B, alpha: W + B @ A,
        "this is the update alone. Merging adds it to the weight.": lambda W, A, B, alpha: alpha / len(A) * B @ A,
        "this subtracts the update. That is how an adapter is taken out again.": (
            lambda W, A, B, alpha: W - alpha / len(A) * B @ A
        ),
        "this divides by the rank but leaves alpha out.": lambda W, A, B, alpha: W + B @ A / len(A),
        "this divides by the number of rows of B. The rank is the number of rows of A.": (
            lambda W, A, B, alpha: W + alpha / len(B) * B @ A
        ),
        "this is the transpose of the merged weight. A weight has the shape (d_out, d_in).": (
            lambda W, A, B, alpha: (W + alpha / len(A) * B @ A).T
        ),
    },
)

grad_A = Exercise(
    "2.2",
    lambda x, g, B, alpha: alpha / B.shape[1] * (g @ B).T @ x,
    _cases("x", "grad_output", "lora_B", "alpha"),
    {
        "this leaves the scaling alpha / rank out of the gradient.": lambda x, g, B, alpha: (g @ B).T @ x,
        "this scales by alpha. The update is scaled by alpha / rank, and so is its gradient.": (
            lambda x, g, B, alpha: alpha * (g @ B).T @ x
        ),
        "this averages over the batch. The gradient of the output contains the average already: sum the rows.": (
            lambda x, g, B, alpha: alpha / B.shape[1] * (g @ B).T @ x / len(x)
        ),
        "this is the transpose. A gradient has the shape of its parameter, (rank, d_in).": (
            lambda x, g, B, alpha: alpha / B.shape[1] * x.T @ (g @ B)
        ),
        "this scales twice. The factor s stands once in the gradient of A.": (
            lambda x, g, B, alpha: (alpha / B.shape[1]) ** 2 * (g @ B).T @ x
        ),
        "this is G, the gradient of the full weight. The chain rule goes on through B.": lambda x, g, B, alpha: g.T @ x,
    },
)

first_step = Exercise(
    "2.3",
    lambda G, A, alpha, lr: -lr * (alpha / len(A)) ** 2 * G @ A.T @ A,
    _cases("grad_weight", "lora_A", "alpha", "lr"),
    {
        "this has s once. It stands in the gradient of B, and once more in the update s B A.": (
            lambda G, A, alpha, lr: -lr * alpha / len(A) * G @ A.T @ A
        ),
        "this leaves the scaling out: it stands in the gradient of B, and once more in the update s B A.": (
            lambda G, A, alpha, lr: -lr * G @ A.T @ A
        ),
        "this scales by alpha. The factor is s = alpha / rank, squared.": (
            lambda G, A, alpha, lr: -lr * alpha**2 * G @ A.T @ A
        ),
        "the sign is wrong: a step goes against the gradient.": (
            lambda G, A, alpha, lr: lr * (alpha / len(A)) ** 2 * G @ A.T @ A
        ),
        "this is the step of full fine-tuning. LoRA sees G through A only.": lambda G, A, alpha, lr: -lr * G,
        "this is the new B. The update of the weight is s B A.": (
            lambda G, A, alpha, lr: -lr * alpha / len(A) * G @ A.T
        ),
    },
)
