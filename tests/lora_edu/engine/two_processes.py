"""What `test_distributed.py` runs in two processes: torchrun two_processes.py FOLDER DEVICE METHOD

The same functions give the test, in its one process, what to compare with.
"""

import copy
import json
import random
import sys
from pathlib import Path

import torch
from conftest import moved
from safetensors.torch import save_file
from stopped_runs import stopped_in

from lora_edu import add_lora, evaluate, load_base, quantize_linears, train
from lora_edu.engine import distributed
from lora_edu.texts import Text
from lora_edu.training import model_loss, trainable_parameters, training_step

METHODS = ("full", "lora", "qlora")
WORDS = "the of and to in a is that for it as was with be by on not he his but at are this have from".split()
SENTENCES = " ".join(random.Random(0).choices(WORDS, k=2000)).encode()  # no file of the course: those change
TOKENS = torch.frombuffer(bytearray(SENTENCES), dtype=torch.uint8)
TEXT = Text(TOKENS[:5000], TOKENS[5000:5300])
BATCH, SEQ = 4, 32
OPTIONS = {"batch_size": BATCH, "seq_len": SEQ, "lr": 2e-4, "progress": False, "eval_every": 5, "autocast": False}


def build(method, device, dropout=0.0):
    """The course's base, ready for a method; B is not zero, so that every gradient has something to say."""
    model = load_base("laptop", device)
    torch.manual_seed(0)
    if method == "qlora":
        quantize_linears(model)
    if method != "full":
        moved(add_lora(model, rank=8, alpha=16, targets="all-linear", dropout=dropout), std=0.02)
    return model


def first_gradients(model, device):
    """The gradients of the first step, as they come out of `training_step`, and the bytes that travelled."""
    engine, traffic = distributed.wrap(model)
    windows = TEXT.train[: BATCH * (SEQ + 1)].view(BATCH, SEQ + 1).long()
    windows = distributed.own_rows(windows).to(device)
    optimizer = torch.optim.SGD(trainable_parameters(model), lr=0.0)
    loss = training_step(engine, windows[:, :-1], windows[:, 1:], optimizer, max_grad_norm=1e9, autocast=False)
    gradients = {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss, gradients, sum(traffic)


def trained(model, device, **options):
    """20 steps: the history, and what they made of the trainable parameters."""
    history = train(model, TEXT, 20, device=device, **(OPTIONS | options))
    return history, {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def counts(model, inputs, targets):
    """A loss that counts the tokens that this process has seen, in a buffer: each process has another number."""
    getattr(model, "module", model).seen.add_(inputs.sum())
    return model_loss(model, inputs, targets)


def stopped_and_resumed(device, folder):
    """QLoRA with dropout, stopped in step 4, against the same run without a stop: whether they are the same."""
    models = [build("qlora", device, dropout=0.3) for _ in range(3)]
    for model in models:
        model.register_buffer("seen", torch.tensor(0, device=device))
    options = OPTIONS | {"device": device, "loss_fn": counts}
    expected = train(models[0], TEXT, 6, **options)
    try:
        with stopped_in(3, InterruptedError()):
            train(models[1], TEXT, 6, **options, checkpoint=folder, checkpoint_every=2)
    except InterruptedError:
        distributed.total(0)
    history = train(models[2], TEXT, 6, **options, checkpoint=folder, checkpoint_every=2)
    same = all(torch.equal(*pair) for pair in zip(*(model.state_dict().values() for model in models[::2]), strict=True))
    curves = [(run.train_loss, run.validation_loss) for run in (history, expected)]
    return distributed.total(same and curves[0] == curves[1]) == distributed.processes()


def report(folder, device, method):
    """Everything that the test compares, written by process 0."""
    model = build(method, device)
    loss, gradients, sent = first_gradients(copy.deepcopy(model), device)
    history, after = trained(model, device)
    numbers = {
        "processes": distributed.processes(),
        "loss": loss,
        "bytes": sent,
        "trainable": sum(p.numel() for p in after.values()),
        "history": history.as_dict(),
        "same_on_all": all(torch.equal(*distributed.gather(p.flatten().to(device))) for p in after.values()),
    }
    tensors = {f"gradient.{name}": value for name, value in gradients.items()}
    tensors |= {f"after.{name}": value for name, value in after.items()}
    numbers["one window"] = evaluate(build("full", device), TEXT.validation, seq_len=SEQ, max_windows=1, autocast=False)
    numbers["resumed"] = stopped_and_resumed(device, folder / "run")
    if distributed.rank() == 0:
        save_file(tensors, folder / "tensors.safetensors")
        (folder / "numbers.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, device = Path(sys.argv[1]), torch.device(sys.argv[2])
    with distributed.join(device) as device:
        report(folder, device, sys.argv[3])
