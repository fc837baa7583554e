"""The checks of notebook 02, LoRA in NumPy."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "first_step", "grad_A", "grad_gate", "merged_weight"]


def random_cases(*names):
    """Random cases of these arguments: alpha is never the rank, and no two sides are equal."""
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
        values |= {"alpha": alpha, "lr": (0.1, 0.03)[seed]}
        cases.append(tuple(values[name] for name in names))
    return cases


# --- the gradient of A ------------------------------------------------------------------------------------------------


@exercise(
    "2.1",
    random_cases("x", "grad_output", "lora_B", "alpha"),
    taught={
        "return grad_low.T @ x -> return grad_low.T @ x / len(x)": "Your answer averages over the {x.shape[0]} rows of "
        "the batch. `grad_output` holds the average of the loss already: sum the rows.",
        "return grad_low.T @ x -> return -grad_low.T @ x": "Your answer is the step, and not the gradient. A gradient "
        "points uphill; only the step goes against it.",
        "return grad_low.T @ x -> return np.outer(grad_low.sum(axis=0), x.sum(axis=0))": "Your answer sums the batch "
        "before the product. The product with x sums it, row by row: section 3.",
        "s * grad_output @ lora_B -> s * grad_output": "Your answer is s G, of the full weight. The chain rule goes on "
        "through B: section 3.",
        "s * grad_output @ lora_B -> grad_output @ lora_B": "Your answer leaves the scaling out. y holds s B A x, so s "
        "stands in every gradient of the branch: {s:g} here.",
        "return grad_low.T @ x -> return grad_low": "Your answer is the gradient of A x, one row for each input. Each "
        "entry of A meets one entry of x: section 3.",
        "return grad_low.T @ x -> return x.T @ grad_low": "Your answer is the transpose. A gradient has the shape of "
        "its parameter, here (rank, d_in).",
    },
)
def grad_A(x, grad_output, lora_B, alpha):
    s = alpha / lora_B.shape[1]  # the scaling
    grad_low = s * grad_output @ lora_B  # the gradient of A x
    return grad_low.T @ x  # its product with x


# --- the gradient of a gate -------------------------------------------------------------------------------------------

PRODUCT = "(low * up).sum(axis=0)"


@exercise(
    "2.2",
    random_cases("x", "grad_output", "lora_A", "lora_B", "alpha"),
    taught={
        f"{PRODUCT} -> (low * up).mean(axis=0)": "Your answer averages over the {x.shape[0]} rows of the batch. "
        "`grad_output` holds the average of the loss already: sum the rows.",
        f"{PRODUCT} -> (low * up)": "Your answer keeps the rows of the batch apart. They share the gates: sum "
        "over the batch.",
        f"{PRODUCT} -> up.T @ low": "Your answer pairs every component with every other. A gate meets its own "
        "component alone: the diagonal of that.",
        f"{PRODUCT} -> (up.T @ low).sum(axis=1)": "Your answer adds up all pairs of components. A gate meets "
        "its own component alone.",
        f"{PRODUCT} -> low.sum(axis=0) * up.sum(axis=0)": "Your answer sums the batch before the product. "
        "Multiply A x and what comes through B row by row, then sum.",
        f"{PRODUCT} -> up.sum(axis=0)": "Your answer leaves the input out. What a gate multiplies is A x, so "
        "its gradient holds that.",
        f"{PRODUCT} -> low.sum(axis=0)": "Your answer leaves the gradient of the output out. It comes down "
        "to a gate through B.",
    },
)
def grad_gate(x, grad_output, lora_A, lora_B, alpha):
    s = alpha / len(lora_A)  # the scaling
    low, up = x @ lora_A.T, grad_output @ lora_B  # A x, and what comes down through B
    return s * (low * up).sum(axis=0)  # what becomes of the two


# --- merging ----------------------------------------------------------------------------------------------------------


def _kept(solution, weight, *factors):
    """The merged weight; what was given has to stay as it was."""
    before = weight.copy()
    result = solution(weight, *factors)
    if result is ... or np.array_equal(weight, before):
        return result
    return (
        "this changes the weight that was given: `weight += ...` works in place. The frozen base is lost then, and a "
        "second merge adds the update twice. Return a new array."
    )


@exercise(
    "2.3",
    random_cases("weight", "lora_A", "lora_B", "alpha"),
    taught={
        "return weight + update -> return update": "Your answer is the update alone. Merging adds it to the weight: "
        "section 7.",
        "return weight + update -> return weight - update": "Your answer subtracts the update. That is how an adapter "
        "is taken out again.",
        "return weight + update -> return weight": "Your answer is the weight without the update. Merging adds s B A: "
        "section 7.",
        "s * lora_B @ lora_A -> lora_B @ lora_A": "Your answer leaves the scaling out. The layer adds s B A x, with s "
        "= alpha / r: {s:g} here.",
        "alpha / len(lora_A) -> alpha": "Your answer scales B A by alpha. The scaling is alpha divided by the rank, "
        "the number of rows of A: {s:g} here.",
        "return weight + update -> return weight * update": "Your answer multiplies the weight by the update, entry by "
        "entry. Merging adds.",
        "return weight + update -> return (weight + update).T": "Your answer is the transpose. A weight has the shape "
        "(d_out, d_in), that of B A.",
    },
    observe=_kept,
)
def merged_weight(weight, lora_A, lora_B, alpha):
    s = alpha / len(lora_A)  # the scaling
    update = s * lora_B @ lora_A  # the update
    return weight + update  # the sum


# --- the first step ---------------------------------------------------------------------------------------------------


@exercise(
    "2.4",
    random_cases("grad_weight", "lora_A", "alpha", "lr"),
    taught={
        "lora_B = -lr * grad_B -> lora_B = lr * grad_B": "Your answer goes up: its sign is wrong. A step goes against "
        "the gradient.",
        "return s * lora_B @ lora_A -> return lora_B @ lora_A": "Your answer has s once. It stands in the gradient of "
        "B, and once more in the update s B A.",
        "return s * lora_B @ lora_A -> return lora_B": "Your answer is the new B. The effective weight changes by s B "
        "A: section 2.",
        "return s * lora_B @ lora_A -> return 2 * s * lora_B @ lora_A": "In your answer A moves as well. In the first "
        "step it does not: its gradient is multiplied by B, which is zero.",
        "return s * lora_B @ lora_A -> return -lr * grad_weight": "Your answer is the step of full fine-tuning. LoRA "
        "sees G through A only: section 3.",
        "return s * lora_B @ lora_A -> return 0 * grad_weight": "In your answer nothing moves. With B = 0 the gradient "
        "of A is zero, but that of B is not: section 5.",
        "return s * lora_B @ lora_A -> return grad_B": "Your answer is the gradient of B. It takes a step, and then "
        "the weight changes by s B A.",
    },
)
def first_step(grad_weight, lora_A, alpha, lr):
    s = alpha / len(lora_A)  # the scaling
    grad_B = s * grad_weight @ lora_A.T  # the gradient of B
    lora_B = -lr * grad_B  # B after the step
    return s * lora_B @ lora_A  # the update that it makes
