"""What the check of exercise 2.4 looks at: the file."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.assignments.observing import done
from lora_edu.assignments.plain_tensors import all_bits, all_refused, bits, fine, flat, numbers, refusal
from lora_edu.assignments.towers import Adapted, Tree, seeded

FACTORS = ("down", "up")


def adapter_file(
    answer: tuple[Callable, Callable], c: Any, rank: int, alpha: float, paths: list[str], seed: int
) -> dict:
    """What `save` writes, what `load` reads from it, and what it refuses. answer: (save, load)"""
    save, load = answer

    def make(seed: int = seed, alpha: float = alpha) -> nn.Module:
        rng, layers = np.random.default_rng(seed), {}
        for number, path in enumerate(paths):
            n_in, n_out = 4 + number, 7 - number
            base = nn.Linear(n_in, n_out)
            layers[path] = Adapted(base, numbers(rng, n_in, rank), numbers(rng, rank, n_out), alpha)
        return seeded(seed, Tree, layers)

    @functools.cache
    def written() -> tuple[bytes, dict, dict]:
        """What `save` makes of a model: the bytes of the file, its tensors, its metadata."""
        model = make()
        before = all_bits(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            done(save(model, path))
            if all_bits(model) != before:
                raise RuntimeError("saving changed the model")
            with safe_open(path, "pt") as file:
                tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
            return path.read_bytes(), tensors, metadata

    def keys() -> str:
        _, tensors, metadata = written()
        words = ", ".join(sorted(tensors))
        missing = [key for key in ("rank", "alpha") if key not in metadata]
        if missing:
            return f"{words} with no {' and no '.join(missing)} in the metadata"
        return f"{words} with rank {float(metadata['rank']):g}, alpha {float(metadata['alpha']):g}"

    def values() -> Any:
        tensors = written()[1]
        for name, tensor in tensors.items():
            if str(tensor.dtype)[6:] != c.file_dtype:
                return f"{name} is {str(tensor.dtype)[6:]}"
        ordered = sorted([list(tensor.shape), flat(tensor)] for tensor in tensors.values())
        return [number for shape, content in ordered for number in (*shape, *content)]

    def as_described(tensors: dict, metadata: dict) -> bool:
        """Whether a file has the names, shapes and alpha that the text asks for, so that it must be loaded."""
        model = make()
        names = {c.key.format(path=p, factor=f): getattr(model.get_submodule(p), f) for p in paths for f in FACTORS}
        shapes = {name: factor.shape for name, factor in names.items()}
        return {n: t.shape for n, t in tensors.items()} == shapes and float(metadata.get("alpha", "nan")) == alpha

    def loads() -> bool | str:
        source, model = make(), make(seed + 1)
        kept, base = dict(model.named_parameters()), all_bits(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            path.write_bytes(written()[0])
            done(load(model, path))
        wanted, now = dict(source.named_parameters()), dict(model.named_parameters())
        mine = [f"{path}.{factor}" for path in paths for factor in FACTORS]
        far = [n for n in mine if not _rounded(now[n], wanted[n])]
        return fine({
            f"{(far or [''])[0]} is not what was saved": bool(far),
            "a factor is not float32 any more": any(now[n].dtype != torch.float32 for n in mine),
            "a factor is another parameter now, which no optimizer knows": any(now[n] is not kept[n] for n in mine),
            "other tensors were changed": any(bits(now[n]) != base[n] for n in now if n not in mine),
        })  # fmt: skip

    def refuses() -> bool | str:
        _, tensors, metadata = written()
        said = {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter.safetensors"
            refused = lambda model: refusal(lambda model: load(model, path), model)  # noqa: E731
            for what, damaged in _damages(tensors).items():
                save_file(damaged, path, metadata)
                said[what] = refused(make(seed + 1))
            save_file(tensors, path, metadata)
            fits = refused(make(seed + 1))
            if fits != "no ValueError" and as_described(tensors, metadata):
                return f"a file that fits: {fits}. Who loads nothing need not refuse anything"
            said["a model with another alpha"] = refused(make(seed + 1, alpha + 1))
        return all_refused(said)

    return {"keys": keys, "values": values, "loads": loads, "refuses": refuses}


def _rounded(got: Tensor, saved: Tensor) -> bool:
    """Whether a factor is what was saved, up to the rounding of 16 bits."""
    pairs = zip(flat(got), flat(saved), strict=True)
    return got.shape == saved.shape and all(abs(g - s) <= 0.01 * abs(s) + 1e-4 for g, s in pairs)


def _damages(tensors: dict[str, Tensor]) -> dict[str, dict]:
    """Files that do not fit, by what is wrong with them."""
    first, *_, last = sorted(tensors)
    other = {name: tensor for name, tensor in tensors.items() if name != last}
    short = {name: {**tensors, name: tensors[name][:1].clone()} for name in (first, last)}
    return {
        "a tensor is missing": other,
        "a tensor too many": {**tensors, "unknown": tensors[last].clone()},
        "one row where more belong": short[first],
        "one row where more belong, in another tensor": short[last],
    }
