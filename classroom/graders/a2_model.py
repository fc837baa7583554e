"""Exercises 2.2, the injection by a rule, and 2.3, merging with a dial: right answers, and edits that are wrong."""

import re
import weakref

import torch
from torch import nn

from classroom.solutions import Answer, Solutions


def inject_block_by_block(c):
    def answer(model, wrapper, rank, alpha):
        if [module for module in model.modules() if isinstance(module, wrapper)]:
            raise ValueError("adapters are there")
        prefix, blocks = next((p, m) for p, m in model.named_modules() if p.rpartition(".")[-1] == "blocks")
        plan = []
        for number in range(c.first, len(blocks), c.every):
            part = blocks[number].get_submodule(c.part)
            for name, layer in part.named_modules():
                if isinstance(layer, nn.Linear):
                    plan.append((part, name, layer, f"{prefix}.{number}.{c.part}.{name}"))
        if not plan:
            raise ValueError("no such layer")
        model.requires_grad_(False)
        for part, name, layer, _ in plan:
            setattr(part, name, wrapper(layer, rank=rank, alpha=alpha).train(layer.training))
        return [path for *_, path in plan]

    return answer


BY_NAME, MERGING = (f"notebook 04, section {k}" for k in (2, 6))
REFUSALS = "notebook 04, section 5, on the checks of add_lora"
PATTERN = (
    "and chosen_by_the_rule(path)] -> and (match := re.fullmatch("
    r'rf"(?:.*\.)?blocks\.(\d+)\.{c.part}\.(?:.*\.)?[^.]+", path)) and (int(match[1]) - c.first) % c.every == 0] & '
    "return chosen -> return tuple(chosen)"
)
FREEZES, NONE_CHOSEN = "model.requires_grad_(False)", "if not chosen: -> if False:"

INJECT = Solutions(
    reference=Answer("a2_lora_torch", "inject", names={"re": re}),
    right={"a pattern": PATTERN, "block by block": inject_block_by_block},
    wrong=[
        ("no match is accepted", NONE_CHOSEN, 4),
        ("nothing is replaced", f"and chosen_by_the_rule(path) -> and False & {NONE_CHOSEN}", 0),
        ("every block", "int(number) % c.every == c.first and -> ", 2),
        ("counted from 1", "int(number) -> (int(number) + 1)", 2,
         "this counts the blocks from 1. The number in the path counts from 0.", BY_NAME),
        ("the first digit", "int(number) -> int(number[0])", 3,
         "this reads one digit of the number, and takes block 10 for block 1. Split the path at its dots.", BY_NAME),
        ("a part of the name", "part == c.part -> c.part in path & parts[:-3] -> parts[:-2]", 2,
         "this looks for c.part anywhere in the path, and finds the gate, too. Compare whole names.", BY_NAME),
        ("path from the left", '"blocks" not in parts[:-3] -> parts[0] != "blocks" or len(parts) < 4', 4,
         "this reads the path from its left end. The model may sit inside another one: look for `blocks`.", BY_NAME),
        ("outside the blocks", 'return False -> return "pooler" in parts and c.part in parts', 2),
        ("all linear layers", " and chosen_by_the_rule(path)] -> ]", 2),
        ("nothing frozen", f"{FREEZES} -> pass", 4),
        ("frozen too late", f"{FREEZES} -> pass & return chosen -> {FREEZES}; return chosen", 4),
        ("frozen too early", f"{FREEZES} -> pass & modules = dict -> {FREEZES}; modules = dict", 4,
         "a refused model comes back frozen. Look first whether all is well, change afterwards.", REFUSALS),
        ("nothing refused", f"if any( -> if False and any( & {NONE_CHOSEN}", 4),
        ("around copies", "wrapper(modules[path], -> wrapper(copy.deepcopy(modules[path]),", 4),
        ("always in training mode", ".train(model.training) -> ", 4,
         "a new module is in training mode, whatever the model is in: dropout would be active in a model that is "
         "being evaluated.", "notebook 04, section 2, replace_layer"),
        ("returns nothing", "return chosen -> return", 2),
    ],
)  # fmt: skip


# --- 2.3 --------------------------------------------------------------------------------------------------------------


def dial_with_a_dictionary(c):
    old = weakref.WeakKeyDictionary()

    def answer(layer, strength, *, verbose=False):
        weight = layer.base.weight
        kept = old.setdefault(layer, weight.detach().clone())
        change = torch.einsum("ir,ro->oi", layer.down.double(), layer.up.double()) * layer.scaling * strength
        weight.data.copy_((kept.double() + change).float())

    return answer


KEPT, SUM = "layer.first_weight = layer.base.weight.clone()", "layer.first_weight.float() + strength * update"
TURN, DTYPE = f"layer.base.weight.copy_({SUM})", "layer.base.weight.dtype"
BUFFER = (
    'hasattr(layer, "first_weight") -> "first_weight" in dict(layer.named_buffers()) & '
    f'{KEPT} -> layer.register_buffer("first_weight", layer.base.weight.detach().clone(), persistent=False) & '
    f"{TURN} -> layer.base.weight[:] = torch.addmm(layer.first_weight.float(), layer.up.T, layer.down.T, "
    f"alpha=strength * layer.scaling).to({DTYPE})"
)
IN_16_BITS = f"{SUM} -> layer.first_weight + (strength * update).to({DTYPE})"

DIAL = Solutions(
    reference=Answer("a2_lora_torch", "dial"),
    right={"a dictionary": dial_with_a_dictionary, "a buffer": BUFFER},
    wrong=[
        ("adds each time", f"{SUM} -> layer.base.weight.float() + strength * update", 2,
         "each turn adds to what the turn before left, so that two turns count twice. The dial needs the weight as it "
         "was at first: a clone, since a tensor that shares memory with the weight changes with it.", MERGING),
        ("subtracts", f'if not hasattr(layer, "first_weight"):\n            {KEPT} -> '
         'before, layer.turned = getattr(layer, "turned", 0.0), strength & '
         f"{SUM} -> layer.base.weight.float() + (strength - before) * update", 3,
         "this subtracts the old update. In 16 bits that does not give the old weight back: what was rounded away is "
         "gone. Keep a clone.", MERGING),
        ("once", f"{KEPT} -> {KEPT}\n        else:\n            return", 2,
         "after the first turn nothing moves any more. Merging once is right for `merge`; a dial turns.", MERGING),
        ("the update in 16 bits", IN_16_BITS, 3,
         "the update is rounded to the weight's dtype before it is added, so that it is rounded twice. Add in float32, "
         "round once.", MERGING),
        ("the product in 16 bits",
         f"(layer.down @ layer.up).T -> (layer.down.to({DTYPE}) @ layer.up.to({DTYPE})).T & {IN_16_BITS}", 3,
         "the product is computed in the weight's dtype. In bfloat16 that loses most: compute in float32.", MERGING),
        ("no scaling", "layer.scaling * ( -> (", 2, "layer.scaling is missing.", MERGING),
        ("strength ignored", "+ strength * -> +", 0),
        ("reshaped", "(layer.down @ layer.up).T -> (layer.down @ layer.up).reshape(layer.base.weight.shape)", 2,
         "this reshapes the product where it has to be transposed: the numbers are in the wrong places.",
         "notebook 02, section 2, for the two orientations"),
        ("the base in float32", f"{TURN} -> {TURN}; layer.base.float()", 2),
        ("a new parameter", f"{TURN} -> "
         f"layer.base.weight = nn.Parameter(({SUM}).to({DTYPE}), requires_grad=False)", 3,
         "base.weight is another parameter after the merge: an optimizer, or a layer that shares it, still holds the "
         "old one. Change its numbers with copy_.", "notebook 04, section 7, where adapters are switched by copying"),
        ("the base trained", f"{TURN} -> {TURN}; layer.base.requires_grad_(True)", 3),
    ],
)  # fmt: skip
