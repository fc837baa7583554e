"""Exercise 2.3, merging with a dial: right and wrong answers."""

import weakref

import torch
from torch import nn

from classroom.solutions import Solutions, Wrong


def _change(layer):
    return layer.scaling * (layer.down @ layer.up).T


def dial_with(change=_change, dtype=torch.float32, strength=lambda s: s):
    """The dial; or with another update, computed in another dtype, or with another strength."""

    @torch.no_grad()
    def answer(layer, value):
        if not hasattr(layer, "kept"):
            layer.kept = layer.base.weight.clone()
        own = layer.kept.dtype if dtype is None else dtype
        layer.base.weight.copy_(layer.kept.to(own) + (strength(value) * change(layer)).to(own))  # rounded once

    return lambda c: answer


dial = dial_with()


def dial_with_a_dictionary(c):
    old = weakref.WeakKeyDictionary()

    def answer(layer, strength, *, verbose=False):
        weight = layer.base.weight
        kept = old.setdefault(layer, weight.detach().clone())
        change = torch.einsum("ir,ro->oi", layer.down.double(), layer.up.double()) * layer.scaling * strength
        weight.data.copy_((kept.double() + change).float())

    return answer


def dial_with_a_buffer(c):
    def answer(layer, strength):
        if "before" not in dict(layer.named_buffers()):
            layer.register_buffer("before", layer.base.weight.data.detach().clone(), persistent=False)
        with torch.no_grad():
            new = torch.addmm(layer.before.float(), layer.up.T, layer.down.T, alpha=strength * layer.scaling)
            layer.base.weight[:] = new.to(layer.before.dtype)
        return layer

    return answer


@torch.no_grad()
def dial_adds(layer, strength):
    layer.base.weight.copy_(layer.base.weight.float() + strength * _change(layer))


@torch.no_grad()
def dial_subtracts(layer, strength):
    before = getattr(layer, "strength", 0.0)
    layer.base.weight.copy_(layer.base.weight.float() + (strength - before) * _change(layer))
    layer.strength = strength


@torch.no_grad()
def dial_once(layer, strength):
    if not getattr(layer, "merged", False):
        layer.base.weight.copy_(layer.base.weight.float() + strength * _change(layer))
        layer.merged = True


def product_in_the_weights_dtype(layer):
    dtype = layer.base.weight.dtype
    return layer.scaling * (layer.down.to(dtype) @ layer.up.to(dtype)).T


def dial_then(last):
    """The dial, and something after each turn."""

    def make(c):
        return lambda layer, strength: (dial(c)(layer, strength), last(layer.base))

    return make


def renew(base):
    base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)


def dial_wrong(name, answer, keeps, sentence=None, see=None):
    return Wrong(name, lambda c: answer, keeps, sentence, see)


MERGING = "notebook 04, section 6"

DIAL = Solutions(
    reference=dial,
    right={"a dictionary": dial_with_a_dictionary, "a buffer": dial_with_a_buffer},
    wrong=[
        dial_wrong("adds each time", dial_adds, 2,
                   "each turn adds to what the turn before left, so that two turns count twice. The dial needs the "
                   "weight as it was at first: a clone, since a tensor that shares memory with the weight changes "
                   "with it.", MERGING),
        dial_wrong("subtracts", dial_subtracts, 3,
                   "this subtracts the old update. In 16 bits that does not give the old weight back: what was "
                   "rounded away is gone. Keep a clone.", MERGING),
        dial_wrong("once", dial_once, 2,
                   "after the first turn nothing moves any more. Merging once is right for `merge`; a dial turns.",
                   MERGING),
        Wrong("the update in 16 bits", dial_with(dtype=None), 3,
              "the update is rounded to the weight's dtype before it is added, so that it is rounded twice. Add in "
              "float32, round once.", MERGING),
        Wrong("the product in 16 bits", dial_with(product_in_the_weights_dtype, dtype=None), 3,
              "the product is computed in the weight's dtype. In bfloat16 that loses most: compute in float32.",
              MERGING),
        Wrong("no scaling", dial_with(lambda layer: (layer.down @ layer.up).T), 2,
              "layer.scaling is missing.", MERGING),
        Wrong("strength ignored", dial_with(strength=lambda value: 1.0), 0,
              "the strength has no effect: the update is added in full, or at strength 0, too.",
              "notebook 04, section 6, where updates of several sizes are merged"),
        Wrong("reshaped",
              dial_with(lambda layer: layer.scaling * (layer.down @ layer.up).reshape(layer.base.weight.shape)), 2,
              "this reshapes the product where it has to be transposed: the numbers are in the wrong places.",
              "notebook 02, section 2, for the two orientations"),
        Wrong("the base in float32", dial_then(lambda base: base.float()), 2,
              "a base in bfloat16 is float32 after a turn. copy_ keeps the dtype, and rounds once.", MERGING),
        Wrong("a new parameter", dial_then(renew), 3,
                   "base.weight is another parameter after the merge: an optimizer, or a layer that shares it, still "
                   "holds the old one. Change its numbers with copy_.",
                   "notebook 04, section 7, where adapters are switched by copying"),
        Wrong("the base trained", dial_then(lambda base: base.requires_grad_(True)), 3,
                   "base.weight asks for a gradient after the merge. It stays frozen.", "notebook 04, section 3"),
    ],
)  # fmt: skip
