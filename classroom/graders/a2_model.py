"""Exercises 2.2, the injection by a rule, and 2.3, merging with a dial: right answers, and edits that are wrong."""

import re

from classroom.solutions import Answer, Solutions

BY_NAME, MERGING = (f"notebook 04, section {k}" for k in (2, 6))
PATTERN = (
    "and chosen_by_the_rule(path)] -> and (match := re.fullmatch("
    r'rf"(?:.*\.)?blocks\.(\d+)\.{c.part}\.(?:.*\.)?[^.]+", path)) and (int(match[1]) - c.first) % c.every == 0] & '
    "return chosen -> return tuple(chosen)"
)
KEYWORDS = (
    "setattr(model.get_submodule(parent), name, wrapper(modules[path], rank, alpha).train(model.training)) -> "
    "model.get_submodule(parent)._modules[name] = wrapper(modules[path], rank=rank, alpha=alpha).train(model.training)"
)
FREEZES, NONE_CHOSEN = "model.requires_grad_(False)", "if not chosen: -> if False:"

INJECT = Solutions(
    reference=Answer("a2_lora_torch", "inject", names={"re": re}),
    right={"a pattern": PATTERN, "by keywords": KEYWORDS},
    wrong=[
        ("no match is accepted", NONE_CHOSEN, 4),
        ("every block", "int(number) % c.every == c.first and -> ", 2),
        ("counted from 1", "int(number) -> (int(number) + 1)", 2,
         "this counts the blocks from 1. The number in the path counts from 0.", BY_NAME),
        ("the first digit", "int(number) -> int(number[0])", 3,
         "this reads one digit of the number, and takes block 10 for block 1. Split the path at its dots.", BY_NAME),
        ("a part of the name", "part == c.part -> c.part in path & parts[:-3] -> parts[:-2]", 2,
         "this looks for c.part anywhere in the path, and finds the gate, too. Compare whole names.", BY_NAME),
        ("path from the left", '"blocks" not in parts[:-3] -> parts[0] != "blocks" or len(parts) < 4', 4,
         "this reads the path from its left end. The model may sit inside another one: look for `blocks`.", BY_NAME),
        ("nothing frozen", f"{FREEZES} -> pass", 4),
        ("frozen too late", f"{FREEZES} -> pass & return chosen -> {FREEZES}; return chosen", 4),
        ("frozen too early", f"{FREEZES} -> pass & modules = dict -> {FREEZES}; modules = dict", 4),
        ("nothing refused", f"if any( -> if False and any( & {NONE_CHOSEN}", 4),
        ("around copies", "wrapper(modules[path], -> wrapper(copy.deepcopy(modules[path]),", 4),
        ("always in training mode", ".train(model.training) -> ", 4),
        ("returns nothing", "return chosen -> return", 2),
    ],
)  # fmt: skip


# --- 2.3 --------------------------------------------------------------------------------------------------------------


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
    right={
        "float64": f"{KEPT} -> {KEPT}.double() & {SUM} -> (layer.first_weight + strength * update).float()",
        "a buffer": BUFFER,
    },
    wrong=[
        ("adds each time", f"{SUM} -> layer.base.weight.float() + strength * update", 2),
        ("subtracts", f'if not hasattr(layer, "first_weight"):\n            {KEPT} -> '
         'before, layer.turned = getattr(layer, "turned", 0.0), strength & '
         f"{SUM} -> layer.base.weight.float() + (strength - before) * update", 3),
        ("once", f"{KEPT} -> {KEPT}\n        else:\n            return", 2),
        ("the update in 16 bits", IN_16_BITS, 3,
         "the update is rounded to the weight's dtype before it is added, so that it is rounded twice. Add in float32, "
         "round once.", MERGING),
        ("no scaling", "layer.scaling * ( -> (", 2, "layer.scaling is missing.", MERGING),
        ("reshaped", "(layer.down @ layer.up).T -> (layer.down @ layer.up).reshape(layer.base.weight.shape)", 2,
         "this reshapes the product where it has to be transposed: the numbers are in the wrong places.",
         "notebook 02, section 2, for the two orientations"),
        ("the base in float32", f"{TURN} -> {TURN}; layer.base.float()", 2),
        ("a new parameter", f"{TURN} -> "
         f"layer.base.weight = nn.Parameter(({SUM}).to({DTYPE}), requires_grad=False)", 3),
        ("the base trained", f"{TURN} -> {TURN}; layer.base.requires_grad_(True)", 3),
    ],
)  # fmt: skip
