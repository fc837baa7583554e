"""4.5: QLoRA layers whose backward keeps the packed weight alone, written in four ways."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from classroom.solutions import Maker
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


class WithEinsum(torch.autograd.Function):
    """Everything on ctx as attributes, and sums written out."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.arguments = arguments
        x, stored, decode, A, B, s = arguments
        low = torch.einsum("...i,ri->...r", x, A)
        return torch.einsum("...i,io->...o", x, decode(stored)) + torch.einsum("...r,or->...o", low, s * B)

    @staticmethod
    def backward(ctx, grad_y):
        x, stored, decode, A, B, s = ctx.arguments
        low = torch.einsum("...o,or->...r", grad_y, s * B)
        grad_x = torch.einsum("...o,io->...i", grad_y, decode(stored)) + torch.einsum("...r,ri->...i", low, A)
        grad_A = torch.einsum("...r,...i->ri", low, x)
        grad_B = s * torch.einsum("...o,...r->or", grad_y, torch.einsum("...i,ri->...r", x, A))
        return grad_x, None, None, grad_A, grad_B, None


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
