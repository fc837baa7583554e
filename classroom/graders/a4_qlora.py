"""Assignment 4: exercise 4.3, a layer that keeps its packed weight alone; and all of them."""

from classroom.graders.a4_constants import QUANTIZE_CONSTANTS, SURVIVING_UPDATE
from classroom.graders.a4_learning import FINE_TUNE, STUDIES
from classroom.solutions import Answer, Solutions

OURS = "KeepsItsArguments.apply(x, stored, lora_A, lora_B)"
BRANCH = "scaling * (x @ lora_A.T) @ lora_B.T"
SAVED, DECODED, GRADIENTS = (
    "ctx.save_for_backward(x,",
    "decode(stored).T",
    "rows(G @ B).T @ rows(x), rows(G).T @ rows(x @ A.T)",
)


RECOMPUTED = (
    "G = scaling * grad_y -> inputs = [tensor.detach().requires_grad_() for tensor in (x, A, B)]\n"
    "            with torch.enable_grad():\n"
    "                y = inputs[0] @ decode(stored) + scaling * F.linear(F.linear(*inputs[:2]), inputs[2])\n"
    "            grad_x, *others = torch.autograd.grad(y, inputs, grad_y)\n"
    "            return grad_x, None, *others; G = 0"
)


def checkpointed(how: str) -> str:
    """torch's own recomputation."""
    return (
        f"return {OURS} -> from torch.utils.checkpoint import checkpoint; "
        f"y = checkpoint(lambda x: x @ decode(stored) + {BRANCH}, x, {how}, preserve_rng_state=False); "
        "return y if y.requires_grad else y.requires_grad_()"
    )


KEEPS, SCALING, BACKWARD = "notebook 08, section 5", "notebook 04, section 1", "notebook 02, section 3"
GRADIENT_OF_X = "notebook 09, section 3"

QLORA_LAYER = Solutions(
    reference=Answer("a4_qlora", "qlora_layer"),
    right={"plain layer run again, under autograd": RECOMPUTED, "checkpoint": checkpointed("use_reentrant=False")},
    wrong=[
        ("the weight kept by autograd", f"{OURS} -> x @ decode(stored) + {BRANCH}", 4,
         "the decoded weight stays alive from forward to backward: autograd keeps it for the gradient of x. Write an "
         "autograd Function that decodes again in backward.", KEEPS),
        ("the adapters' branch left to autograd", " + scaling * (x @ A.T) @ B.T ->  & + G @ B @ A ->  & "
         f"{GRADIENTS} -> None, None & {OURS} -> {OURS} + {BRANCH}", 6,
         "the base keeps nothing, but autograd keeps x A^T for the gradient of B. Put the branch into your Function: "
         "what is small can be computed again, too.", "notebook 08, section 3"),
        ("the weight on ctx", f"{SAVED} -> ctx.kept = decode(stored); {SAVED} & {DECODED} -> ctx.kept.T", 4,
         "the decoded weight is kept from forward to backward, on ctx or elsewhere. Decode it again in backward.",
         KEEPS),
        ("BA formed", "(stored) + scaling * (x @ A.T) @ B.T -> (stored) + x @ (scaling * B @ A).T", 6,
         "B A is formed: a matrix as large as W, for each forward pass. First x times A^T, then times B^T.", SCALING),
        ("alpha alone", "alpha / len(lora_A) ** c.power -> alpha", 4,
         "the branch is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        ("alpha / rank", " ** c.power -> ", 4,
         "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent c.power.",
         SCALING),
        ("gradient of x without the branch", " + G @ B @ A -> ", 6,
         "the gradient of x passes through the base alone. It passes through the branch as well: s (dL/dy B) A.",
         BACKWARD),
        ("no gradient through the base", "grad_y @ decode(stored).T + -> ", 6,
         "the gradient of x passes through the branch alone: no_grad or detach stops it in the base. The weight is "
         "frozen, the way through it is not.", GRADIENT_OF_X),
        ("no gradient for x", "return grad_x, -> return None,", 6,
         "x gets no gradient. The weight is frozen, yet what lies before this layer learns through it.",
         GRADIENT_OF_X),
        ("a copy of x", f"{SAVED} -> x = x.clone(); {SAVED}", 6,
         "a copy of x is kept. Save the argument itself: it is alive anyway.", "notebook 08, section 2"),
        ("reentrant checkpointing", checkpointed("use_reentrant=True"), 6,
         "where x needs no gradient, the adapters get none. Reentrant checkpointing asks the inputs alone; "
         "use_reentrant=False does not.", "notebook 08, section 6"),
        ("two dimensions only", f"{GRADIENTS} -> (G @ B).T @ x, G.T @ (x @ A.T)", 5),
    ],
)  # fmt: skip

SOLUTIONS = {
    "4.1": SURVIVING_UPDATE,
    "4.2": QUANTIZE_CONSTANTS,
    "4.3": QLORA_LAYER,
    "4.4": FINE_TUNE,
    "4.5": STUDIES,
}
