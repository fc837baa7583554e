"""Exercise 2.1, the update of a weight: right and wrong answers."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from classroom.solutions import Solutions, Wrong


def update(c):
    def delta_weight(down, up, alpha):
        rank = down.shape[1]
        return alpha / rank**c.exponent * (down @ up).T

    return delta_weight


def update_by_einsum(c):
    def delta_weight(down, up, alpha, **unused):
        return torch.einsum("ir,ro->oi", down, up) * (alpha * len(up) ** -c.exponent)

    return delta_weight


def update_by_a_loop(c):
    def delta_weight(down, up, alpha):
        total = torch.zeros(up.shape[1], down.shape[0], dtype=down.dtype)
        for k in range(up.shape[0]):
            total += torch.outer(up[k], down[:, k])
        return total * alpha / math.pow(up.shape[0], c.exponent)

    return delta_weight


def update_by_broadcasting(c):
    def delta_weight(down, up, alpha):
        products = up.T[:, None, :] * down[None, :, :]  # (out, in, rank)
        return (products.double().sum(dim=2) * alpha / down.size(1) ** c.exponent).to(down.dtype)

    return delta_weight


def update_by_linear(c):
    return lambda down, up, alpha: F.linear(up.T, down).mul_(alpha / up.size(0) ** c.exponent)


def scaled_by(factor):
    """The update with another factor in front. factor: (c, down, alpha) -> number"""
    return lambda c: lambda down, up, alpha: factor(c, down, alpha) * (down @ up).T


def reshaped(c):
    return lambda down, up, alpha: alpha / len(up) ** c.exponent * (down @ up).reshape(up.shape[1], len(down))


def update_in_place(c):
    return lambda down, up, alpha: (down.mul_(alpha / len(up) ** c.exponent) @ up).T


def update_of_one_size(c):
    def delta_weight(down, up, alpha):
        total = torch.zeros(7, 5)
        for k in range(2):
            total += up[k][:, None] * down[:, k]
        return alpha / 2**c.exponent * total

    return delta_weight


def update_from_lora_edu(c):
    from lora_edu import LoRALinear

    def delta_weight(down, up, alpha):
        layer = LoRALinear(nn.Linear(len(down), up.shape[1]), len(up), alpha).to(down.dtype)
        with torch.no_grad():
            layer.lora_A.copy_(down.T)
            layer.lora_B.copy_(up.T)
        return layer.delta_weight().detach()

    return delta_weight


SCALING = "notebook 04, section 1, for the paper's; the exercise for this one"

UPDATE = Solutions(
    reference=update,
    right={
        "einsum": update_by_einsum,
        "a loop": update_by_a_loop,
        "broadcasting": update_by_broadcasting,
        "F.linear": update_by_linear,
    },
    wrong=[
        Wrong("alpha / r", scaled_by(lambda c, down, alpha: alpha / down.shape[1]), 0,
              "this divides alpha by the rank, as the paper does. Here the rank has an exponent, c.exponent.", SCALING),
        Wrong("alpha", scaled_by(lambda c, down, alpha: alpha), 0,
              "this scales by alpha and leaves the rank out.", "notebook 02, section 9"),
        Wrong("no scaling", scaled_by(lambda c, down, alpha: 1), 0,
              "this is the product of the factors. The scaling s is missing.", "notebook 04, section 1"),
        Wrong("upside down", scaled_by(lambda c, down, alpha: down.shape[1] ** c.exponent / alpha), 0,
              "this scales by the inverse, rank to the power c.exponent over alpha.", "notebook 04, section 1"),
        Wrong("exponent as a factor", scaled_by(lambda c, down, alpha: alpha / (down.shape[1] * c.exponent)), 0,
              "this multiplies the rank by c.exponent. It is a power: rank ** c.exponent.", SCALING),
        Wrong("the square root", scaled_by(lambda c, down, alpha: alpha / down.shape[1] ** 0.5), 0,
              "this divides by the square root of the rank. Here the exponent of the rank is c.exponent.", SCALING),
        Wrong("the exponent on alpha, too", scaled_by(lambda c, down, alpha: (alpha / down.shape[1]) ** c.exponent), 0,
              "alpha has the exponent as well. It belongs to the rank alone: alpha / rank ** c.exponent.", SCALING),
        Wrong("s twice", scaled_by(lambda c, down, alpha: (alpha / down.shape[1] ** c.exponent) ** 2), 0,
              "the scaling s stands twice in the product. One of the factors is scaled, not both.",
              "notebook 04, section 1"),
        Wrong("in_features for the rank", scaled_by(lambda c, down, alpha: alpha / len(down) ** c.exponent), 0,
              "this takes in_features for the rank. down is (in_features, rank): the rank is its second side.",
              "notebook 04, section 1, and look at the shapes"),
        Wrong("off by one", scaled_by(lambda c, down, alpha: alpha / (down.shape[1] + 1) ** c.exponent), 0),
        Wrong("transpose forgotten", lambda c: lambda down, up, alpha: alpha / len(up) ** c.exponent * (down @ up), 0,
              "this is (in_features, out_features). nn.Linear holds its weight as (out_features, in_features), so "
              "the product of these factors has to be transposed.", "notebook 00, section 5"),
        Wrong("reshaped", reshaped, 0,
              "this has the right shape with the numbers in the wrong places: reshape cuts the rows anew, a "
              "transpose exchanges rows and columns.", "notebook 04, section 1, and use .T"),
        Wrong("changes down", update_in_place, 2,
              "the numbers are right, and a factor is not what it was: a function whose name ends in an underscore, "
              "or *=, changes the tensor itself. A second call would scale twice.", "notebook 04, section 6"),
        Wrong("float64", lambda c: lambda d, u, a: update(c)(d.double(), u.double(), a), 2),
        Wrong("one size", update_of_one_size, 0),
        Wrong("calls lora_edu", update_from_lora_edu, 0),
    ],
)  # fmt: skip
