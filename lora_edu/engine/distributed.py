"""One training run on several devices, one process for each: torch's own `DistributedDataParallel` (DDP).

    torchrun --nproc-per-node=2 -m lora_edu train --method qlora

Every process holds the whole model and computes the gradients of its own rows of the batch. DDP then averages the
gradients over the processes (an "all-reduce"), so that all of them make the same step. The mean over a batch of 8 is
the mean of two means over 4: N processes compute what one process computes with the same batch, up to rounding.
(Dropout is the exception: each process draws masks of its own.)

Only gradients travel, and a frozen weight has none: with adapters, N devices exchange the adapters' gradients.

A process that was not started by torchrun is the special case N = 1, and each function here then changes nothing.
Source: Li et al. 2020, "PyTorch Distributed", arXiv 2006.15704, section 3.
"""

import inspect
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def join(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started and yield this process's device; without torchrun, the device given.

    CUDA devices talk through nccl, one for each process; CPU processes through gloo.
    Raises ValueError if a machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        index = int(os.environ["LOCAL_RANK"])
        if index >= (gpus := torch.cuda.device_count()):
            raise ValueError(f"each process needs a GPU of its own: torchrun --nproc-per-node={gpus}, or --device cpu")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        # Leave together. gloo's threads outlive the group, and one that still holds a tensor of Python's while the
        # interpreter shuts down ends the process with "terminate called without an active exception". It lets go a
        # moment after the barrier; on a busy machine the moment is long.
        dist.barrier()
        time.sleep(0.2)
    finally:
        dist.destroy_process_group()


def processes() -> int:
    """How many processes train together, N."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is: 0 .. N - 1. Process 0 writes the files and prints. (Not the rank of an adapter.)"""
    return dist.get_rank() if processes() > 1 else 0


def own_rows(batch: Tensor) -> Tensor:
    """This process's rows of a batch: (B, ...) -> (B / N, ...); of fewer rows than processes, one or none."""
    return batch.tensor_split(processes())[rank()]


def check_batch(batch_size: int) -> None:
    """Raise ValueError if a batch cannot be split evenly over the processes."""
    if batch_size % processes():
        raise ValueError(
            f"a batch of {batch_size} windows cannot be split over {processes()} processes: a multiple can"
        )


def average_and_count(traffic: list[int], bucket) -> torch.futures.Future[Tensor]:
    """What DDP does with a bucket of gradients (divide by N, then sum over the processes), and a count of its bytes.

    bucket: a `torch.distributed.GradBucket`. The gradients of a step travel in one or several, each as soon as it is
    full, while the backward pass computes the next. traffic: the bytes of each, of the last step.
    """
    if bucket.index() == 0:
        traffic.clear()  # a new step
    traffic.append(bucket.buffer().nbytes)
    share = bucket.buffer().div_(processes())
    return dist.all_reduce(share, async_op=True).get_future().then(lambda summed: summed.value()[0])


def wrap(model: nn.Module) -> tuple[nn.Module, list[int]]:
    """The model with its gradients averaged over the processes at each backward pass, and the bytes that it hands over.

    All processes start from process 0's parameters: those are sent once, here, and never again.
    """
    traffic: list[int] = []
    if processes() == 1:
        return model, traffic
    # Buffers (4-bit codes and their constants) never change, but DDP would send them at every step.
    accepted = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers"  # before torch 2.13
    engine = DistributedDataParallel(model, **{option: False})
    engine.register_comm_hook(traffic, average_and_count)
    return engine, traffic


def total(value: float) -> float:
    """The sum of a number over all processes. All of them must call this, and it waits for all."""
    if processes() == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64, device=_wire_device())
    dist.all_reduce(number)
    return number.item()


def mean(value: float) -> float:
    """The mean of a number over all processes. All of them must call this."""
    return total(value) / processes()


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one a row: (n,) -> (N, n), on the CPU. All of them must call this."""
    if processes() == 1:
        return tensor[None].cpu()
    rows = [torch.empty_like(tensor, device=_wire_device()) for _ in range(processes())]
    dist.all_gather(rows, tensor.to(_wire_device()))
    return torch.stack(rows).cpu()


def _wire_device() -> torch.device:
    """nccl sends what lies on the GPU, gloo what lies on the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
