"""What the check of exercise 2.4 looks at: how a file is loaded."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.assignments.observing import done
from lora_edu.assignments.plain_tensors import all_bits, all_refused, bits, fine, flat, numbers, refusal
from lora_edu.assignments.towers import Adapted, Tree, adapter_tensors, seeded


def adapter_file(answer: Callable, c: Any, rank: int, alpha: float, paths: list[str], seed: int) -> dict:
    """What `answer(model, path)` loads from a file, and which files it refuses."""

    def make(seed: int = seed, alpha: float = alpha) -> nn.Module:
        rng, layers = np.random.default_rng(seed), {}
        for number, path in enumerate(paths):
            n_in, n_out = 4 + number, 7 - number
            base = nn.Linear(n_in, n_out)
            layers[path] = Adapted(base, numbers(rng, n_in, rank), numbers(rng, rank, n_out), alpha)
        return seeded(seed, Tree, layers)

    saved = adapter_tensors(make(), c)

    def load(model: nn.Module, tensors: dict[str, Tensor] = saved) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            save_file(tensors, path, {"rank": str(rank), "alpha": str(alpha)})
            done(answer(model, path))

    def loads() -> list[float] | str:
        """The sum of each factor that was loaded, or what is wrong."""
        source, model = make(), make(seed + 1)
        kept, base = dict(model.named_parameters()), all_bits(model)
        load(model)
        wanted, now = dict(source.named_parameters()), dict(model.named_parameters())
        mine = [f"{path}.{factor}" for path in paths for factor in ("down", "up")]
        far = [n for n in mine if not _rounded(now[n], wanted[n])]
        complaint = fine({
            f"{(far or [''])[0]} is not what was saved": bool(far),
            "a factor is not float32 any more": any(now[n].dtype != torch.float32 for n in mine),
            "a factor is another parameter now, which no optimizer knows": any(now[n] is not kept[n] for n in mine),
            "other tensors were changed": any(bits(now[n]) != base[n] for n in now if n not in mine),
        })  # fmt: skip
        return [sum(flat(now[n])) for n in mine] if complaint is True else complaint

    def refuses() -> float | str:
        """The sum of the numbers that a file that fits replaced, or what was not refused."""
        model = make(seed + 1)
        before, fits = all_bits(model), refusal(load, model)
        replaced = [sum(flat(torch.tensor(before[n]))) for n, now in all_bits(model).items() if now != before[n]]
        if fits != "no ValueError" or not replaced:
            return f"of a file that fits, nothing is loaded ({fits}). Who loads nothing need not refuse anything"
        files = {what: functools.partial(load, tensors=tensors) for what, tensors in _damages(saved).items()}
        said = {what: refusal(loading, make(seed + 1)) for what, loading in files.items()}
        complaint = all_refused(said | {"a model with another alpha": refusal(load, make(seed + 1, alpha + 1))})
        return sum(replaced) if complaint is True else complaint

    return {"loads": loads, "refuses": refuses}


def _rounded(got: Tensor, saved: Tensor) -> bool:
    """Whether a factor is what was saved, up to the rounding of 16 bits."""
    pairs = zip(flat(got), flat(saved), strict=True)
    return got.shape == saved.shape and all(abs(g - s) <= 0.01 * abs(s) + 1e-4 for g, s in pairs)


def _damages(tensors: dict[str, Tensor]) -> dict[str, dict]:
    """Files that do not fit, by what is wrong with them."""
    first, *_, last = sorted(tensors)
    other = {name: tensor for name, tensor in tensors.items() if name != last}
    short = {name: {**tensors, name: tensors[name][:1].clone()} for name in (first, last)}
    turned = {**tensors, last: tensors[last].T.contiguous()}
    return {
        "a tensor is missing": other,
        "a tensor too many": {**tensors, "unknown": tensors[last].clone()},
        "one row where more belong": short[first],
        "one row where more belong, in another tensor": short[last],
        "rows and columns exchanged": turned,
    }
