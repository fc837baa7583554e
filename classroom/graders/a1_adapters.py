"""Assignment 1, exercises 1.3 and 1.4: an adapter that can be merged, and its training."""

import numpy as np

from classroom.solutions import Solutions, Wrong


def adapter(c):
    class Adapter:
        """The reference; the wrong ones below change one method each."""

        def __init__(self, W, rank, alpha, seed):
            self.weight, self.scaling, self.merged = W, alpha / rank**c.power, False
            self.lora_A = self.start_A(W.shape[0], rank, seed)
            self.lora_B = self.start_B(W.shape[1], rank)

        def start_A(self, d_in, rank, seed):
            bound = c.gain / np.sqrt(d_in)
            return np.random.default_rng(seed).uniform(-bound, bound, size=(d_in, rank))

        def start_B(self, d_out, rank):
            return np.zeros((d_out, rank))

        def update(self):
            return self.scaling * self.lora_A @ self.lora_B.T

        def forward(self, x):
            y = x @ self.weight
            return y if self.merged else y + self.scaling * (x @ self.lora_A) @ self.lora_B.T

        def merge(self):
            if not self.merged:
                self.weight, self.merged = self.weight + self.update(), True

        def unmerge(self):
            if self.merged:
                self.weight, self.merged = self.weight - self.update(), False

    return Adapter


def adapter_with_a_backup(c):
    class Adapter(adapter(c)):
        kept = None

        def merge(self):
            if self.kept is None:
                self.kept = self.weight
                self.weight = self.kept + np.einsum("ir,or->io", self.lora_A, self.lora_B) * self.scaling
                self.merged = True

        def unmerge(self):
            if self.kept is not None:
                self.weight, self.kept, self.merged = self.kept, None, False

    return Adapter


def adapter_with_a_copy(c):
    class Adapter(adapter(c)):
        def __init__(self, W, rank, alpha, seed, name="adapter"):
            super().__init__(W, rank, alpha, seed)
            self.weight, self.name = np.array(W, copy=True), name

        def merge(self, safe=True):
            if not self.merged:
                self.weight += self.update()
                self.merged = True

        def unmerge(self):
            if self.merged:
                self.weight -= self.update()
                self.merged = False

    return Adapter


def adapter_by_loops(c):
    class Adapter(adapter(c)):
        def start_A(self, d_in, rank, seed):
            rng = np.random.default_rng(seed)
            A = np.empty((d_in, rank))
            for row in range(d_in):
                A[row] = (2 * rng.random(rank) - 1) * c.gain * d_in**-0.5
            return A

        def forward(self, x):
            return np.stack([self._one(row) for row in x])

        def _one(self, row):
            branch = 0 if self.merged else self.scaling * self.lora_B @ (row @ self.lora_A)
            return row @ self.weight + branch

    return Adapter


def _changed(**methods):
    """The reference with some methods replaced: method(c, self, ...)"""

    def make(c):
        def bound(function):
            return lambda self, *arguments: function(c, self, *arguments)

        return type("Adapter", (adapter(c),), {name: bound(function) for name, function in methods.items()})

    return make


def _random_A(scale):
    def start_A(c, self, d_in, rank, seed):
        bound = scale(c, d_in, rank)
        return np.random.default_rng(seed).uniform(-bound, bound, size=(d_in, rank))

    return start_A


def _drawn_transposed(c, self, d_in, rank, seed):
    bound = c.gain / np.sqrt(d_in)
    return np.random.default_rng(seed).uniform(-bound, bound, size=(rank, d_in)).T


def _merge_in_place(c, self):
    if not self.merged:
        self.weight += self.update()
        self.merged = True


def _merge_every_time(c, self):
    self.weight, self.merged = self.weight + self.update(), True


def _forward_with_the_branch(c, self, x):
    return x @ self.weight + self.scaling * (x @ self.lora_A) @ self.lora_B.T


def _merge_in_secret(c, self):
    if not self.merged:
        self.weight = self.weight + self.update()


def _unmerge_in_secret(c, self):
    if self.merged:
        self.weight = self.weight - self.update()


def _from_zero_up(c, self, d_in, rank, seed):
    return np.random.default_rng(seed).uniform(0, c.gain / np.sqrt(d_in), size=(d_in, rank))


def _normal_A(c, self, d_in, rank, seed):
    return np.random.default_rng(seed).normal(size=(d_in, rank)) * c.gain / np.sqrt(d_in)


def _unmerge_every_time(c, self):
    self.weight, self.merged = self.weight - self.update(), False


def adapter_of_lora_edu(c):
    from lora_edu.lora_numpy import LoRALinear

    class Adapter(LoRALinear):
        def __init__(self, W, rank, alpha, seed):
            super().__init__(W.T, rank, alpha, np.random.default_rng(seed))

        def merge(self):
            self.weight = self.weight + self.delta_weight()

        def unmerge(self):
            self.weight = self.weight - self.delta_weight()

    return Adapter


def _alpha_over_rank(c, self, d_in, rank, seed):
    self.scaling *= rank**c.power / rank
    return adapter(c).start_A(self, d_in, rank, seed)


ADAPTER = Solutions(
    reference=adapter,
    right={"a backup": adapter_with_a_backup, "a copy": adapter_with_a_copy, "loops": adapter_by_loops},
    wrong=[
        Wrong("B is random",
              _changed(start_B=lambda c, self, d_out, rank: np.random.default_rng(1).normal(size=(d_out, rank))), 6,
              "the output is changed before any training: B must start at zero.", "notebook 02, section 5"),
        Wrong("A is zero too", _changed(start_A=lambda c, self, d_in, rank, seed: np.zeros((d_in, rank))), 6,
              "A starts at zero, and so does B: neither will ever get a gradient.", "notebook 02, section 5"),
        Wrong("the bound of the package", _changed(start_A=_random_A(lambda c, d_in, rank: 1 / np.sqrt(d_in))), 6,
              "this is the usual bound, 1 / sqrt(d_in). Here it is c.gain times as large.", "notebook 02, section 3"),
        Wrong("the rank under the root", _changed(start_A=_random_A(lambda c, d_in, rank: c.gain / np.sqrt(rank))), 6,
              "this has the rank under the root. Each entry of x A sums d_in products: divide by sqrt(d_in).",
              "notebook 02, section 3"),
        Wrong("merging twice adds twice", _changed(merge=_merge_every_time), 7,
              "merging twice adds the update twice: remember that it is merged already.", "notebook 02, section 7"),
        Wrong("the branch stays on", _changed(forward=_forward_with_the_branch), 6,
              "after merging, forward adds the branch once more: the weight contains it already.",
              "notebook 02, section 7"),
        Wrong("the caller's W", _changed(merge=_merge_in_place), 7,
              "merging changed the array that was passed in: `+=` works in place, on the caller's array.",
              "notebook 02, section 7"),
        Wrong("alpha / rank", _changed(start_A=_alpha_over_rank), 3,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.",
              "notebook 02, section 9"),
        Wrong("merge does not say so", _changed(merge=_merge_in_secret), 5,
              "merge does not set self.merged: forward still adds the branch, and a second merge adds it again.",
              "notebook 02, section 7"),
        Wrong("unmerge does not say so", _changed(unmerge=_unmerge_in_secret), 7,
              "unmerge does not reset self.merged: forward leaves the branch out, a second call subtracts more.",
              "notebook 02, section 7"),
        Wrong("unmerging twice subtracts twice", _changed(unmerge=_unmerge_every_time), 7,
              "unmerging twice subtracts the update twice. Look at self.merged: is there anything to take out?",
              "notebook 02, section 7"),
        Wrong("merging without the scaling", _changed(update=lambda c, self: self.lora_A @ self.lora_B.T), 6,
              "the merged update lacks the scaling: it is s A B^T, with self.scaling.", "notebook 02, section 7"),
        Wrong("drawn from 0 up", _changed(start_A=_from_zero_up), 6,
              "A is drawn between 0 and the bound. It starts between minus the bound and plus the bound.",
              "notebook 02, section 3"),
        Wrong("normal numbers", _changed(start_A=_normal_A), 6,
              "A is drawn from a normal distribution, as in the paper. Here it is uniform, as in PEFT.",
              "notebook 02, section 3"),
        Wrong("drawn as (rank, d_in)", _changed(start_A=_drawn_transposed), 6,
              "A is drawn as (rank, d_in) and transposed: the numbers are in other places. Draw (d_in, rank).",
              "notebook 02, section 2"),
        Wrong("calls lora_edu", adapter_of_lora_edu, 0),
    ],
)  # fmt: skip


# --- 1.4 --------------------------------------------------------------------------------------------------------------


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


def train_row_by_row(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        s, A, B = alpha / A.shape[1] ** c.power, np.array(A), np.array(B)
        for _ in range(steps):
            grad_A, grad_B = 0 * A, 0 * B
            for one, wanted in zip(x, target, strict=True):
                error = (one @ W + s * B @ (A.T @ one) - wanted) / len(x)
                grad_A += s * np.outer(one, error @ B)
                grad_B += s * np.outer(error, one @ A)
            A, B = A - lr * grad_A, B - c.ratio * lr * grad_B
        return A, B

    return answer


def train_in_place(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        A_end, B_end = train(c)(x, target, W, A, B, alpha, lr, steps)
        A[...], B[...] = A_end, B_end
        return A_end, B_end

    return answer


def train_with_lora_edu(c):
    def answer(x, target, W, A, B, alpha, lr, steps):
        from lora_edu.lora_numpy import LoRALinear

        layer = LoRALinear(W.T, A.shape[1], alpha, np.random.default_rng(0))
        layer.lora_A, layer.lora_B = A.T.copy(), B.copy()
        for _ in range(steps):
            grad_A, grad_B, _ = layer.backward(x, (layer.forward(x) - target) / len(x))
            layer.lora_A -= lr * grad_A
            layer.lora_B -= lr * c.ratio * grad_B
        return layer.lora_A.T, layer.lora_B

    return answer


def _with(**options):
    return lambda c: lambda *case: _trained(c, *case, **options)


TRAIN = Solutions(
    reference=train,
    right={"through G": train_from_G, "einsum": train_by_einsum, "row by row": train_row_by_row},
    wrong=[
        Wrong("one rate", _with(rates=lambda lr, ratio: (lr, lr)), 6,
              "both factors move at the same rate. B's learning rate is c.ratio times that of A.",
              "notebook 02, section 9"),
        Wrong("the rates exchanged", _with(rates=lambda lr, ratio: (lr * ratio, lr)), 3,
              "A has the larger rate here. It is B's that is c.ratio times as large.", "notebook 02, section 9"),
        Wrong("no mean", _with(mean=False), 3,
              "this sums the loss over the batch. It is a mean: divide by the batch size.", "exercise 1.4 above"),
        Wrong("A first, then B", _with(then=True), 6,
              "this takes the gradient of B at an A that has moved already. Take both before a step.",
              "notebook 02, section 3"),
        Wrong("alpha / rank", _with(power=1), 3,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.",
              "notebook 02, section 9"),
        Wrong("uphill", _with(rates=lambda lr, ratio: (-lr, -lr * ratio)), 0,
              "the sign is wrong: a step goes against the gradient.", "notebook 02, section 1"),
        Wrong("alpha", _with(power=0), 3,
              "this scales by alpha. The scaling is s = alpha / rank**c.power.", "notebook 02, section 2"),
        Wrong("no s in the gradients", _with(factor=lambda g, s: 1 / s), 3,
              "the gradients lack the scaling s: y contains it, and so does what comes down from y.",
              "notebook 02, section 3"),
        Wrong("s twice", _with(factor=lambda g, s: s), 3,
              "the scaling s stands twice in the gradients. Each one carries it once.", "notebook 02, section 3"),
        Wrong("twice the gradient", _with(factor=lambda g, s: 2.0), 3,
              "the gradients are twice too large. The loss has 1/2 in front, which cancels the 2 of the square.",
              "exercise 1.4 above"),
        Wrong("a mean over all entries", _with(factor=lambda g, s: 1 / g.shape[1]), 3,
              "this averages over the outputs as well. A row's squares are summed; the mean is over the batch.",
              "exercise 1.4 above"),
        Wrong("one gradient for all steps", _with(again=True), 7,
              "every step takes the error of the first one. Compute the output anew in each step.",
              "notebook 02, section 1"),
        Wrong("a single step", lambda c: lambda *case: train(c)(*case[:-1], 1), 7,
              "this takes one step, whatever `steps` says.", "exercise 1.4 above"),
        Wrong("a step too few", _with(fewer=1), 0, "this takes a step less than `steps` says.", "exercise 1.4 above"),
        Wrong("A transposed", lambda c: lambda *case: (train(c)(*case)[0].T, train(c)(*case)[1]), 4),
        Wrong("changes A and B", train_in_place, 8),
        Wrong("calls lora_edu", train_with_lora_edu, 3),
    ],
)  # fmt: skip

SOLUTIONS = {"1.3": ADAPTER, "1.4": TRAIN}
