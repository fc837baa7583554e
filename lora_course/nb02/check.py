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
        "return grad_low.T @ x -> return grad_low.T @ x / len(x)": "Your answer is the mean over the {x.shape[0]} rows "
        "of the batch. The loss is a mean over the batch already, and so `grad_output` has been divided by the number "
        "of rows: section 1.",
        "return grad_low.T @ x -> return -grad_low.T @ x": "Your answer has the wrong sign: it points in the "
        "direction of a step. The gradient points uphill, and only the step goes against it.",
        "return grad_low.T @ x -> return np.outer(grad_low.sum(axis=0), x.sum(axis=0))": "Your answer adds up the "
        "{x.shape[0]} rows of the batch too early. Each row of `x` belongs to its own row of `grad_output`: section 1.",
        "s * grad_output @ lora_B -> s * grad_output": "Your answer is s G, which has the shape of the full weight. "
        "The gradient has not passed through B yet: section 3.",
        "s * grad_output @ lora_B -> grad_output @ lora_B": "Your answer leaves out the scaling s, which is {s:g} "
        "here. The layer adds s B A x to its output: section 2.",
        "alpha / lora_B.shape[1] -> alpha": "Your answer has alpha, {alpha:g}, in the place of the scaling s, which is "
        "{s:g} here. Section 2 says what s is.",
        "return grad_low.T @ x -> return grad_low": "Your answer is the gradient of A x, with a row for each of the "
        "{x.shape[0]} inputs. The exercise asks for the gradient of A itself, and the input has a part in that: "
        "section 3.",
        "return grad_low.T @ x -> return x.T @ grad_low": "Your answer is transposed. A gradient has the shape of its "
        "parameter, and A has the shape (rank, d_in).",
    },
)
def grad_A(x, grad_output, lora_B, alpha):
    s = alpha / lora_B.shape[1]  # the scaling
    grad_low = s * grad_output @ lora_B  # the gradient of A x
    return grad_low.T @ x  # the gradient of A


# --- the gradient of a gate -------------------------------------------------------------------------------------------

PRODUCT = "(low * up).sum(axis=0)"


@exercise(
    "2.2",
    random_cases("x", "grad_output", "lora_A", "lora_B", "alpha"),
    taught={
        f"{PRODUCT} -> (low * up).mean(axis=0)": "Your answer is the mean over the {x.shape[0]} rows of the batch. "
        "The loss is a mean over the batch already, and so `grad_output` has been divided by the number of rows: "
        "section 1.",
        f"{PRODUCT} -> (low * up)": "Your answer has a row for each of the {x.shape[0]} inputs. There is only one gate "
        "for each component, and all inputs share it.",
        f"{PRODUCT} -> up.T @ low": "Your answer pairs every component with every component, in a table of "
        "{low.shape[1]} by {low.shape[1]}. A gate multiplies its own component only.",
        f"{PRODUCT} -> (up.T @ low).sum(axis=1)": "For each component, your answer adds up its pairs with all "
        "components. A gate multiplies its own component only.",
        f"{PRODUCT} -> low.sum(axis=0) * up.sum(axis=0)": "Your answer adds up the {x.shape[0]} rows of the batch too "
        "early. Each row of A x belongs to its own row of `grad_output`.",
        f"{PRODUCT} -> up.sum(axis=0)": "The input has no part in your answer. A gate multiplies a number of A x, and "
        "how much the loss changes depends on that number.",
        f"{PRODUCT} -> low.sum(axis=0)": "`grad_output` has no part in your answer. The loss depends on a gate "
        "through B and the output.",
        f"s * {PRODUCT} -> {PRODUCT}": "Your answer leaves out the scaling s, which is {s:g} here. It stands in the "
        "effective weight, W + s B diag(m) A.",
        "alpha / len(lora_A) -> alpha": "Your answer has alpha, {alpha:g}, in the place of the scaling s, which is "
        "{s:g} here. Section 2 says what s is.",
    },
)
def grad_gate(x, grad_output, lora_A, lora_B, alpha):
    s = alpha / len(lora_A)  # the scaling
    low = x @ lora_A.T  # the product A x
    up = grad_output @ lora_B  # the gradient that comes down through B
    return s * (low * up).sum(axis=0)  # the gradient of the gates


# --- merging ----------------------------------------------------------------------------------------------------------


def _kept(solution, weight, *factors):
    """The merged weight; what was given has to stay as it was."""
    before = weight.copy()
    result = solution(weight, *factors)
    if result is ... or np.array_equal(weight, before):
        return result
    return (
        "your function changes the weight that it was given: `weight += ...` works in place. The frozen base is lost "
        "then, and merging once more would add the update a second time."
    )


@exercise(
    "2.3",
    random_cases("weight", "lora_A", "lora_B", "alpha"),
    taught={
        "return weight + update -> return update": "Your answer is the update alone. What becomes of the weight? "
        "Section 7 says.",
        "return weight + update -> return weight - update": "Your answer subtracts the update. That takes a merged "
        "adapter out again.",
        "return weight + update -> return weight": "Your answer is the weight as it was. What becomes of the update? "
        "Section 7 says.",
        "s * lora_B @ lora_A -> lora_B @ lora_A": "Your answer leaves out the scaling s, which is {s:g} here. The "
        "layer adds s B A x to its output: section 2.",
        "alpha / len(lora_A) -> alpha": "Your answer has alpha, {alpha:g}, in the place of the scaling s, which is "
        "{s:g} here. Section 2 says what s is.",
        "return weight + update -> return weight * update": "Your answer multiplies each entry of the weight by an "
        "entry of the update. That is not what merging does: section 7.",
        "return weight + update -> return (weight + update).T": "Your answer is transposed. The merged weight has the "
        "shape of the weight, (d_out, d_in).",
    },
    observe=_kept,
)
def merged_weight(weight, lora_A, lora_B, alpha):
    s = alpha / len(lora_A)  # the scaling
    update = s * lora_B @ lora_A  # the update
    return weight + update  # the merged weight


# --- the first step ---------------------------------------------------------------------------------------------------


@exercise(
    "2.4",
    random_cases("grad_weight", "lora_A", "alpha", "lr"),
    taught={
        "lora_B = -lr * grad_B -> lora_B = lr * grad_B": "Your answer has the wrong sign: it goes uphill. A step goes "
        "against the gradient.",
        "return s * lora_B @ lora_A -> return lora_B @ lora_A": "Your answer counts the scaling s only once. Where "
        "does it stand in the effective weight, and where in the gradient of B? Sections 2 and 3 say.",
        "alpha / len(lora_A) -> alpha": "Your answer has alpha, {alpha:g}, in the place of the scaling s, which is "
        "{s:g} here. Section 2 says what s is.",
        "return s * lora_B @ lora_A -> return lora_B": "Your answer is B after the step. The exercise asks how much "
        "the effective weight, W + s B A, has changed.",
        "return s * lora_B @ lora_A -> return 2 * s * lora_B @ lora_A": "Your answer is twice as large as the "
        "change. If you counted a part for each factor: do both of them move in the first step? Section 5 says.",
        "return s * lora_B @ lora_A -> return -lr * grad_weight": "Your answer is the step of full fine-tuning. LoRA "
        "reaches the weight only through A and B: section 3.",
        "return s * lora_B @ lora_A -> return 0 * grad_weight": "In your answer nothing changes. B is zero at first, "
        "but is the gradient of B zero, too? Section 5 says.",
        "return s * lora_B @ lora_A -> return grad_B": "Your answer is the gradient of B. The exercise asks how much "
        "the effective weight, W + s B A, changes in the step.",
    },
)
def first_step(grad_weight, lora_A, alpha, lr):
    s = alpha / len(lora_A)  # the scaling
    grad_B = s * grad_weight @ lora_A.T  # the gradient of B
    lora_B = -lr * grad_B  # the factor B after the step
    return s * lora_B @ lora_A  # the change of the effective weight
