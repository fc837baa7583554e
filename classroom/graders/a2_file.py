"""Exercise 2.4, a file of your own: right and wrong answers."""

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from classroom.solutions import Solutions, Wrong
from lora_edu.assignments.towers import Adapted


def adapters(model):
    """path -> Adapted"""
    return {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}


def slots(c, model):
    """The name in the file -> the parameter of the model."""
    return {
        c.key.format(path=path, factor=factor): getattr(layer, factor)
        for path, layer in adapters(model).items()
        for factor in ("down", "up")
    }


def settings(model):
    layer = next(iter(adapters(model).values()))
    return {"rank": str(layer.down.shape[1]), "alpha": str(layer.alpha)}


def save(c):
    def save_adapter(model, path):
        dtype = getattr(torch, c.file_dtype)
        tensors = {name: slot.detach().to(dtype) for name, slot in slots(c, model).items()}
        save_file(tensors, path, metadata=settings(model))

    return save_adapter


def load(c):
    @torch.no_grad()
    def load_adapter(model, path):
        wanted = slots(c, model)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            alpha = float(file.metadata()["alpha"])
        if tensors.keys() != wanted.keys():
            raise ValueError(f"other tensors are needed: {sorted(tensors.keys() ^ wanted.keys())}")
        for name, slot in wanted.items():
            if tensors[name].shape != slot.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, {tuple(slot.shape)} is needed")
        for layer in adapters(model).values():
            if layer.alpha != alpha:
                raise ValueError(f"the adapter was trained with alpha {alpha}, this model has {layer.alpha}")
        for name, slot in wanted.items():
            slot.copy_(tensors[name])

    return load_adapter


def both(c):
    return save(c), load(c)


def both_with_state_dicts(c):
    def save_adapter(model, path, *, extra=None):
        state, tensors = model.state_dict(), {}
        for name, tensor in state.items():
            where, _, factor = name.rpartition(".")
            if factor in ("down", "up") and f"{where}.base.weight" in state:
                tensors[c.key.format(path=where, factor=factor)] = tensor.type(getattr(torch, c.file_dtype))
        save_file(tensors, str(path), {**settings(model), "format": "pt"})

    def load_adapter(model, path):
        new, tensors = model.state_dict(), load_file(path)
        with safe_open(path, framework="pt") as file:
            settings_there = file.metadata()
        for where, layer in adapters(model).items():
            if float(settings_there["alpha"]) != layer.alpha:
                raise ValueError("alpha")
            for factor in ("down", "up"):
                try:
                    tensor = tensors.pop(c.key.format(path=where, factor=factor))
                except KeyError as error:
                    raise ValueError(f"no tensor for {error}") from error
                if tensor.size() != new[f"{where}.{factor}"].size():
                    raise ValueError("shape")
                new[f"{where}.{factor}"] = tensor.float()
        if tensors:
            raise ValueError(f"unknown tensors: {list(tensors)}")
        model.load_state_dict(new)

    return save_adapter, load_adapter


def both_with_a_way_back(c):
    """Loads first, and puts everything back if something does not fit."""

    def load_adapter(model, path):
        kept = {name: slot.detach().clone() for name, slot in slots(c, model).items()}
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            alpha = float(file.metadata()["alpha"])
        with torch.no_grad():
            try:
                for name, slot in slots(c, model).items():
                    if tensors[name].shape != slot.shape:
                        raise ValueError(name)
                    slot.copy_(tensors.pop(name))
                if tensors or any(layer.alpha != alpha for layer in adapters(model).values()):
                    raise ValueError("too much, or another alpha")
            except (KeyError, ValueError) as error:
                for name, slot in slots(c, model).items():
                    slot.copy_(kept[name])
                raise ValueError("the file does not fit") from error

    return save(c), load_adapter


def saved(names=None, dtype=None, change=lambda tensor: tensor, metadata=settings, also=lambda model: {}):
    """`save` with mistakes, beside a `load` that reads what it writes. names: the pattern of a tensor's name."""

    def make(c):
        own = type(c)(c, key=names or c.key, file_dtype=dtype(c) if dtype else c.file_dtype)

        def save_adapter(model, path):
            kind = getattr(torch, own.file_dtype)
            tensors = {name: change(slot.detach()).to(kind).contiguous() for name, slot in slots(own, model).items()}
            save_file(tensors | also(model), path, metadata=metadata(model))

        return save_adapter, load(own)

    return make


def loaded(strict=True, shapes=True, alpha=True, atomic=True, error=ValueError, how="copy"):
    """`load` with mistakes, beside a right `save`."""

    def make(c):
        @torch.no_grad()
        def load_adapter(model, path):
            wanted, tensors = slots(c, model), load_file(path)
            with safe_open(path, "pt") as file:
                there = float(file.metadata()["alpha"])
            if strict and tensors.keys() != wanted.keys():
                raise error("names")
            if alpha and any(layer.alpha != there for layer in adapters(model).values()):
                raise error("alpha")
            for name, slot in wanted.items():
                if shapes and atomic and tensors[name].shape != slot.shape:
                    raise error("shape")
            for name, slot in wanted.items():
                if name not in tensors:
                    continue
                if shapes and tensors[name].shape != slot.shape:
                    raise error("shape")
                if how == "copy":
                    slot.copy_(tensors[name])
                elif how == "data":
                    slot.data = tensors[name]
            if how == "new parameters":
                for path_there, layer in adapters(model).items():
                    for factor in ("down", "up"):
                        tensor = tensors[c.key.format(path=path_there, factor=factor)].float()
                        setattr(layer, factor, torch.nn.Parameter(tensor))

        return save(c), load_adapter

    return make


def refuses_everything(model, path):
    raise ValueError("it does not fit")


TEXT = "exercise 2.4"
FORMATS = "notebook 04, section 6"

FILE = Solutions(
    reference=both,
    right={"state dicts": both_with_state_dicts, "a way back": both_with_a_way_back},
    wrong=[
        Wrong("refuses everything", lambda c: (save(c), refuses_everything), 2,
              "load refuses a file that fits. Who loads nothing need not refuse anything.", TEXT),
        Wrong("PEFT's names", saved(names="base_model.model.{path}.lora_{factor}.weight"), 4,
              "these are names in the manner of PEFT. Here c.key says how a tensor is called.",
              "notebook 04, section 9, for PEFT's own"),
        Wrong("names as in state_dict", saved(names="{path}.{factor}"), 4,
              "these are the names of state_dict. Here c.key says how a tensor is called.", TEXT),
        Wrong("float32", saved(dtype=lambda c: "float32"), 4,
              "the file holds float32, twice the bytes that are asked for.",
              "notebook 04, section 6, for the 16-bit formats"),
        Wrong("the other 16 bits", saved(dtype=lambda c: {"float16": "bfloat16", "bfloat16": "float16"}[c.file_dtype]),
              4, "the file holds the other 16-bit format than c.file_dtype.", FORMATS),
        Wrong("int alpha", saved(metadata=lambda m: settings(m) | {"alpha": str(int(adapters(m).popitem()[1].alpha))}),
              3, "alpha is cut to a whole number on its way into the file, which holds text: str(alpha) keeps it.",
              TEXT),
        Wrong("transposed", saved(change=lambda tensor: tensor.T), 3,
              "the factors are transposed in the file. It holds them as the layer does.",
              "notebook 02, section 2, for the two orientations"),
        Wrong("not strict", loaded(strict=False), 3,
              "a file with a missing or an unknown tensor is accepted. Half an adapter would load in silence.", TEXT),
        Wrong("shapes not compared", loaded(shapes=False), 3,
              "shapes are not compared. copy_ repeats a single row until it fits, without an error.", TEXT),
        Wrong("alpha not compared", loaded(alpha=False), 3,
              "alpha is not compared. With another alpha the same factors compute something else.",
              "notebook 04, section 1"),
        Wrong("half loaded", loaded(atomic=False), 3,
              "a file that does not fit is refused with half of it copied already. Check everything, then copy.", TEXT),
        Wrong("new parameters", loaded(how="new parameters"), 4,
              "loading puts new parameters in: an optimizer that was made before holds the old ones. Use copy_.",
              "notebook 04, section 7"),
        Wrong("left in 16 bits", loaded(how="data"), 4,
              "after loading, the factors have the dtype of the file. The model's own are float32.", FORMATS),
    ],
)  # fmt: skip
