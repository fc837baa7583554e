"""`torch.compile` where it pays: on a CUDA GPU, in a run of hundreds of steps or more.

Without it, Python hands the GPU one small operation at a time, and each of them reads its input from the card's memory
and writes its result back. `torch.compile` records a model's operations once and generates kernels that do many of them
in one pass over memory. The first step then takes longer, from seconds to a minute or two: a run must be long enough to
earn that back. On the CPU it is off: the course's runs there are over before a compiler is done.

There is a trap. `lora_edu.qlora` decodes a weight twice, forward and backward, so that no full copy is kept. A compiler
sees the same computation twice, does it once and keeps the result for the backward pass: all weights of the model in 16
bits, and the saving of QLoRA is gone. `decoded_linear` therefore wraps the product in torch's checkpointing, which
tells it: compute this again. `tests/lora_edu/engine/test_compiling.py` counts what is kept, with and without.

The compiler is not part of torch alone: on a GPU it needs the package `triton`, a C compiler and Python's header files.
Where something is missing, a run says so in one line and goes on without. `LORA_EDU_COMPILE=0` switches it off.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_edu.engine import distributed

BACKENDS = {"cuda": "inductor"}  # the kinds of devices on which a model is compiled, and by what


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as a compiled module with the same parameters; the model itself where compiling is off or fails.

    Call it with batches of one shape: another shape is compiled anew.
    """
    backend = BACKENDS.get(device.type)
    if backend is None or os.environ.get("LORA_EDU_COMPILE") == "0":
        return model
    if problem := compiler_problem(device, backend):
        print(f"torch.compile is not used ({problem}): slower, with the same result up to rounding", flush=True)
        return model
    return torch.compile(model, backend=backend, dynamic=False)


def decoded_linear(x: Tensor, weight: nn.Module, bias: Tensor | None) -> Tensor:
    """x W^T + bias with W = weight.dequantize(), in x's type. For the backward pass W is computed again, not kept."""

    def product(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # as in the eager version: x has the type to compute in
            return F.linear(x, weight.dequantize().to(x.dtype), bias)

    return checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)


def compiler_problem(device: torch.device, backend: str) -> str | None:
    """Why a model cannot be compiled here, in one line; None if it can.

    What is missing shows at the first use only, in many ways; so we try it on a function of one line.
    """
    if distributed.processes() > 1:
        return "not with several processes"
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda x: (2 * x).sum(), backend=backend)(x).backward()
    except Exception as error:  # whatever the compiler raises, training can do without it
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    """The first line of a message that says something: "backend='inductor' raised:" stands above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return lines[0] if lines else type(error).__name__
