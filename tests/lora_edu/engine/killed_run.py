"""A training run for `test_checkpoint_kills.py` to kill: killed_run.py FOLDER STEPS [half-written]"""

import json
import os
import signal
import sys

import torch

from lora_edu import GPT, GPTConfig, add_lora, quantize_linears, train
from lora_edu.engine import checkpoints
from lora_edu.texts import Text


def run(steps, folder=None):
    """QLoRA with dropout on a tiny GPT. Returns the curves and the adapters."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(context=32, n_layers=2, n_heads=2, d_model=16))
    add_lora(quantize_linears(model), rank=2, alpha=4, targets="all-linear", dropout=0.3)
    tokens = torch.tensor(list(b"low rank. " * 60), dtype=torch.uint8)
    history = train(
        model, Text(tokens[:500], tokens[500:]), steps, seq_len=16, batch_size=4, device="cpu", progress=False,
        eval_every=3, checkpoint=folder, checkpoint_every=2,
    )  # fmt: skip
    adapters = {name: value.tolist() for name, value in model.named_parameters() if value.requires_grad}
    return {"train": history.train_loss, "validation": history.validation_loss, "adapters": adapters}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_half_written(tensors, path, metadata=None, real=checkpoints.save_file):
    """Stands for `save_file`: the file of step 4 is cut in the middle, and the process is gone."""
    real(tensors, path, metadata)
    if "step-00000004" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        die()


if __name__ == "__main__":
    folder, steps, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""
    torch.set_num_threads(1)
    if moment == "half-written":
        checkpoints.save_file = die_when_half_written
    print(json.dumps(run(steps, folder)))
