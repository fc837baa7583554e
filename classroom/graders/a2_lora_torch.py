"""Assignment 2: the right answers, and edits of the notebook's that are wrong, with the points that each keeps."""

import copy
import dataclasses
import re

from classroom.solutions import Answer, Solutions
from lora_edu import LoRALinear

# --- 2.1: the layer --------------------------------------------------------------------------------------------------

FREEZES, SCALING = "base.requires_grad_(False)", "alpha / rank**c.exponent"
DRAWN = "c.std * torch.randn(base.in_features, rank, generator=generator)"
ZEROS = "torch.zeros(rank, base.out_features)"
ZERO_DOWN = f"{DRAWN} -> torch.zeros(base.in_features, rank)"
DROPS, NEVER = "nn.Dropout(dropout)", 'c.dropout_after == "down" -> False & c.dropout_after == "up" -> False'
EINSUM = (
    'x @ self.down -> torch.einsum("...i,ir->...r", x, self.down) & '
    'self.scaling * (low @ self.up) -> torch.einsum("...r,ro->...o", self.scaling * low, self.up) & '
    f"{DRAWN} -> torch.normal(0.0, c.std, (base.in_features, rank), generator=generator)"
)
FUNCTIONAL = (
    "self.base(x) + change -> F.linear(x, self.base.weight, self.base.bias) + change & "
    f"x @ self.down -> F.linear(x, self.down.T) & {ZEROS} -> base.weight.new_zeros(rank, base.out_features) & "
    f"{DROPS} -> lambda x: F.dropout(x, dropout, self.training)"
)
GENERATOR = "generator = torch.Generator().manual_seed(seed)"

LINES, DROPOUT, START = "notebook 04, section 1", "notebook 04, section 5", "notebook 02, section 5"
OURS = "notebook 04, section 1, for the paper's; exercise 2.1 for this one"

LAYER = Solutions(
    reference=Answer("a2_lora_torch", "layer"),
    right={"functional": FUNCTIONAL, "einsum": EINSUM},
    wrong=[
        ("plain tensors", f"nn.Parameter({DRAWN}) -> ({DRAWN}).requires_grad_() & "
         f"nn.Parameter({ZEROS}) -> {ZEROS}.requires_grad_()", 7,
         "down and up are plain tensors: no optimizer finds them, and no file. Wrap them in nn.Parameter.", LINES),
        ("not frozen", f"{FREEZES} -> base", 7),
        ("both zero", ZERO_DOWN, 6,
         "both factors start at zero. Each one's gradient is multiplied by the other: nothing would ever move.", START),
        ("only up", "generator=generator)) -> generator=generator), requires_grad=False)", 7),
        ("alpha / rank", f"{SCALING} -> alpha / rank", 6,
         "the branch is scaled by alpha / rank. Here the rank has an exponent, as in exercise 2.1.", OURS),
        ("transposed", "torch.randn(base.in_features, rank, -> torch.randn(rank, base.in_features, & "
         f"{ZEROS} -> torch.zeros(base.out_features, rank) & x @ self.down -> x @ self.down.T & "
         "low @ self.up -> low @ self.up.T", 5,
         "the factors are (rank, in) and (out, rank), as in the notebook. Here down is (in, rank), up (rank, out).",
         "notebook 02, section 2, for the two orientations"),
        ("dropout on the base", "self.base(x) -> self.base(self.dropout(x))", 7,
         "dropout is on the path of the base as well. It belongs to the branch: the base must see the whole x.",
         DROPOUT),
        ("dropout in evaluation", f"{DROPS} -> lambda x: F.dropout(x, dropout)", 5),
        ("dropout on the input", f"{NEVER} & low = x @ -> low = self.dropout(x) @", 7,
         "dropout acts on the input of the branch, as in the notebook. Here it acts after c.dropout_after.", DROPOUT),
        ("dropout at the other factor", 'after == "down" -> after != "down" & after == "up" -> after != "up"', 7),
        ("dropout does not rescale", f"{DROPS} -> "
         "lambda x: x * (torch.rand_like(x) >= dropout) if self.training else x", 7),
        ("product formed", "low = x @ -> if not self.training:\n"
         "            return self.base(x) + x @ (self.scaling * self.down @ self.up)\n        low = x @", 7),
        ("base without gradient", "self.base(x) + -> self.base(x).detach() +", 7),
        ("bias forgotten", "self.base(x) -> F.linear(x, self.base.weight)", 5,
         "the bias of the base is missing: call the base itself.", LINES),
        ("update alone", "self.base(x) + change -> change", 4,
         "this is the branch alone. Add it to what the base computes.", LINES),
        ("changes its input", "low = x @ -> y = self.base(x); x *= self.scaling; low = x @ & "
         "self.scaling * (low -> (low & return self.base(x) + -> return y +", 4),
        ("global seed", f"{GENERATOR} -> generator = None; torch.manual_seed(seed)", 7,
         "this moves the random numbers of everybody else: it sets torch's seed, or draws with it, as nn.Linear does "
         "when it is built. Use a generator of your own, torch.Generator.",
         "notebook 02, section 3, where a generator is passed on"),
        ("around a copy", f"{FREEZES} -> copy.deepcopy(base).requires_grad_(False)", 6),
        ("calls lora_edu", lambda c: lambda *case: LoRALinear(*case[:-1]), 0),
    ],
)  # fmt: skip


# --- 2.2: the injection by a rule ------------------------------------------------------------------------------------

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


# --- 2.3: merging with a dial ----------------------------------------------------------------------------------------

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


# --- 2.4: all of a file or nothing -----------------------------------------------------------------------------------

TEXT = "exercise 2.4"
COPY, SHAPES = "slot.copy_(tensors[name])", "tensors[name].shape != slot.shape"
EACH = "for name, slot in slots.items():\n"
STATE_DICT = (
    f"{EACH}            {COPY} -> model.load_state_dict({{f'{{p}}.{{f}}': tensors[c.key.format(path=p, factor=f)] "
    "for p in layers for f in ('down', 'up')}, strict=False)"
)
WAY_BACK = (  # loads first, and puts everything back if something does not fit
    "def load_adapter(model, path): -> def at_once(model, path): & "
    f"{COPY} -> {COPY}\n\n\ndef load_adapter(model, path):\n    kept = copy.deepcopy(model.state_dict())\n"
    "    try:\n        at_once(model, path)\n    except (KeyError, RuntimeError, ValueError) as error:\n"
    '        model.load_state_dict(kept)\n        raise ValueError("the file does not fit") from error & '
    "if tensors.keys() != -> with torch.no_grad():\n"
    f"        [{COPY} for name, slot in slots.items()]\n    if tensors.keys() != "
)

FILE = Solutions(
    reference=Answer("a2_lora_torch", "adapter_file", names={"copy": copy}),
    right={"a state dict": STATE_DICT, "a way back": WAY_BACK},
    wrong=[
        ("not strict", f"tensors.keys() != slots.keys() -> False & {EACH}        if -> "
         f"slots = {{name: slot for name, slot in slots.items() if name in tensors}}\n    {EACH}        if", 1),
        ("shapes not compared", f"{SHAPES} -> False", 1),
        ("sizes compared", f"{SHAPES} -> tensors[name].numel() != slot.numel() & "
         f"{COPY} -> slot.copy_(tensors[name].reshape(slot.shape))", 1,
         "the number of entries is compared, and not the shape: a factor whose rows and columns are exchanged is "
         "reshaped into other numbers.", TEXT),
        ("alpha not compared", "layer.alpha != alpha -> False", 1),
        ("new parameters", f"{EACH}            {COPY} -> for p, m in layers.items():\n"
         '            for f in ("down", "up"):\n'
         "                setattr(m, f, nn.Parameter(tensors[c.key.format(path=p, factor=f)].float()))", 2),
        ("left in 16 bits", f"{COPY} -> slot.data = tensors[name]", 2),
    ],
)  # fmt: skip


# --- 2.5: a run that trains, and is wrong ----------------------------------------------------------------------------

FROZEN, TRAP, TEXT = "notebook 04, section 3", "notebook 08, section 6", "exercise 2.5"
GIVES = "return tensors, layers, verdict"
KIND, FREEZES, END = "run.reentrant = False", "run.model.requires_grad_(False)", "requires_grad_(True)"
HOOK = (
    f"{KIND} -> run.model.token_embedding.register_forward_hook(lambda module, inputs, y: y.requires_grad_()) & "
    f"{GIVES} -> return [tensors, {{path: torch.tensor(pair) for path, pair in layers.items()}}, verdict]"
)
COPY = (
    "def repair(run): -> def repair(run):\n    run = copy.deepcopy(run) & "
    f"{END} -> {END}\n    return dataclasses.replace(run, optimized=sorted(run.optimized))"
)
WANTED = 'run.optimized = [f"{path} -> wanted = [f"{path} & for name in run.optimized: -> '

RUNS = Solutions(
    reference=Answer("a2_lora_torch", "diagnosis", names={"dataclasses": dataclasses}),
    right={"a hook": HOOK, "a repaired copy": COPY},
    wrong=[
        ("weights alone",
         f"{GIVES} -> return {{n: v * n.endswith('weight') for n, v in tensors.items()}}, layers, verdict", 7,
         "only tensors named weight are measured. A bias can be forgotten when freezing, too.", FROZEN),
        ("who asks, moves", "if distance > 0 -> if run.model.get_parameter(name).requires_grad", 6,
         "a tensor that asks for a gradient is called moved. No optimizer knows it: measure.", FROZEN),
        ("no cause", '"not stepped" if gradient > 0 else -> ', 6,
         "every layer that learned nothing is said to get no gradient. To some it came.", TRAP),
        ("the gradient at the end", "fresh.loss().backward()\n    trained.train() -> trained.train()\n"
         "    fresh = copy.deepcopy(trained)\n    fresh.model.zero_grad()\n    fresh.loss().backward()", 7,
         "the gradients are those of the last step. Those of the first are asked for: before anything moved.", TEXT),
        ("trains the run itself", f"{GIVES} -> run.loss().backward(); run.train(); {GIVES}", 7),
        ("reentrant still", f"{KIND} -> pass", 6,
         "after your repair some layers get no gradient: their blocks are checkpointed by the reentrant kind, and "
         "nothing before them asks for a gradient.", TRAP),
        ("not in the optimizer", f"{WANTED}run.optimized = [name for name in run.optimized if name in wanted]\n"
         "    for name in wanted:", 6),
        ("base not frozen", f"{WANTED}run.optimized += [name for name in wanted if name not in run.optimized]\n"
         f"    for name in wanted: & {FREEZES} -> pass", 7),
        ("frozen altogether", f"{END} -> requires_grad_(False)", 5),
        ("trained by the repair", f"{END} -> {END}\n    run.train()", 5),
        ("up alone", 'for factor in ("down", "up") -> for factor in ("up",)', 6),
        ("another rate", f"{KIND} -> run.reentrant, run.rate = False, run.rate / 2", 5),
    ],
)  # fmt: skip


SOLUTIONS = {"2.1": LAYER, "2.2": INJECT, "2.3": DIAL, "2.4": FILE, "2.5": RUNS}
