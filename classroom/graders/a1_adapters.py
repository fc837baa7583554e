"""Assignment 1, exercise 1.3: an adapter that can be merged."""

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


def _clear_the_flag(c, self):
    self.merged = False


def _merge_or_undo(c, self):
    self.weight, self.merged = self.weight + self.update() * (-1 if self.merged else 1), not self.merged


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


SHAPES = "notebook 02, section 2"
SIZE_OF_A = "notebook 02, section 3"
START = "notebook 02, section 5"
MERGING = "notebook 02, section 7"

ADAPTER = Solutions(
    reference=adapter,
    right={"a backup": adapter_with_a_backup, "a copy": adapter_with_a_copy},
    wrong=[
        Wrong("B is random",
              _changed(start_B=lambda c, self, d_out, rank: np.random.default_rng(1).normal(size=(d_out, rank))), 6,
              "the output is changed before any training: B must start at zero.", START),
        Wrong("A is zero too", _changed(start_A=lambda c, self, d_in, rank, seed: np.zeros((d_in, rank))), 6,
              "A starts at zero, and so does B: neither will ever get a gradient.", START),
        Wrong("the bound of the package", _changed(start_A=_random_A(lambda c, d_in, rank: 1 / np.sqrt(d_in))), 6,
              "this is the usual bound, 1 / sqrt(d_in). Here it is c.gain times as large.", SIZE_OF_A),
        Wrong("the rank under the root", _changed(start_A=_random_A(lambda c, d_in, rank: c.gain / np.sqrt(rank))), 6,
              "this has the rank under the root. Each entry of x A sums d_in products: divide by sqrt(d_in).",
              SIZE_OF_A),
        Wrong("merging twice adds twice", _changed(merge=_merge_every_time), 7,
              "merging twice adds the update twice: remember that it is merged already.", MERGING),
        Wrong("the branch stays on", _changed(forward=_forward_with_the_branch), 6,
              "after merging, forward adds the branch once more: the weight contains it already.", MERGING),
        Wrong("the caller's W", _changed(merge=_merge_in_place), 7,
              "merging changed the array that was passed in: `+=` works in place, on the caller's array.", MERGING),
        Wrong("alpha / rank", _changed(start_A=_alpha_over_rank), 3,
              "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.", SHAPES),
        Wrong("merge does not say so", _changed(merge=_merge_in_secret), 5,
              "merge does not set self.merged: forward still adds the branch, and a second merge adds it again.",
              MERGING),
        Wrong("unmerge does not say so", _changed(unmerge=_unmerge_in_secret), 7,
              "unmerge does not reset self.merged: forward leaves the branch out, a second call subtracts more.",
              MERGING),
        Wrong("unmerging twice subtracts twice", _changed(unmerge=_unmerge_every_time), 7,
              "unmerging twice subtracts the update twice. Look at self.merged: is there anything to take out?",
              MERGING),
        Wrong("unmerging clears the flag alone", _changed(unmerge=_clear_the_flag), 7,
              "unmerge resets self.merged and leaves the update in the weight: forward then adds it once more.",
              MERGING),
        Wrong("a second merge undoes the first", _changed(merge=_merge_or_undo), 7,
              "the second merge takes the update out again. On a merged layer, merge does nothing.", MERGING),
        Wrong("merging without the scaling", _changed(update=lambda c, self: self.lora_A @ self.lora_B.T), 6,
              "the merged update lacks the scaling: it is s A B^T, with self.scaling.", MERGING),
        Wrong("drawn from 0 up", _changed(start_A=_from_zero_up), 6,
              "A is drawn between 0 and the bound. It starts between minus the bound and plus the bound.", SIZE_OF_A),
        Wrong("normal numbers", _changed(start_A=_normal_A), 6,
              "A is drawn from a normal distribution, as in the paper. Here it is uniform, as in PEFT.", SIZE_OF_A),
        Wrong("drawn as (rank, d_in)", _changed(start_A=_drawn_transposed), 6,
              "A is drawn as (rank, d_in) and transposed: the numbers are in other places. Draw (d_in, rank).", SHAPES),
        Wrong("calls lora_edu", adapter_of_lora_edu, 0),
    ],
)  # fmt: skip

SOLUTIONS = {"1.3": ADAPTER}
