"""The first two variants of `notebooks/scaling.md`, for `test_scaling.py`: torchrun other_engines.py NAME METHOD"""

import json
import sys

import torch
from torch import nn
from two_processes import BATCH, SEQ, TEXT, build

from lora_edu.engine import distributed
from lora_edu.training import model_loss, trainable_parameters


def windows():
    """This process's windows of the first batch: inputs and targets."""
    batch = distributed.own_rows(TEXT.train[: BATCH * (SEQ + 1)].view(BATCH, SEQ + 1).long())
    return batch[:, :-1], batch[:, 1:]


def accelerate_step(model):
    """The norm of the gradients under Accelerate."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[buffers])
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=2e-4)
    engine, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(model_loss(engine, *windows()))
    norm = accelerator.clip_grad_norm_(trainable_parameters(model), 1e9)
    optimizer.step()
    return {"norm": norm.item(), "engine": type(engine).__name__}


def fsdp_step(model):
    """The norm of the gradients under FSDP, and the bytes that this process keeps."""
    from torch.distributed.fsdp import fully_shard

    whole = sum(p.nbytes for p in model.parameters())
    mesh = torch.distributed.init_device_mesh("cpu", (distributed.processes(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=2e-4)
    model_loss(model, *windows()).backward()
    norm = nn.utils.clip_grad_norm_(trainable_parameters(model), 1e9).full_tensor()
    optimizer.step()
    kept = sum(p.to_local().nbytes for p in model.parameters())
    return {"norm": norm.item(), "whole": whole, "kept": kept, "buffers": sum(b.nbytes for b in model.buffers())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, method = sys.argv[1:]
    with distributed.join(torch.device("cpu")):
        result = {"accelerate": accelerate_step, "fsdp": fsdp_step}[name](build(method, "cpu"))
        if distributed.rank() == 0:
            print(json.dumps(result))
