"""Assignment 1, exercise 1.4: training with two learning rates."""

import numpy as np

from classroom.solutions import Solutions, Wrong


def train(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        return _trained(c, x, target, W, A, B, alpha, lr, steps)

    return answer


def _trained(c, x, target, W, A, B, alpha, lr, steps, rates=None, power=None, mean=True, **odd):
    """Plain descent on half the mean squared error; the options are the mistakes below."""
    s = alpha / A.shape[1] ** (c.power if power is None else power)
    rate_A, rate_B = rates(lr, c.ratio) if rates else (lr, lr * c.ratio)
    factor, again, first, then = (odd.get(name) for name in ("factor", "again", "first", "then"))
    for _ in range(steps - odd.get("fewer", 0)):
        g = x @ W + s * (x @ A) @ B.T - target
        g = (g / len(x) if mean else g) * (factor(g, s) if factor else 1)
        g = first = g if not again or first is None else first
        grad_A, grad_B = s * x.T @ (g @ B), s * g.T @ (x @ A)
        if then:
            A = A - rate_A * grad_A
            grad_B = s * g.T @ (x @ A)
            B = B - rate_B * grad_B
        else:
            A, B = A - rate_A * grad_A, B - rate_B * grad_B
    return A, B


def train_from_G(c):
    def answer(x, target, W, A, B, alpha, lr, steps, verbose=False):
        s, A, B = alpha * A.shape[1] ** -c.power, A.copy(), B.copy()
        while steps:
            G = x.T @ (x @ (W + s * A @ B.T) - target) / x.shape[0]
            step_A, step_B = lr * s * G @ B, c.ratio * lr * s * G.T @ A
            A -= step_A
            B -= step_B
            steps -= 1
        return A, B

    return answer


def train_by_einsum(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        s = alpha / A.shape[1] ** c.power
        base = x @ W - target
        for _ in range(steps):
            low = np.einsum("ni,ir->nr", x, A)
            error = (base + s * np.einsum("nr,or->no", low, B)) * s / len(x)
            A, B = (
                A - lr * np.einsum("ni,no,or->ir", x, error, B),
                B - lr * c.ratio * np.einsum("no,nr->or", error, low),
            )
        return [A, B]

    return answer


def train_in_place(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        A_end, B_end = train(c)(x, target, W, A, B, alpha, lr, steps)
        A[...], B[...] = A_end, B_end
        return A_end, B_end

    return answer


def _with(**options):
    return lambda c: lambda *case: _trained(c, *case, **options)


LOOP = "notebook 02, section 1"
SCALING = "notebook 02, section 2"
GRADIENTS = "notebook 02, section 3"
RATES = "notebook 02, section 9"
TEXT = "exercise 1.4 above"

TRAIN = Solutions(
    reference=train,
    right={"through G": train_from_G, "einsum": train_by_einsum},
    wrong=[
        Wrong("one rate", _with(rates=lambda lr, ratio: (lr, lr)), 6,
              "both factors move at the same rate. B's learning rate is c.ratio times that of A.", RATES),
        Wrong("the rates exchanged", _with(rates=lambda lr, ratio: (lr * ratio, lr)), 3,
              "A has the larger rate here. It is B's that is c.ratio times as large.", RATES),
        Wrong("no mean", _with(mean=False), 3,
              "this sums the loss over the batch. It is a mean: divide by the batch size.", TEXT),
        Wrong("A first, then B", _with(then=True), 6,
              "this takes the gradient of B at an A that has moved already. Take both before a step.", GRADIENTS),
        Wrong("alpha / rank", _with(power=1), 3,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.", SCALING),
        Wrong("uphill", _with(rates=lambda lr, ratio: (-lr, -lr * ratio)), 0,
              "the sign is wrong: a step goes against the gradient.", LOOP),
        Wrong("alpha", _with(power=0), 3,
              "this scales by alpha. The scaling is s = alpha / rank**c.power.", SCALING),
        Wrong("no s in the gradients", _with(factor=lambda g, s: 1 / s), 3,
              "the gradients lack the scaling s: y contains it, and so does what comes down from y.", GRADIENTS),
        Wrong("s twice", _with(factor=lambda g, s: s), 3,
              "the scaling s stands twice in the gradients. Each one carries it once.", GRADIENTS),
        Wrong("twice the gradient", _with(factor=lambda g, s: 2.0), 3,
              "the gradients are twice too large. The loss has 1/2 in front, which cancels the 2 of the square.", TEXT),
        Wrong("a mean over all entries", _with(factor=lambda g, s: 1 / g.shape[1]), 3,
              "this averages over the outputs as well. A row's squares are summed; the mean is over the batch.", TEXT),
        Wrong("one gradient for all steps", _with(again=True), 7,
              "every step takes the error of the first one. Compute the output anew in each step.", LOOP),
        Wrong("a single step", lambda c: lambda *case: train(c)(*case[:-1], 1), 7,
              "this takes one step, whatever `steps` says.", TEXT),
        Wrong("A stays", _with(rates=lambda lr, ratio: (0, lr * ratio)), 6,
              "A is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        Wrong("B stays", _with(rates=lambda lr, ratio: (lr, 0)), 6,
              "B is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        Wrong("a step too few", _with(fewer=1), 0, "this takes a step less than `steps` says.", TEXT),
        Wrong("changes A and B", train_in_place, 8),
    ],
)  # fmt: skip

SOLUTIONS = {"1.4": TRAIN}
