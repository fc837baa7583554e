"""What the checks of exercises 2.2 to 2.4 look at: the injection, the merge, and a file that is loaded."""

import functools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_course.assignments.looking import Complaint, done
from lora_course.assignments.plain_tensors import all_bits, all_refused, bits, fine, flat, near, numbers, refusal
from lora_course.assignments.towers import Adapted, Inside, Probe, Tower, adapter_tensors, seeded
from lora_course.assignments.verdict import ELSEWHERE

# --- 2.2: into a model ---

TOKENS = torch.tensor([[1, 2, 3, 10]])


def probes(model: nn.Module) -> dict[str, Probe]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Probe)}


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def all_layers(c: Any, n, width, hidden, inside, *others) -> dict[str, str]:
    """What a rule would choose that chooses every linear layer."""
    tower = Tower(n, width, hidden)
    model = Inside(tower) if inside else tower
    paths = ", ".join(path for path, module in model.named_modules() if isinstance(module, nn.Linear))
    return {"inside" if inside else "chosen": paths}


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
        listed = list(returned) if isinstance(returned, Iterable) else [] if returned is None else [returned]
        if not found:
            return "no layer has an adapter: nothing was replaced in the model that was given"
        settings = sorted({f"rank {probe.rank}, alpha {probe.alpha:g}" for probe in found.values()})
        words = ", ".join(found) + " with " + " and ".join(settings)
        if listed == list(found):
            return words
        if sorted(map(str, listed)) == sorted(found):
            return f"{words}; returned were the same paths in another order than that of named_modules"
        paths = all(isinstance(path, str) for path in listed)
        return f"{words}; returned was {', '.join(listed) or 'nothing' if paths else 'something else than paths'}"

    def intact() -> list:
        model, _, output, modules = injected()
        now = {path.replace(".base", ""): module for path, module in model.named_modules() if type(module) is not Probe}
        fine({
            "no adapter was put in": not probes(model),
            "other tensors are trained than the wrappers' own": trained(model) != [f"{p}.extra" for p in probes(model)],
            "the output changed": bits(model(TOKENS)) != output,
            "a layer was replaced by a copy": any(now.get(path) is not module for path, module in modules.items()),
            "an adapter is in another mode than the model": any(m.training != training for m in model.modules()),
        })  # fmt: skip
        return output

    def refused() -> bool:  # the last part, because the model may have been injected twice after it
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
        fine(complaints, result)
        return result

    def again() -> bool:
        one, two = turned(make(), strength), turned(make(), other)
        return fine({
            "two strengths give the same weight": near(one, two),
            "the same strength twice is not the same as once": not near(turned(make(), strength, strength), one),
            "another strength depends on the one before": not near(turned(make(), strength, other), two),
        })  # fmt: skip

    def back() -> bool:
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


# --- 2.4: all of a file, or nothing ---


def adapter_file(answer: Callable, c: Any, rank: int, alpha: float, paths: list[str], seed: int) -> dict:
    """What `answer(model, path)` loads from a file, and which files it refuses."""

    def make(seed: int = seed, alpha: float = alpha) -> nn.Module:
        rng, tower = np.random.default_rng(seed), seeded(seed, Tower, 3, 3, 4)
        for number, path in enumerate(paths):
            n_in, n_out = 4 + number, 7 - number
            layer = Adapted(nn.Linear(n_in, n_out), numbers(rng, n_in, rank), numbers(rng, rank, n_out), alpha)
            tower.get_submodule(path.rpartition(".")[0]).add_module(path.rpartition(".")[2], layer)
        return tower

    saved = adapter_tensors(make(), c)

    def load(model: nn.Module, tensors: dict[str, Tensor] = saved) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            save_file(tensors, path, {"rank": str(rank), "alpha": str(alpha)})
            done(answer(model, path))

    def loads() -> list[float]:
        """The sum of each factor that was loaded."""
        source, model = make(), make(seed + 1)
        kept, base = dict(model.named_parameters()), all_bits(model)
        load(model)
        wanted, now = dict(source.named_parameters()), dict(model.named_parameters())
        mine = [f"{path}.{factor}" for path in paths for factor in ("down", "up")]
        far = [n for n in mine if not _rounded(now[n], wanted[n])]
        fine({
            f"{(far or [''])[0]} is not what was saved": bool(far),
            "a factor is not float32 any more": any(now[n].dtype != torch.float32 for n in mine),
            "a factor is another parameter now, which no optimizer knows": any(now[n] is not kept[n] for n in mine),
            "other tensors were changed": any(bits(now[n]) != base[n] for n in now if n not in mine),
        })  # fmt: skip
        return [sum(flat(now[n])) for n in mine]

    def refuses() -> list[float]:
        """Of each file of a pile the sum of the numbers that it replaced: 0 for one that is refused."""
        model = make(seed + 1)
        before, fits = all_bits(model), refusal(load, model)
        if fits != "no ValueError" or all_bits(model) == before:
            raise Complaint(
                f"of a file that fits, nothing is loaded ({fits}). Who loads nothing need not refuse anything"
            )
        files = _damages(saved)
        pile: list[tuple[str, dict, float]] = [(what, tensors, alpha) for what, tensors in files.items()]
        pile += [("a model with another alpha", saved, alpha + 1)]
        pile += [("", adapter_tensors(make(seed + k), c), alpha) for k in range(2, len(pile) + 2)]
        said, sums = {}, [0.0] * len(pile)
        for place, (what, tensors, other) in zip(np.random.default_rng(seed).permutation(len(pile)), pile, strict=True):
            model = make(seed + 1, other)
            before, said[what] = all_bits(model), refusal(functools.partial(load, tensors=tensors), model)
            replaced = [torch.tensor(now).sum() for name, now in all_bits(model).items() if now != before[name]]
            sums[place] = float(sum(replaced))
        del said[""]  # those that fit: whether they are loaded right is another part
        all_refused(said, sums)
        return sums

    return {"loads": loads, "refuses": refuses}


def _rounded(got: Tensor, saved: Tensor) -> bool:
    """Whether a factor is what was saved, up to the rounding of 16 bits."""
    pairs = zip(flat(got), flat(saved), strict=True)
    return got.shape == saved.shape and all(abs(g - s) <= 0.01 * abs(s) + 1e-4 for g, s in pairs)


def _damages(tensors: dict[str, Tensor]) -> dict[str, dict]:
    """Files that do not fit, by what is wrong with them."""
    first, *_, last = sorted(tensors)
    return {
        "a tensor is missing": {name: tensor for name, tensor in tensors.items() if name != last},
        "a tensor too many": {**tensors, "unknown": tensors[last].clone()},
        "one row where more belong": {**tensors, first: tensors[first][:1].clone()},
        "one row where more belong, in another tensor": {**tensors, last: tensors[last][:1].clone()},
        "rows and columns exchanged": {**tensors, last: tensors[last].T.contiguous()},
    }
