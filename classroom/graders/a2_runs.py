"""Exercises 2.4, all of a file or nothing, and 2.5, a run that trains and is wrong: right answers, and wrong edits."""

import copy
import dataclasses

import torch
from safetensors.torch import load_file

from classroom.solutions import Answer, Solutions
from lora_course.assignments.towers import Adapted

LOAD = Answer("a2_lora_torch", "adapter_file")


def with_a_way_back(c):
    """Loads first, and puts everything back if something does not fit."""
    careful = LOAD(c)

    @torch.no_grad()
    def answer(model, path):
        kept, tensors = copy.deepcopy(model.state_dict()), load_file(path)
        try:
            for where, layer in model.named_modules():
                for factor in ("down", "up") if isinstance(layer, Adapted) else ():
                    getattr(layer, factor).copy_(tensors[c.key.format(path=where, factor=factor)])
            careful(model, path)
        except (KeyError, RuntimeError, ValueError) as error:
            model.load_state_dict(kept)
            raise ValueError("the file does not fit") from error

    return answer


TEXT = "exercise 2.4"
COPY, SHAPES = "slot.copy_(tensors[name])", "tensors[name].shape != slot.shape"
EACH = "for name, slot in slots.items():\n"
STATE_DICT = (
    f"{EACH}            {COPY} -> model.load_state_dict({{f'{{p}}.{{f}}': tensors[c.key.format(path=p, factor=f)] "
    "for p in layers for f in ('down', 'up')}, strict=False)"
)

FILE = Solutions(
    reference=LOAD,
    right={"a state dict": STATE_DICT, "a way back": with_a_way_back},
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


# --- 2.5 --------------------------------------------------------------------------------------------------------------


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
