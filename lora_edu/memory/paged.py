"""A paged optimizer: AdamW whose state lives in the host's memory and visits the device a page at a time.

AdamW keeps two numbers for each trained one, the running means of its gradient and of its square. They are needed in
one place only, the update, and there each number meets its own parameter and no other. So the state can stay in the
host's large memory; a page of it is copied to the device, used, and copied back.

The QLoRA paper (Dettmers et al. 2023, arXiv 2305.14314, section 3) does it with CUDA's unified memory: the driver moves
a page out when the device is full, and in again when a kernel touches it and misses it (a page fault). While there is
room, nothing moves. Here we move every page in every step, by hand: the device's need is small and known, and the
price is paid always. The reference is bitsandbytes' `PagedAdamW`, which pages tensors of 100,000 numbers or more, and
asks for them ahead of time.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lora_edu.checks import check, whole
from lora_edu.tensor_files import misfit

MOMENTS = ("exp_avg", "exp_avg_sq")  # the running means of the gradient and of its square
SETTINGS = ("lr", "betas", "eps", "weight_decay")


class PagedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with its state on the host.

    The numbers are those of `torch.optim.AdamW(..., foreach=False)`, on the CPU to the bit, and its state dictionary
    has the same form: one can load the other's. As there, the two means have the type of their parameter: four bytes a
    number for a bfloat16 one. (bitsandbytes keeps them in float32.) Not here: amsgrad, maximize and sparse gradients.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        page_bytes: int = 2**20,
    ):
        """lr, betas, eps, weight_decay: as for `torch.optim.AdamW`.

        page_bytes: how much of each of the two moments is on the device at a time.
        Raises ValueError for a setting outside its range, and for an option that this optimizer has not.
        """
        check(whole(1), page_bytes=page_bytes)
        self.page_bytes = page_bytes
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def add_param_group(self, param_group: dict) -> None:
        """Take on more parameters, with settings of their own. Raises ValueError for a bad one."""
        _check_settings(self.defaults | param_group)
        super().add_param_group(param_group)
        if any(parameter.is_complex() for parameter in param_group["params"]):
            self.param_groups.pop()
            raise ValueError("PagedAdamW has no rule for complex numbers: use torch.optim.AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient; closure, if given, computes the loss again first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        for device in {parameter.device for group in self.param_groups for parameter in group["params"]}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the copies back to the host have arrived: the state may be read now
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        if parameter.grad.is_sparse:
            raise RuntimeError("PagedAdamW needs dense gradients: use nn.Embedding(..., sparse=False)")
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state |= {name: _on_host(torch.zeros_like(parameter, device="cpu")) for name in MOMENTS}
        state["step"] += 1
        for weights, grad, *host in self._pages(parameter, parameter.grad, *(state[name] for name in MOMENTS)):
            moments = [page.to(weights.device, non_blocking=True, copy=True) for page in host]  # the page comes in
            adamw(weights, grad, *moments, state["step"].item(), **{name: group[name] for name in SETTINGS})
            for page, moment in zip(host, moments, strict=True):
                page.copy_(moment, non_blocking=True)  # and goes out

    def _pages(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors of one shape, cut into flat pieces (n,) of at most page_bytes; strided ones are one page."""
        if not all(tensor.is_contiguous() for tensor in tensors):
            return iter([tensors])
        numbers = max(1, self.page_bytes // tensors[0].element_size())
        return zip(*(tensor.detach().view(-1).split(numbers) for tensor in tensors), strict=True)

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what `state_dict()` gave, of this class or of `torch.optim.AdamW`. The moments stay off the device.

        Raises ValueError, before anything has changed, for another optimizer's state, another model's, and for amsgrad
        or maximize.
        """
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for group in state_dict["param_groups"]:
            if missing := [name for name in SETTINGS if name not in group]:
                raise ValueError(f"this is no state of AdamW: it has no {', '.join(missing)}")
            _check_settings(group)
        for name, parameter in zip(names, parameters, strict=False):  # how many there are is checked by torch, below
            if saved := state_dict["state"].get(name):  # none, if it never had a gradient
                moments = {key: saved[key] for key in MOMENTS if key in saved}
                if problem := misfit(moments, dict.fromkeys(MOMENTS, parameter), any_float=True):
                    raise ValueError(f"this state was saved for another model or optimizer: {problem}")
        super().load_state_dict({**state_dict, "state": {}})  # the groups; the moments it would put on the device
        for name, parameter in zip(names, parameters, strict=True):
            if saved := state_dict["state"].get(name):
                moments = {key: _on_host(saved[key].detach().to("cpu", parameter.dtype, copy=True)) for key in MOMENTS}
                self.state[parameter] = {"step": torch.as_tensor(saved["step"]).float().cpu().clone(), **moments}


def adamw(
    weights: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: float,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One step of AdamW in place, on tensors of one shape. Each number needs its own four only: any piece will do."""
    beta1, beta2 = betas
    weights.mul_(1 - lr * weight_decay)
    exp_avg.lerp_(grad, 1 - beta1)  # m <- beta1 m + (1 - beta1) g
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)  # v <- beta2 v + (1 - beta2) g^2
    # Both means start at zero and are too small at first: divide by 1 - beta^step.
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    weights.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


def _on_host(moment: Tensor) -> Tensor:
    """The moment in memory that the GPU can copy from by itself ("pinned": the system never moves it to disk)."""
    return moment.pin_memory() if torch.cuda.is_available() else moment


def _check_settings(group: dict) -> None:
    for option in ("amsgrad", "maximize"):
        if group.get(option):
            raise ValueError(f"PagedAdamW has no {option}: use torch.optim.AdamW(..., {option}=True), or leave it out")
    if not group.get("decoupled_weight_decay", True):
        raise ValueError("this is the state of Adam, whose weight decay goes into the gradient: load one of AdamW")
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {group[name]}")
    betas = group["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers of at least 0 and below 1, got {betas}")
