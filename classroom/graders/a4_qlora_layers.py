"""Exercise 4.3, a QLoRA layer whose backward keeps the packed weight alone: right and wrong answers."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from classroom.solutions import Maker, Solutions, Wrong
from lora_edu.assignments.core import Constants


def rows(tensor: torch.Tensor) -> torch.Tensor:
    """(..., d) -> (n, d)"""
    return tensor.reshape(-1, tensor.shape[-1])


class DecodesTwice(torch.autograd.Function):
    """The reference: x, A, B and the stored bytes are kept, all of them arguments. Backward decodes again."""

    @staticmethod
    def forward(ctx, x, stored, decode, A, B, scaling):
        ctx.save_for_backward(x, stored, A, B)
        ctx.decode, ctx.scaling = decode, scaling
        return x @ decode(stored) + scaling * (x @ A.T) @ B.T

    @staticmethod
    def backward(ctx, grad_y):
        x, stored, A, B = ctx.saved_tensors
        G = ctx.scaling * grad_y
        grad_x = grad_y @ ctx.decode(stored).T + G @ B @ A
        grad_A, grad_B = rows(G @ B).T @ rows(x), rows(G).T @ rows(x @ A.T)
        return grad_x, None, None, grad_A, grad_B, None


def applied(function: type, scaling=lambda c, alpha, A: alpha / len(A) ** c.power) -> Maker:
    """The answer that calls an autograd Function."""

    def make(c: Constants):
        return lambda x, stored, decode, A, B, alpha: function.apply(x, stored, decode, A, B, scaling(c, alpha, A))

    return make


class Recomputes(torch.autograd.Function):
    """Backward runs the plain layer again, under autograd."""

    @staticmethod
    def plain(x, stored, decode, A, B, s):
        return x @ decode(stored) + s * F.linear(F.linear(x, A), B)

    @staticmethod
    def forward(ctx, *arguments):
        ctx.arguments = arguments
        return Recomputes.plain(*arguments)

    @staticmethod
    def backward(ctx, grad_y):
        x, stored, decode, A, B, s = ctx.arguments
        x, A, B = (tensor.detach().requires_grad_() for tensor in (x, A, B))
        with torch.enable_grad():
            y = Recomputes.plain(x, stored, decode, A, B, s)
        grad_x, grad_A, grad_B = torch.autograd.grad(y, (x, A, B), grad_y)
        return grad_x, None, None, grad_A, grad_B, None


def with_checkpoint(c):
    """torch's own recomputation, in the kind that is not reentrant."""

    def qlora_layer(x, stored, decode, A, B, alpha, use_reentrant=False):
        def run(x, A, B):
            return x @ decode(stored) + alpha / len(A) ** c.power * (x @ A.T) @ B.T

        return checkpoint(run, x, A, B, use_reentrant=use_reentrant, preserve_rng_state=False)

    return qlora_layer


# --- wrong -----------------------------------------------------------------------------------------------------------


def plain(c):
    """Autograd keeps the decoded weight."""
    return lambda x, stored, decode, A, B, alpha: x @ decode(stored) + alpha / len(A) ** c.power * (x @ A.T) @ B.T


class BaseAlone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, stored, decode):
        ctx.stored, ctx.decode = stored, decode
        return x @ decode(stored)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ ctx.decode(ctx.stored).T, None, None


def branch_by_autograd(c):
    def qlora_layer(x, stored, decode, A, B, alpha):
        return BaseAlone.apply(x, stored, decode) + alpha / len(A) ** c.power * (x @ A.T) @ B.T

    return qlora_layer


class KeepsWeight(DecodesTwice):
    """An attribute of ctx is memory too, though no hook of autograd sees it."""

    @staticmethod
    def forward(ctx, x, stored, decode, A, B, scaling):
        W = decode(stored)
        y = DecodesTwice.forward(ctx, x, stored, lambda _: W, A, B, scaling)
        ctx.W = W
        return y


class KeepsHalf(DecodesTwice):
    """The weight in 16 bits: half of the bytes."""

    @staticmethod
    def forward(ctx, x, stored, decode, A, B, scaling):
        half = decode(stored).bfloat16()
        y = DecodesTwice.forward(ctx, x, stored, decode, A, B, scaling)
        ctx.decode = lambda _: half.float()
        return y


OUTSIDE = "the decoded weight is kept, outside of torch. It takes the same memory there: decode it again in backward."


def hidden(pack, unpack):
    """The decoded weight held as something that is no tensor."""

    class Hidden(DecodesTwice):
        @staticmethod
        def forward(ctx, x, stored, decode, A, B, scaling):
            y = DecodesTwice.forward(ctx, x, stored, decode, A, B, scaling)
            kept = pack(decode(stored))
            ctx.decode = lambda _: unpack(kept)
            return y

    return applied(Hidden)


class FormsProduct(DecodesTwice):
    @staticmethod
    def forward(ctx, x, stored, decode, A, B, scaling):
        ctx.save_for_backward(x, stored, A, B)
        ctx.decode, ctx.scaling = decode, scaling
        return x @ (decode(stored) + scaling * (B @ A).T)


class KeepsCopyOfInput(DecodesTwice):
    @staticmethod
    def forward(ctx, x, *others):
        return DecodesTwice.forward(ctx, x.clone(), *others)


def changes(place: int, change) -> type:
    """DecodesTwice with another gradient at this place. change: (grad, x, A, B, scaling, grad_y) -> gradient"""

    class Changed(DecodesTwice):
        @staticmethod
        def backward(ctx, grad_y):
            x, _, A, B = ctx.saved_tensors
            grads = list(DecodesTwice.backward(ctx, grad_y))
            grads[place] = change(grads[place], x, A, B, ctx.scaling, grad_y)
            return tuple(grads)

    return Changed


class UnscaledAdapters(DecodesTwice):
    @staticmethod
    def backward(ctx, grad_y):
        grads = list(DecodesTwice.backward(ctx, grad_y))
        return *grads[:3], grads[3] / ctx.scaling, grads[4] / ctx.scaling, None


class FlatInputs(DecodesTwice):
    """Right for two dimensions only."""

    @staticmethod
    def backward(ctx, grad_y):
        x, stored, A, B = ctx.saved_tensors
        G = ctx.scaling * grad_y
        return grad_y @ ctx.decode(stored).T + G @ B @ A, None, None, (G @ B).T @ x, G.T @ (x @ A.T), None


def reentrant(c):
    """Right, unless x needs no gradient: then the adapters get none."""

    def qlora_layer(x, stored, decode, A, B, alpha):
        def run(x):
            return x @ decode(stored) + alpha / len(A) ** c.power * (x @ A.T) @ B.T

        y = checkpoint(run, x, use_reentrant=True, preserve_rng_state=False)
        return y if y.requires_grad else y.requires_grad_()

    return qlora_layer


KEEPS, SCALING, BACKWARD = "notebook 08, section 5", "notebook 04, section 1", "notebook 02, section 3"
GRADIENT_OF_X = "notebook 09, section 3"

QLORA_LAYER = Solutions(
    reference=applied(DecodesTwice),
    right={"plain layer run again": applied(Recomputes), "checkpoint": with_checkpoint},
    wrong=[
        Wrong("a NumPy copy kept", hidden(lambda W: W.numpy().copy(), torch.from_numpy), 5, OUTSIDE, KEEPS),
        Wrong("a list kept", hidden(lambda W: W.tolist(), torch.tensor), 5),
        Wrong("the weight kept by autograd", plain, 4,
              "the decoded weight stays alive from forward to backward: autograd keeps it for the gradient of x. Write "
              "an autograd " "Function that decodes again in backward.", KEEPS),
        Wrong("the adapters' branch left to autograd", branch_by_autograd, 6,
              "the base keeps nothing, but autograd keeps x A^T for the gradient of B. Put the branch into your "
              "Function: what is " "small can be computed again, too.", "notebook 08, section 3"),
        Wrong("the weight on ctx", applied(KeepsWeight), 4,
              "the decoded weight is kept from forward to backward, on ctx or elsewhere. Decode it again in backward.",
              KEEPS),
        Wrong("the weight kept in 16 bits", applied(KeepsHalf), 4,
              "the weight is kept in 16 bits from forward to backward: less than in 32, and four times what it takes "
              "packed.", KEEPS),
        Wrong("BA formed", applied(FormsProduct), 6,
              "B A is formed: a matrix as large as W, for each forward pass. First x times A^T, then times B^T.",
              SCALING),
        Wrong("alpha alone", applied(DecodesTwice, lambda c, alpha, A: alpha), 4,
              "the branch is scaled by alpha. Here it is alpha / rank**c.power.", SCALING),
        Wrong("alpha / rank", applied(DecodesTwice, lambda c, alpha, A: alpha / len(A)), 4,
              "the branch is scaled by alpha / rank, as in the paper. In this cohort the rank has the exponent "
              "c.power.", SCALING),
        Wrong("scaling left out", applied(DecodesTwice, lambda c, alpha, A: 1.0), 4,
              "the branch is not scaled: alpha / rank**c.power is missing.", SCALING),
        Wrong("gradient of x without the branch", applied(changes(0, lambda g, x, A, B, s, gy: g - s * gy @ B @ A)), 6,
              "the gradient of x passes through the base alone. It passes through the branch as well: s (dL/dy B) A.",
              BACKWARD),
        Wrong("no gradient through the base", applied(changes(0, lambda g, x, A, B, s, gy: s * gy @ B @ A)), 6,
              "the gradient of x passes through the branch alone: no_grad or detach stops it in the base. The weight "
              "is frozen, the way through it is not.", GRADIENT_OF_X),
        Wrong("no gradient for x", applied(changes(0, lambda g, x, A, B, s, gy: None)), 6,
              "x gets no gradient. The weight is frozen, yet what lies before this layer learns through it.",
              GRADIENT_OF_X),
        Wrong("the adapters' gradients not scaled", applied(UnscaledAdapters), 6,
              "the gradients of A and B lack the scaling: each carries it once.", BACKWARD),
        Wrong("no gradients for the adapters", applied(changes(3, lambda *_: None)), 6,
              "A gets no gradient: backward returns one for each argument of forward, in the same order.", KEEPS),
        Wrong("a copy of x", applied(KeepsCopyOfInput), 6,
              "a copy of x is kept. Save the argument itself: it is alive anyway.", "notebook 08, section 2"),
        Wrong("reentrant checkpointing", reentrant, 6,
              "where x needs no gradient, the adapters get none. Reentrant checkpointing asks the inputs alone; "
              "use_reentrant=False " "does not.", "notebook 08, section 6"),
        Wrong("two dimensions only", applied(FlatInputs), 5),
    ],
)  # fmt: skip
