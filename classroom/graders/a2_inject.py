"""Exercise 2.2, the injection by a rule: right and wrong answers."""

import copy
import re

from torch import nn

from classroom.solutions import Solutions, Wrong


def inject(c):
    def answer(model, wrapper, rank, alpha):
        if any(isinstance(module, wrapper) for module in model.modules()):
            raise ValueError("this model has adapters already")
        chosen = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear) and follows(c, path)]
        if not chosen:
            raise ValueError(f"no linear layer lies in {c.part} of such a block")
        model.requires_grad_(False)
        for path in chosen:
            put(model, path, wrapper(model.get_submodule(path), rank, alpha).train(model.training))
        return chosen

    return answer


def follows(c, path):
    """Whether the cohort's rule chooses this path."""
    parts = path.split(".")
    if "blocks" not in parts[:-3]:
        return False
    place = parts.index("blocks")
    return int(parts[place + 1]) % c.every == c.first and parts[place + 2] == c.part


def put(model, path, layer):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def inject_by_pattern(c):
    def answer(model, wrapper, rank, alpha, verbose=False):
        pattern = re.compile(rf"(?:.*\.)?blocks\.(\d+)\.{c.part}\.(?:.*\.)?[^.]+")
        named = dict(model.named_modules())
        found = {path: pattern.fullmatch(path) for path, layer in named.items() if type(layer) is nn.Linear}
        chosen = {
            path: named[path] for path, match in found.items() if match and (int(match[1]) - c.first) % c.every == 0
        }
        if not chosen or {wrapper} & {type(module) for module in named.values()}:
            raise ValueError("nothing to do, or done already")
        for parameter in model.parameters():
            parameter.requires_grad = False
        for path, layer in chosen.items():
            new = wrapper(layer, rank, alpha)
            new.training = model.training
            put(model, path, new)
        return tuple(chosen)

    return answer


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
            put(part, name, wrapper(layer, rank=rank, alpha=alpha).train(layer.training))
        return [path for *_, path in plan]

    return answer


def injected(rule=None, freeze="all", wrap="layer", refuse=True, mode=True, returns=True, candidates=nn.Linear):
    """An injection with mistakes. rule: (c, path) -> whether the layer is chosen."""

    def make(c):
        def answer(model, wrapper, rank, alpha):
            if freeze == "too early":
                model.requires_grad_(False)
            if refuse and any(isinstance(module, wrapper) for module in model.modules()):
                raise ValueError("twice")
            chosen = [
                path
                for path, layer in model.named_modules()
                if isinstance(layer, candidates) and (rule or follows)(c, path)
            ]
            if refuse is True and not chosen:
                raise ValueError("nothing")
            if freeze == "all":
                model.requires_grad_(False)
            for path in chosen:
                layer = model.get_submodule(path)
                new = wrapper(copy.deepcopy(layer) if wrap == "copy" else layer, rank, alpha)
                put(model, path, new.train(model.training) if mode else new)
            if freeze == "too late":
                model.requires_grad_(False)
            return chosen if returns else None

        return answer

    return make


def _blocks(c, path, number=lambda digits: int(digits)):
    match = re.fullmatch(r"(?:.*\.)?blocks\.(\d+)\.(.+)", path)
    return match and number(match[1]) % c.every == c.first and match[2].split(".")[0] == c.part


RULES = {
    "every block": lambda c, path: re.search(rf"blocks\.\d+\.{c.part}\.", path),
    "counted from 1": lambda c, path: _blocks(c, path, lambda digits: int(digits) + 1),
    "the first digit": lambda c, path: _blocks(c, path, lambda digits: int(digits[0])),
    "a part of the name": lambda c, path: (
        (match := re.search(r"blocks\.(\d+)\.(.+)", path)) and int(match[1]) % c.every == c.first and c.part in match[2]
    ),
    "outside the blocks": lambda c, path: follows(c, path) or f"pooler.{c.part}" in path,
    "all linear layers": lambda c, path: True,
    "path from the left": lambda c, path: (
        (parts := path.split("."))[0] == "blocks" and int(parts[1]) % c.every == c.first and parts[2] == c.part
    ),
}


BY_NAME = "notebook 04, section 2"
PROMISES = "notebook 04, section 3"
REFUSALS = "notebook 04, section 5, on the checks of add_lora"

INJECT = Solutions(
    reference=inject,
    right={"a pattern": inject_by_pattern, "block by block": inject_block_by_block},
    wrong=[
        Wrong("no match is accepted", injected(refuse="twice"), 4,
              "a model in which the rule chooses nothing is not refused.", REFUSALS),
        Wrong("nothing is replaced", injected(rule=lambda c, path: False, refuse=False), 0,
              "no layer has an adapter: nothing was replaced in the model that was given.", BY_NAME),
        Wrong("every block", injected(RULES["every block"]), 2,
              "this adapts every block. Only those with i % c.every == c.first are meant.",
              "notebook 04, section 2, and the rule of the exercise"),
        Wrong("counted from 1", injected(RULES["counted from 1"]), 2,
              "this counts the blocks from 1. The number in the path counts from 0.", BY_NAME),
        Wrong("the first digit", injected(RULES["the first digit"]), 3,
              "this reads one digit of the number, and takes block 10 for block 1. Split the path at its dots.",
              BY_NAME),
        Wrong("a part of the name", injected(RULES["a part of the name"]), 2,
              "this looks for c.part anywhere in the path, and finds the gate, too. Compare whole names.", BY_NAME),
        Wrong("path from the left", injected(RULES["path from the left"]), 4,
              "this reads the path from its left end. The model may sit inside another one: look for `blocks`.",
              BY_NAME),
        Wrong("outside the blocks", injected(RULES["outside the blocks"]), 2,
              "this adapts the pooler, too: it has parts of the same names, but it is not in `blocks`.",
              "notebook 04, section 2, and the rule of the exercise"),
        Wrong("all linear layers", injected(RULES["all linear layers"]), 2,
              "this adapts every linear layer, the head included.", BY_NAME),
        Wrong("norms, too", injected(candidates=(nn.Linear, nn.LayerNorm)), 2,
              "this adapts the norms as well. Only linear layers get an adapter.", BY_NAME),
        Wrong("nothing frozen", injected(freeze="nothing"), 4,
              "trained are not exactly the wrappers' own parameters. Freeze the model with the line that is given, and "
              "put the wrappers in afterwards.", PROMISES),
        Wrong("frozen too late", injected(freeze="too late"), 4),
        Wrong("frozen too early", injected(freeze="too early"), 4,
              "a refused model comes back frozen. Look first whether all is well, change afterwards.", REFUSALS),
        Wrong("nothing refused", injected(refuse=False), 4,
              "nothing is refused: injected twice, an adapter gets an adapter; without a match, none is there.",
              REFUSALS),
        Wrong("around copies", injected(wrap="copy"), 4,
              "this wraps copies of the layers. Wrap the layers that are there.", BY_NAME),
        Wrong("always in training mode", injected(mode=False), 4,
              "a new module is in training mode, whatever the model is in: dropout would be active in a model that "
              "is being evaluated.", "notebook 04, section 2, replace_layer"),
        Wrong("returns nothing", injected(returns=False), 2,
              "the adapters are in place; the list of their paths is not returned.",
              "notebook 04, section 2, where inject returns them"),
    ],
)  # fmt: skip
