"""Forward and backward passes on a CUDA device, without a GPU: no tensor is left on the other side, no type clashes.

The cases run in a process of their own, where `guard.cpp` is loaded before torch. `fake_cuda.py` says what they cannot
show. They need torch's CPU build and a C++ compiler: where the variable CI is set, one that is missing is an error.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
from functools import partial
from itertools import takewhile
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import ROOT, code_cells, load_benchmark, needed
from fake_cuda import a_card, on_card

import lora_edu
from lora_edu import GPT, GPTConfig, evaluate, lora, qlora, quantization, quantize, quantize_linears, train
from lora_edu.engine.precision import gradient_scaler
from lora_edu.memory.paged import PagedAdamW
from lora_edu.texts import Text
from lora_edu.training import trainable_parameters, training_step
from lora_edu.variants import VARIANTS, add_variant

CARD, CONFIG = torch.device("cuda"), GPTConfig(context=16, n_layers=1, n_heads=2, d_model=64)
OTHERS = "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"
TEXT = Text(train=torch.arange(100, dtype=torch.uint8), validation=torch.arange(40, dtype=torch.uint8))


def round_trip(shape, dtype, codebook, double_quant=False, kernel=quantization.kernel):
    with mock.patch.object(quantization, "kernel", kernel):
        quantized = quantize(torch.randn(shape, dtype=dtype, device=CARD), codebook, 64, double_quant)
        on_card(quantized)
        on_card(quantized.dequantize())


def gpt(nf4=False, variant=None, dtype=torch.float32, checkpointing="none", **how) -> GPT:
    """One layer is wrapped, which costs a sixth of all; the cells of notebook 09 wrap all."""
    model = GPT(CONFIG, checkpointing).to(dtype).to(CARD)
    model = quantize_linears(model, skip=("lm_head", *OTHERS), **how) if nf4 else model
    return add_variant(model, variant, 4, 8, targets=["q_proj"]) if variant else model


def step(precision=torch.bfloat16, optimizer=torch.optim.AdamW, **how) -> torch.optim.Optimizer:
    """A training step; in float16 as on a card of compute capability 7.5, with a gradient scaler."""
    model, tokens = gpt(**how).train(), torch.zeros(2, 16, dtype=torch.long, device=CARD)
    made, autocast = optimizer(trainable_parameters(model)), precision != torch.float32
    torch.cuda.get_device_capability.return_value = (7, 5) if precision == torch.float16 else (8, 0)
    training_step(model, tokens, tokens, made, autocast=autocast, scaler=gradient_scaler(CARD, autocast))
    on_card(model)
    return made


def paged():
    for made in (step(optimizer=PagedAdamW), loaded := step(optimizer=PagedAdamW)):
        assert not any(tensor.is_cuda for state in made.state.values() for tensor in state.values()), "not on the host"
        loaded.load_state_dict(step().state_dict())


def merging(variant):
    on_card(lora.merge(model := gpt(variant=variant)))
    if variant != "DoRA":  # whose way back is lost
        on_card(lora.load_adapter_state(lora.unmerge(model), lora.adapter_state(model)))
    on_card(lora.unload(model))


def trained(folder="run"):
    for _ in range(2):  # the second time it comes from its checkpoint
        train(model := gpt(True, "LoRA"), TEXT, 2, seq_len=16, batch_size=2, progress=False, checkpoint=folder)
        on_card(model)


def bench_gpu():
    """What `make bench-gpu` does with our side: the other side's kernels, and the compiler's, cannot be faked."""
    gpu, sides = load_benchmark("gpu"), load_benchmark("gpu_sides")
    setting, base = sides.Setting("cuda", CONFIG, batch_size=2, rank=4), GPT(CONFIG)
    gpu.warm_up_libraries(setting)
    gpu.peak_of_a_step(setting, sides.build_ours, base)
    gpu.interleaved({"ours": sides.Trainer(setting, sides.build_ours(setting, base)).step}, "cuda", 1)
    load_benchmark("quantize_speed").quantize_calls(64, "cuda")["quantize"]()


# Notebook 09 in small. What a cell asserts is computed, and not demanded: nothing has a value here.
SMALL = {"80, batch_size=4, seq_len=256": "3, batch_size=2, seq_len=16", "=160": "=3", "blocks.2": "blocks.0"}
SMALL |= {"blocks[2]": "blocks[0]", "\nassert ": "\n_ = "}


def run_cell(source):
    for written, run in SMALL.items():
        source = source.replace(written, run)
    exec(source, NOTEBOOK)


def control():
    """Must fail, or no other case says anything."""
    torch.zeros(3) + torch.zeros(3, device=CARD)


CASES = {"control": control, "bench-gpu": bench_gpu, "train": trained, "PagedAdamW": paged}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for shape in ((64, 64), (33, 65), (5,), (2050, 2050)):  # the last one is cut into pieces
        for codebook in ("nf2", "nf3", "nf4", "int8"):
            CASES[f"{codebook} of {shape} {dtype}"] = partial(round_trip, shape, dtype, codebook)
    CASES[f"double quantization, {dtype}"] = partial(round_trip, (33, 65), dtype, "nf4", True)
    CASES[f"the definitions, {dtype}"] = partial(round_trip, (33, 65), dtype, "nf4", True, lambda taught: taught)
    CASES[f"all is trained, {dtype}"] = partial(step, dtype)
    CASES[f"QLoRA, {dtype}"] = partial(step, dtype, nf4=True, variant="LoRA")
    CASES[f"QLoRA, products in {dtype}"] = partial(step, nf4=True, variant="LoRA", compute_dtype=dtype)
    CASES[f"LoRA, weights in {dtype}"] = partial(step, variant="LoRA", dtype=dtype)
for name in VARIANTS:
    CASES |= {name: partial(step, torch.float32, variant=name), f"merge {name}": partial(merging, name)}
    if name not in ("LoRA", "PiSSA"):  # the one is there already, the other changes a weight, and codes are none
        CASES[f"{name} on NF4"] = partial(step, nf4=True, variant=name)
CASES |= {
    "reentrant": partial(step, checkpointing="reentrant"),
    "notebook 14, whose model names no device": partial(
        step, nf4=True, variant="LoRA", dtype=torch.bfloat16, checkpointing="non-reentrant"
    ),
    "merge into NF4": lambda: on_card(qlora.merge_into_nf4(gpt(True, "LoRA"))),
    "dequantize": lambda: on_card(qlora.dequantize_linears(gpt(True, "LoRA"))),
    "generate": lambda: gpt(True, "LoRA").generate("low ", 3),
    "beyond the context": lambda: on_card(gpt().generate(torch.zeros(2, 15).long(), 3, top_k=3)),
    "evaluate": lambda: evaluate(gpt(), TEXT.validation, seq_len=16),
}
NOTEBOOK: dict = {"load_adapter": lora_edu.load_adapter}  # what its cells have made so far, and one that is not run
computed = takewhile(lambda cell: "quality_runs" not in cell.source, code_cells("09_qlora_gpt"))  # then: stored
for number, cell in enumerate(computed):
    if number and "lab_moved" not in cell.source:  # not the set-up, nor the shipped adapter, which is always on the CPU
        CASES[f"notebook 09, code cell {number}"] = partial(run_cell, cell.source)


def main() -> None:
    """One line for each case: its name, and what it raised."""
    out, sys.stdout = sys.stdout, sys.stderr
    load_benchmark("gpu")  # the other libraries are imported before there is a card
    lora_edu.load_base = lambda size: gpt()
    lora_edu.load_text = load_benchmark("gpu_sides").load_text = lambda name: TEXT
    with a_card():
        for name, case in CASES.items():
            try:
                raised = case() and None
            except Exception:
                raised = traceback.format_exc(limit=-5)
            print(json.dumps([name, raised]), file=out, flush=True)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Name -> what it raised, for each case. Here the card is compiled and the process is run."""
    if sys.platform != "linux" or torch.version.cuda or torch.version.hip:
        pytest.skip("only for a CPU build of torch on Linux: test_cuda.py is for a real GPU")
    compiler = needed(shutil.which("c++"), "a C++ compiler")
    folder, home = tmp_path_factory.mktemp("card"), Path(torch.__file__).parent
    libraries = [f"-L{home}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home}/lib"]
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{home}/include", Path(__file__).with_name("guard.cpp")]
    subprocess.run([*command, "-o", folder / "guard.so", *libraries], check=True)
    code = "import ctypes; ctypes.CDLL('./guard.so'); import test_fake_cuda; test_fake_cuda.main()"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    settings = os.environ | dict(PYTHONPATH=paths, LORA_EDU_DEVICE="cuda", LORA_EDU_SIZE="laptop", MPLBACKEND="agg")
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return dict(map(json.loads, run.stdout.splitlines()))


def test_no_case_is_lost(answers):
    assert list(answers) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_on_a_card(name, answers):
    if name == "control":
        assert "on the same device" in answers[name]
    else:
        assert answers[name] is None, answers[name]
