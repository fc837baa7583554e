"""Exercise 2.4, all of a file or nothing: right and wrong answers."""

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from classroom.solutions import Solutions, Wrong
from lora_edu.assignments.towers import Adapted


def slots(c, model):
    """The name in the file -> the parameter of the model."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}
    return {
        c.key.format(path=path, factor=factor): getattr(layer, factor)
        for path, layer in layers.items()
        for factor in ("down", "up")
    }


def alphas(model):
    return {module.alpha for module in model.modules() if isinstance(module, Adapted)}


def read(path):
    with safe_open(path, "pt") as file:
        return load_file(path), float(file.metadata()["alpha"])


def loaded(strict=True, shape=lambda tensor: tensor.shape, alpha=True, atomic=True, how="copy"):
    """`load_adapter`, or one with mistakes. shape: what is compared of a tensor, None for nothing."""

    def make(c):
        @torch.no_grad()
        def load_adapter(model, path):
            wanted, (tensors, there) = slots(c, model), read(path)
            if strict and tensors.keys() != wanted.keys():
                raise ValueError(f"other tensors are needed: {sorted(tensors.keys() ^ wanted.keys())}")
            if alpha and alphas(model) != {there}:
                raise ValueError(f"the adapter was trained with alpha {there}")
            fits = {n: not shape or shape(tensors[n]) == shape(slot) for n, slot in wanted.items() if n in tensors}
            if atomic and not all(fits.values()):
                raise ValueError(f"other shapes are needed: {fits}")
            for name in fits:
                if not fits[name]:
                    raise ValueError(f"{name} has another shape")
                if how == "copy":
                    new = tensors[name].reshape(wanted[name].shape) if shape is Tensor.numel else tensors[name]
                    wanted[name].copy_(new)
                elif how == "data":
                    wanted[name].data = tensors[name]
            if how == "new parameters":
                for layer in filter(lambda module: isinstance(module, Adapted), model.modules()):
                    for factor in ("down", "up"):
                        name = next(n for n, slot in wanted.items() if slot is getattr(layer, factor))
                        setattr(layer, factor, torch.nn.Parameter(tensors[name].float()))

        return load_adapter

    return make


def with_a_state_dict(c):
    def load_adapter(model, path, *, device="cpu"):
        new, (tensors, alpha) = model.state_dict(), read(path)
        for where, layer in model.named_modules():
            if not isinstance(layer, Adapted):
                continue
            if alpha != layer.alpha:
                raise ValueError("alpha")
            for factor in ("down", "up"):
                try:
                    tensor = tensors.pop(c.key.format(path=where, factor=factor))
                except KeyError as error:
                    raise ValueError(f"no tensor for {error}") from error
                if tensor.size() != new[f"{where}.{factor}"].size():
                    raise ValueError("shape")
                new[f"{where}.{factor}"] = tensor.to(device).float()
        if tensors:
            raise ValueError(f"unknown tensors: {list(tensors)}")
        model.load_state_dict(new)

    return load_adapter


def with_a_way_back(c):
    """Loads first, and puts everything back if something does not fit."""

    @torch.no_grad()
    def load_adapter(model, path):
        kept = {name: slot.detach().clone() for name, slot in slots(c, model).items()}
        tensors, alpha = read(path)
        try:
            for name, slot in slots(c, model).items():
                if tensors[name].shape != slot.shape:
                    raise ValueError(name)
                slot.copy_(tensors.pop(name))
            if tensors or alphas(model) != {alpha}:
                raise ValueError("too much, or another alpha")
        except (KeyError, ValueError) as error:
            for name, slot in slots(c, model).items():
                slot.copy_(kept[name])
            raise ValueError("the file does not fit") from error

    return load_adapter


def refuses_everything(model, path):
    raise ValueError("it does not fit")


TEXT = "exercise 2.4"
FORMATS = "notebook 04, section 6"

FILE = Solutions(
    reference=loaded(),
    right={"a state dict": with_a_state_dict, "a way back": with_a_way_back},
    wrong=[
        Wrong("refuses everything", lambda c: refuses_everything, 0,
              "load refuses a file that fits. Who loads nothing need not refuse anything.", TEXT),
        Wrong("not strict", loaded(strict=False), 1,
              "a file with a missing or an unknown tensor is accepted. Half an adapter would load in silence.", TEXT),
        Wrong("shapes not compared", loaded(shape=None), 1,
              "shapes are not compared. copy_ repeats a single row until it fits, without an error.", TEXT),
        Wrong("sizes compared", loaded(shape=Tensor.numel), 1,
              "the number of entries is compared, and not the shape: a factor whose rows and columns are exchanged is "
              "reshaped into other numbers.", TEXT),
        Wrong("alpha not compared", loaded(alpha=False), 1,
              "alpha is not compared. With another alpha the same factors compute something else.",
              "notebook 04, section 1"),
        Wrong("half loaded", loaded(atomic=False), 1,
              "a file that does not fit is refused with half of it copied already. Check everything, then copy.", TEXT),
        Wrong("new parameters", loaded(how="new parameters"), 2,
              "loading puts new parameters in: an optimizer that was made before holds the old ones. Use copy_.",
              "notebook 04, section 7"),
        Wrong("left in 16 bits", loaded(how="data"), 2,
              "after loading, the factors have the dtype of the file. The model's own are float32.", FORMATS),
    ],
)  # fmt: skip
