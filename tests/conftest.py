"""What several tests share: a tiny model, a tiny text, and the same random state at the start of each test."""

import copy
import importlib.util
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from stopped_runs import Killed, go_on, stopped_in, stored_steps, with_adapters

from lora_edu import GPT, GPTConfig, add_lora, evaluate, quantize_linears, train
from lora_edu.engine import kernels
from lora_edu.lora import lora_layers
from lora_edu.measures import kl_and_flips
from lora_edu.memory import activations
from lora_edu.observing import layer_inputs
from lora_edu.texts import Text

TINY = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=16)


os.environ.setdefault("LORA_EDU_DEVICE", "cpu")  # on a computer with a GPU too: tests of the GPU ask for it by name
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in `make test &`; programs that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
BENCHMARKS = ROOT / "benchmarks"
PAGES = sorted(NOTEBOOKS.glob("*.ipynb"))


def needed(found, what: str):
    """What a test needs. Where it is missing the test is skipped; with CI set, where all of it belongs, it fails."""
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not here")
    return found


def library(name: str) -> ModuleType:
    """A module of another library, which the extra `test` installs."""
    needed(importlib.util.find_spec(name.partition(".")[0]), name)
    return importlib.import_module(name)


def markdown(cells: Iterable[nbformat.NotebookNode]) -> str:
    """The text of cells, without their code."""
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def code_cells(stem: str) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, by the name of its file."""
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def code_cell(stem: str, mark: str) -> nbformat.NotebookNode:
    """The one code cell of a notebook that contains this piece of code."""
    (found,) = (cell for cell in code_cells(stem) if mark in cell.source)
    return found


def load_benchmark(name: str) -> ModuleType:
    """A program of the folder benchmarks/ as a module. It imports its neighbors, as it does when it is run."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: every decoded weight gets memory of its own."""
    fresh = contextmanager(lambda n, dtype, device: (yield torch.empty(n, dtype=dtype, device=device)))
    monkeypatch.setattr(kernels, "scratch", fresh)


# What is done to a model: the names of the course for it, and what `in_precision` is asked for.
WAYS = {
    "full": {},
    "LoRA on q and v": {"rank": 4, "targets": ("q_proj", "v_proj")},
    "LoRA on all linears": {"rank": 4},
    "QLoRA": {"rank": 4, "nf4": True},
}
PRECISIONS = list(activations.PRECISIONS)


def in_precision(model, precision="float32", rank=None, targets="all-linear", nf4=False, **how):
    """The model in a type, then quantized, then with adapters in float32, as add_lora and PEFT make them."""
    model = model.to(torch.bfloat16) if precision.startswith("bfloat16") else model
    if nf4:
        quantize_linears(model, **how)
    if rank:
        add_lora(model, rank, 3, targets)
    return model.to(torch.bfloat16) if precision == "bfloat16" else model


def moved(model: torch.nn.Module, std: float = 1.0) -> torch.nn.Module:
    """Gives every adapter of a model a B that is not zero."""
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=std)
    return model


def random_gpt() -> GPT:
    """A tiny GPT with weights so large that each block moves its guess."""
    model = GPT(TINY).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_()
    return model


@pytest.fixture(autouse=True)
def same_state():
    # torch.manual_seed notes a stack for each kind of GPU that is not in use: a millisecond, for each test
    (torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed)(0)
    yield
    torch.set_default_dtype(torch.float32)  # whatever the test has set


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def tiny_gpt():
    """A GPT with random weights in which no layer is square on both sides of the MLP."""
    return GPT(TINY).eval()


@pytest.fixture
def tiny_text():
    """A text that a tiny model can learn: two words, over and over."""
    tokens = torch.tensor(list(b"low rank. " * 60), dtype=torch.uint8)
    return Text(train=tokens[:500], validation=tokens[500:])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of a teacher."""
    monkeypatch.setenv("LORA_EDU_CLASSROOM", str(tmp_path / "classroom"))
    (tmp_path / "classroom").mkdir()
    return tmp_path / "classroom"


@pytest.fixture
def in_small(tiny_gpt, tiny_text, monkeypatch):
    """Called with modules of experiments: these run on the tiny model and text, in windows of 32 tokens."""
    small = {
        "load_base": lambda *_, **__: copy.deepcopy(tiny_gpt),
        "load_text": lambda name: tiny_text,
        "train": lambda *arguments, **options: train(*arguments, **options | {"seq_len": 32}),
        "evaluate": lambda model, tokens, **_: evaluate(model, tokens, seq_len=32),
        "kl_and_flips": lambda model, reference, tokens, **_: kl_and_flips(model, reference, tokens, seq_len=32),
        "layer_inputs": lambda model, tokens: layer_inputs(model, tokens, 32),
    }

    def put_into(*modules):
        for module in modules:
            for name in small.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, small[name])
        return tiny_gpt

    return put_into


@pytest.fixture
def stopped(tiny_gpt, tiny_text, tmp_path):
    """A folder with the checkpoints of steps 2 and 4 of a run of 6 steps."""
    with pytest.raises(Killed), stopped_in(5, Killed()):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run")
    assert stored_steps(tmp_path / "run") == [2, 4]
    return tmp_path / "run"


@pytest.fixture
def stop_in_update(monkeypatch):
    """Called with a number: the stop button is pressed in the middle of that update, counted from 0, and the list of
    the updates that are made is returned."""
    step = torch.optim.AdamW.step

    def at(number):
        made = []

        def stopping(optimizer, *arguments):
            if len(made) == number:
                os.kill(os.getpid(), signal.SIGINT)
            made.append(1)
            return step(optimizer, *arguments)

        monkeypatch.setattr(torch.optim.AdamW, "step", stopping)
        return made

    return at
