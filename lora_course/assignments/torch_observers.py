"""What the check of exercise 2.1 looks at: the layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lora_course.assignments.looking import Complaint, NotDone, done
from lora_course.assignments.plain_tensors import all_bits, bits, fine, flat, near, numbers
from lora_course.assignments.towers import seeded


def factors(layer: nn.Module) -> dict[str, Tensor]:
    """`down` and `up` of a layer. Raises Complaint with the names that there are.

    Plain tensors will do here: that no optimizer finds them is the part `frozen`.
    """
    if not isinstance(done(layer), nn.Module):
        raise Complaint(f"an nn.Module is needed, got {type(layer).__name__}")
    found = {name: getattr(layer, name, None) for name in ("down", "up")}
    if not all(isinstance(factor, Tensor) for factor in found.values()):
        own = [name for name, _ in layer.named_parameters()]
        if not own:
            raise NotDone
        raise Complaint(f"parameters named down and up are needed; there are {', '.join(own)}")
    return found


def fill(layer: nn.Module, seed: int, size: float = 1.0) -> None:
    """Give both factors new numbers."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for factor in factors(layer).values():
            factor.copy_(size * numbers(rng, *factor.shape))


def base_alone(c: Any, n_in: int, n_out: int, rank: int, alpha: float, p: float, seed: int, rows: tuple) -> dict:
    """The output without an adapter."""
    return {"output": seeded(seed + 1, nn.Linear, n_in, n_out)(numbers(np.random.default_rng(seed), *rows, n_in))}


def layer(answer: Callable, c: Any, n_in: int, n_out: int, rank: int, alpha: float, p: float, seed: int, rows: tuple):
    """What a layer computes and which promises it keeps; it is made anew for each part."""

    def make(n_in=n_in, n_out=n_out, rank=rank, p=p, seed=seed) -> tuple[nn.Module, nn.Linear]:
        base = seeded(seed + 1, nn.Linear, n_in, n_out)
        made = answer(base, rank, alpha, p, seed)
        factors(made)
        return made, base

    def x() -> Tensor:
        return numbers(np.random.default_rng(seed), *rows, n_in)

    def start() -> Tensor:
        """The output in evaluation mode."""
        made, base = make()
        y = base(x())
        done(made.eval()(x()))
        if all(any(flat(factor)) for factor in factors(made).values()):
            raise Complaint("up does not start at zero, so that the output changes (notebook 02, section 5)")
        found = made.eval()(x())
        fine({
            "the output is not the base's in evaluation mode": not near(found, y),
            "the output is not the base's in training mode": not near(made.train()(x()), y),
        })  # fmt: skip
        return found

    def alive() -> bool:
        made, _ = make()
        if any(flat(factors(made)["down"])):
            with torch.no_grad():
                factors(made)["up"].zero_()  # whether it starts so is another part
        inputs = x().requires_grad_(True)
        made.eval()(inputs).pow(2).sum().backward()
        moves = {name: factor.grad is not None and any(flat(factor.grad)) for name, factor in factors(made).items()}
        return fine({
            "up gets no gradient in the first step": not moves["up"],
            "down gets a gradient in the first step, with up at zero": moves["down"],
            "no gradient reaches the input through the base": inputs.grad is None or not any(flat(inputs.grad)),
        })  # fmt: skip

    def output() -> Any:
        (made, _), (plain, _) = make(), make(p=0.0)
        fill(made, seed)
        fill(plain, seed)
        given = x()
        y, again = made.eval()(given), made(x())
        complaints = {
            "the input was changed": bits(given) != bits(x()),
            "two calls in evaluation mode differ": bits(y) != bits(again),
        }
        fine(complaints, plain.eval()(x()) if any(complaints.values()) else None)
        return y

    def frozen() -> bool:
        made, base = make()
        fill(made, seed)
        before = all_bits(base)
        asking = {name: parameter for name, parameter in made.named_parameters() if parameter.requires_grad}
        made(x()).pow(2).sum().backward()
        torch.optim.SGD(asking.values(), lr=0.1).step()
        return fine({
            f"trained are {', '.join(asking)}": set(asking) != {"down", "up"},
            "a training step changed the base": all_bits(base) != before,
            "the base is not the layer that was given": all(p is not base.weight for p in made.parameters()),
        })  # fmt: skip

    return {
        "start": start,
        "alive": alive,
        "init": lambda: _init(make, c.std, seed),
        "output": output,
        "frozen": frozen,
        "dropout": lambda: _dropout(make),
        "operations": lambda: _operations(make),
    }


def _init(make: Callable, std: float, seed: int) -> bool:
    """How `down` starts: 1,024 numbers, and the same again."""
    before = torch.get_rng_state().tolist()
    drawn = factors(make(64, 80, 16, seed=seed)[0])
    shapes = ", ".join(f"{name} {tuple(factor.shape)}" for name, factor in drawn.items())
    one, same, other = (bits(factors(make(64, 80, 16, seed=s)[0])["down"]) for s in (seed, seed, seed + 9))
    touched = torch.get_rng_state().tolist() != before
    found = float(np.std(one))
    normal = abs(np.mean(one)) < 0.2 * found and np.abs(one).max() > 2.3 * found
    return fine({
        f"(64, 16) and (16, 80) belong here, there are {shapes}": shapes != "down (64, 16), up (16, 80)",
        "down does not have the standard deviation c.std": not 0.88 * std < found < 1.12 * std,
        "down is not normal around 0": not normal,
        "the same seed gives other numbers": one != same,
        "another seed gives the same numbers": one == other,
        "the global random numbers were changed": touched,
    })  # fmt: skip


def _dropout(make: Callable) -> str:
    """By what dropout multiplies the branch, and whether a row shares one number. With rank 1 it can be seen."""
    made, base = make(6, 9, 1, 0.4)
    with torch.no_grad():
        base.weight.zero_()
        base.bias.zero_()
    fill(made, 1, size=3.0)
    x = numbers(np.random.default_rng(1), 40, 6)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        whole, again, dropped = made.eval()(x), made(x), made.train()(x)
    if bits(whole) != bits(again):
        return "it is active in evaluation mode"
    ratios = (np.array(bits(dropped)) / np.array(bits(whole))).round(2) + 0.0
    found = sorted(set(ratios.ravel().tolist()))
    rows = bool((ratios == ratios[:, :1]).all())
    if len(found) > 3:
        return "with rank 1 it multiplies the branch by many different numbers"
    if found == [1]:
        return "nothing of the branch is dropped in training mode"
    drawn = "drawn once for a whole row" if rows else "drawn anew for each output"
    return f"in training mode it multiplies the branch by {' or '.join(f'{v:g}' for v in found)}, {drawn}"


def _operations(make: Callable) -> bool:
    """Whether the products of a forward pass cost no more than base, `down` and `up` do."""
    from torch.utils.flop_counter import FlopCounterMode

    n_in, n_out, rank, rows = 24, 30, 2, 2
    made, _ = make(n_in, n_out, rank, p=0.0)
    x = numbers(np.random.default_rng(1), rows, n_in)
    start = bits(made.eval()(x))
    fill(made, 1)
    with FlopCounterMode(display=False) as counter:
        y = made(x)
    enough = 2 * rows * (n_in * n_out + rank * (n_in + n_out))
    used = counter.get_total_flops()
    return fine({
        "other factors give the same output": bits(y) == start,
        f"{used} floating-point operations where {enough} are enough": used > enough,
    })  # fmt: skip
