"""What the checks of exercises 2.2 and 2.3 look at: the injection, and the merge."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.assignments.observing import Complaint, done
from lora_edu.assignments.plain_tensors import all_refused, bits, fine, near, refusal
from lora_edu.assignments.towers import Adapted, Inside, Probe, Tower, seeded
from lora_edu.assignments.verdict import ELSEWHERE

# --- 2.2: into a model ---

TOKENS = torch.tensor([[1, 2, 3, 10]])


def probes(model: nn.Module) -> dict[str, Probe]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Probe)}


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def inject(answer: Callable, c: Any, n, width, hidden, inside, training, rank, alpha, seed) -> dict:
    """What one injection of `Probe`s chooses and leaves alone, and what two others refuse."""

    def make(n_blocks: int = n) -> nn.Module:
        tower = seeded(seed, Tower, n_blocks, width, hidden)
        return (Inside(tower) if inside else tower).train(training)

    def run(model: nn.Module) -> Any:
        return done(answer(model, Probe, rank, alpha))

    @functools.cache
    def injected() -> tuple[nn.Module, Any, list, dict[str, nn.Module]]:
        """The model, what was returned, and from before: the output, and the modules by path."""
        model = make()
        output, modules = bits(model(TOKENS)), dict(model.named_modules())
        return model, run(model), output, modules

    def chosen() -> str:
        model, returned, *_ = injected()
        found = probes(model)
        if not found:
            return "no layer has an adapter: nothing was replaced in the model that was given"
        settings = sorted({f"rank {probe.rank}, alpha {probe.alpha:g}" for probe in found.values()})
        words = ", ".join(found) + " with " + " and ".join(settings)
        if list(returned) == list(found):
            return words
        paths = all(isinstance(path, str) for path in returned)
        return f"{words}; returned was {', '.join(returned) or 'nothing' if paths else 'something else than paths'}"

    def intact() -> list | str:
        """The output, or what is not as it was."""
        model, _, output, modules = injected()
        now = {path.replace(".base", ""): module for path, module in model.named_modules() if type(module) is not Probe}
        complaint = fine({
            "no adapter was put in": not probes(model),
            "other tensors are trained than the wrappers' own": trained(model) != [f"{p}.extra" for p in probes(model)],
            "the output changed": bits(model(TOKENS)) != output,
            "a layer was replaced by a copy": any(now.get(path) is not module for path, module in modules.items()),
            "an adapter is in another mode than the model": any(m.training != training for m in model.modules()),
        })  # fmt: skip
        return bits(model(TOKENS)) if complaint is True else complaint

    def refused() -> bool | str:  # the last part, because the model may have been injected twice after it
        nothing = make(0)  # and nothing that a rule with a mistake would choose: that is another part
        for path in ("pooler", "lm_head"):
            setattr(nothing, path, nn.Identity())
        models = {"a second injection": injected()[0], "a model without such layers": nothing}
        state = lambda model: [trained(model), list(probes(model))]  # noqa: E731
        return all_refused({what: refusal(run, model, state) for what, model in models.items()})

    if inside:  # an answer that finds nothing here loses this part, and no other
        return {"inside": chosen} | dict.fromkeys(("chosen", "intact", "refused"), ELSEWHERE)
    return {"chosen": chosen, "inside": ELSEWHERE, "intact": intact, "refused": refused}


# --- 2.3: merging with a dial ---


def dial(answer: Callable, c: Any, weight, down, up, scaling: float, strength: float, other: float) -> dict:
    """The weight after a turn of the dial, after more turns, back at zero, and in bfloat16."""

    def make(dtype: torch.dtype = torch.float32) -> Adapted:
        base = nn.Linear(*down.shape[:1], *up.shape[1:]).to(dtype)
        with torch.no_grad():
            base.weight.copy_(weight)
            base.bias.fill_(0.5)
        return Adapted(base, down.clone(), up.clone(), alpha=1.0, scaling=scaling)

    def turned(made: Adapted, *strengths: float) -> Tensor:
        before = made.base.weight.dtype
        for value in strengths:
            done(answer(made, value))
        if made.base.weight.dtype != before:
            raise Complaint(f"base.weight was {before}, and is {made.base.weight.dtype} after a turn")
        return made.base.weight.detach().clone()

    def weights() -> Any:
        made = make()
        before = {name: (tensor, bits(tensor)) for name, tensor in made.named_parameters()}
        result = turned(made, strength)
        complaints = {"base.weight is trained now": made.base.weight.requires_grad}
        now = dict(made.named_parameters(remove_duplicate=False))  # what is remembered may be base.weight itself
        for name, tensor in now.items():
            if name in before and name != "base.weight":
                complaints[f"{name} was changed"] = bits(tensor) != before[name][1]
        for name, (tensor, _) in before.items():
            complaints[f"{name} is another parameter now"] = now.get(name) is not tensor
        return result if fine(complaints) is True else fine(complaints)

    def again() -> bool | str:
        one, two = turned(make(), strength), turned(make(), other)
        return fine({
            "two strengths give the same weight": near(one, two),
            "the same strength twice is not the same as once": not near(turned(make(), strength, strength), one),
            "another strength depends on the one before": not near(turned(make(), strength, other), two),
        })  # fmt: skip

    def back() -> bool | str:
        wrong = {}
        for dtype in (torch.float32, torch.bfloat16):
            same = bits(turned(make(dtype), strength, other, 0.0)) == bits(weight)
            wrong[f"strength 0 does not give the weight back to the bit in {str(dtype)[6:]}"] = not same
        return fine(wrong | {"the weight does not change": bits(turned(make(), strength)) == bits(weight)})

    return {
        "weight": weights,
        "again": again,
        "back": back,
        "rounding": lambda: turned(make(torch.bfloat16), strength),
    }
