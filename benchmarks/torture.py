"""Training runs, killed at random moments, go on to the same bits: make torture

    python benchmarks/torture.py --kills 100

A small GPT is trained in full, with LoRA and with QLoRA, in one process and in two. Each of these six runs is made
once without a stop. Then it is started again and again in one folder, and killed (SIGKILL) after a random time, often
enough while a checkpoint is being written. In two processes sometimes both are killed, sometimes one, and the other
has to end by itself. A run that reaches its end must have the losses and the weights of the first, to the bit.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a run is forked from this process, which must have no threads

import torch
import torch._dynamo  # the first optimizer imports it: here once, and not in every run

from lora_edu.engine import distributed
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.qlora import quantize_linears
from lora_edu.texts import Text
from lora_edu.training import train

METHODS = ("full", "lora", "qlora")
STEPS = 60
TOKENS = torch.tensor(list(b"low rank updates of frozen weights. " * 60), dtype=torch.uint8)


def run(method: str, folder: Path | None) -> dict:
    """Train the small GPT with dropout in the adapters. Returns the curves and every trained number."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(context=32, n_layers=2, n_heads=2, d_model=16))
    if method == "qlora":
        quantize_linears(model)
    if method != "full":
        add_lora(model, rank=2, alpha=4, targets="all-linear", dropout=0.3)
    with distributed.join(torch.device("cpu")) as device:
        history = train(model, Text(TOKENS[:1500], TOKENS[1500:]), STEPS, seq_len=16, batch_size=4, device=device,
                        progress=False, eval_every=7, checkpoint=folder, checkpoint_every=2)  # fmt: skip
    trained = {name: value.tolist() for name, value in model.named_parameters() if value.requires_grad}
    return {"train": history.train_loss, "validation": history.validation_loss, "weights": trained}


@dataclass
class Tally:
    """What happened to one of the six runs."""

    kills: int = 0
    writing: int = 0  # of the kills, those that left half a checkpoint
    runs: int = 0  # that came to their end, after kills
    different: int = 0  # of these, those that did not end as the run that was never stopped


def start(method: str, processes: int, folder: Path | None, result: Path) -> list[int]:
    """Fork the processes of a run; process 0 writes what came out to a file. Returns their ids."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    return [_fork(method, processes, rank, port, folder, result) for rank in range(processes)]


def _fork(method: str, processes: int, rank: int, port: str, folder: Path | None, result: Path) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a process whose neighbor was killed complains
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        found = json.dumps(run(method, folder))
        if rank == 0:
            result.write_text(found)
        code = 0
    finally:
        os._exit(code)


def wait(children: list[int], seconds: float) -> bool:
    """Wait until all have ended, at most so long. Returns whether they have; those that have leave the list."""
    end = time.monotonic() + seconds
    while children and time.monotonic() < end:
        for child in list(children):
            if os.waitpid(child, os.WNOHANG)[0]:
                children.remove(child)
        time.sleep(0.001)
    return not children


def kill(children: list[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
    wait(children, 60)


def torture(method: str, processes: int, kills: int, lots: random.Random, place: Path) -> Tally:
    """Kill one of the six runs so many times, and hold each that came to its end against the one never stopped."""
    reference, result, tally = place / "reference.json", place / "result.json", Tally()
    began = time.monotonic()
    if not wait(start(method, processes, None, reference), 600):
        raise RuntimeError(f"{method} in {processes} processes does not come to its end")
    duration, number = time.monotonic() - began, 0
    while tally.kills < kills or tally.runs < number:
        number = max(number, tally.runs + 1)
        folder = place / f"run-{number}"
        children = start(method, processes, folder, result)
        if wait(children, lots.uniform(0, duration) if tally.kills < kills else 600):
            tally.runs += 1
            tally.different += not result.exists() or result.read_text() != reference.read_text()
            result.unlink(missing_ok=True)
            continue
        if processes > 1 and lots.random() < 0.5:
            one = [children.pop(lots.randrange(processes))]
            kill(one)
            wait(children, 30)  # the other sees that nobody answers
        kill(children)
        result.unlink(missing_ok=True)
        tally.kills += 1
        tally.writing += bool(list(folder.glob(".partial-*")))
    return tally


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill training runs at random moments and compare where they end.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not hasattr(os, "fork"):
        sys.exit("error: the runs are forked from one process, which this system cannot do")
    lots, rows = random.Random(options.seed), {}
    runs = [(method, processes) for processes in (1, 2) for method in METHODS]
    for index, (method, processes) in enumerate(runs):
        share = options.kills * (index + 1) // len(runs) - options.kills * index // len(runs)
        with tempfile.TemporaryDirectory() as place:
            rows[method, processes] = torture(method, processes, share, lots, Path(place))
        tally = rows[method, processes]
        where = f"{method:6} {processes} process{'es' if processes > 1 else '  '}"
        print(f"{where} {tally.kills:4} kills, {tally.writing:3} of them while writing; "
              f"{tally.runs:3} runs ended, {tally.different} differ", flush=True)  # fmt: skip
    different = sum(tally.different for tally in rows.values())
    print(f"{options.kills} kills: {f'{different} runs differ' if different else 'every run ended with the same bits'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
