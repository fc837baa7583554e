"""QLoRA on a CUDA GPU beside PEFT + bitsandbytes: tokens a second, peak memory, quantization. One process, interleaved.

    make bench-gpu                                    (or: python benchmarks/gpu.py)
    python benchmarks/gpu.py --device cpu --tiny      a rehearsal: this program on CPU tensors, with a small model

Both sides train the same model with the same adapters on the same windows of Shakespeare, in bfloat16 under autocast,
through the same training step. First each is alone on the card, for its peak memory; then both take turns, for their
time. That they train the same thing is checked: their losses must agree. The result goes to benchmarks/results/gpu.md,
that of a rehearsal, which says nothing about a GPU, to build/.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_sides import BUILDERS, COMPILED, OURS, THEIRS, TINY, Setting, Trainer, check_same_losses, compiled, same_start
from measuring import RESULTS, interleaved, machine, median_ratio
from quantize_speed import speed
from torch import nn

from lora_edu import GPT
from lora_edu.engine.compiling import compiler_problem
from lora_edu.memory.activations import predicted_peak_bytes
from lora_edu.memory.peak import PeakMemory
from lora_edu.memory.shapes import GRADIENTS, predicted_bytes
from lora_edu.records import staging

PREDICTED = "predicted for this course, not compiled, by `lora_edu.memory`"


# --- memory --------------------------------------------------------------------------------------------------------


def peak_of_a_step(setting: Setting, build: Callable, base: GPT) -> int:
    """The most bytes of tensors at one moment of a training step, model and optimizer included, alone on the device."""
    gc.collect()
    cuda = setting.device == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    trainer = Trainer(setting, build(setting, base))
    for _ in range(2):  # afterwards the optimizer has its state, and the libraries have what they need
        trainer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    batch = trainer.draw()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        trainer.step(batch)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    state = sum(value.nbytes for state in trainer.optimizer.state.values() for value in state.values())
    with PeakMemory() as memory:  # a tensor counts from the moment that it is first used: all but the state in time
        trainer.step(batch)
    return memory.peak + state


def predicted_peak(setting: Setting) -> int:
    """The same from the model's shape, for ours: what stays, the batch, and what flows at the worst moment."""
    stays = predicted_bytes(setting.config, nf4=True, rank=setting.rank)
    size = {"batch_size": setting.batch_size, "seq_len": setting.config.context, "rank": setting.rank}
    flows = predicted_peak_bytes(setting.config, **size, precision="autocast", nf4=True)
    return sum(stays.values()) - stays[GRADIENTS] + 8 * setting.tokens + flows  # the targets are in what flows


def warm_up_libraries(setting: Setting) -> None:
    """Let cuBLAS take its workspaces, one for each thread that calls it, so that no side is charged for them."""
    layer = nn.Linear(64, 64, device=setting.device)
    for enabled in (False, True):
        with torch.autocast(setting.device, torch.bfloat16, enabled=enabled):
            out = layer(torch.ones(64, 64, device=setting.device, requires_grad=True))
        out.sum().backward()


def memory(setting: Setting, base: GPT) -> tuple[list[str], dict[str, int]]:
    """A table of peaks, and the peaks by name."""
    warm_up_libraries(setting)
    peaks = {name: peak_of_a_step(setting, build, base) for name, build in BUILDERS.items()}
    peaks[PREDICTED] = predicted_peak(setting)
    notes = []
    for name, build in BUILDERS.items():
        try:
            peaks[name + COMPILED] = peak_of_a_step(
                setting, lambda *how, build=build: compiled(how[0], build(*how)), base
            )
        except Exception as error:
            notes += ["", f"{name} could not be compiled: {first_line(error)}."]
    rows = ["| peak of a step | MB | ratio to ours |", "|-|-|-|"]
    rows += [f"| {name} | {peak / 1e6:,.1f} | {peak / peaks[OURS]:.3f} |" for name, peak in peaks.items()]
    return rows + notes, peaks


# --- time ----------------------------------------------------------------------------------------------------------


def trainers_in(setting: Setting, base: GPT) -> tuple[dict[str, Trainer], dict[str, float], list[str]]:
    """Both sides, as they are and compiled; the seconds of each one's first step; what could not be compiled."""
    trainers, first, notes = {}, {}, []
    for suffix in ("", COMPILED):
        models = {name: build(setting, base) for name, build in BUILDERS.items()}
        same_start(models[OURS], models[THEIRS])
        for name, model in models.items():
            trainer = Trainer(setting, compiled(setting, model) if suffix else model)
            start = time.perf_counter()
            try:
                trainer.step()  # ends in .item(), which waits for the GPU
            except Exception as error:  # a compiler that is missing, or a model that it cannot digest
                if not suffix:
                    raise
                notes += ["", f"{name} could not be compiled: {first_line(error)}."]
                continue
            trainers[name + suffix], first[name + suffix] = trainer, time.perf_counter() - start
    return trainers, first, notes


def time_steps(setting: Setting, base: GPT) -> tuple[list[str], dict[str, list[float]]]:
    """A table of tokens a second, with the check that all trained the same, and the times by name."""
    torch.compiler.reset()
    trainers, first, notes = trainers_in(setting, base)
    calls = {name: trainer.step for name, trainer in trainers.items()}
    times = interleaved(calls, setting.device, setting.rounds, setting.steps_a_round)
    rows = ["| QLoRA step | tokens/s | ms | time, ratio to ours | first step |", "|-|-|-|-|-|"]
    for name in times:
        seconds = statistics.median(times[name])
        rows.append(
            f"| {name} | {setting.tokens / seconds:,.0f} | {1000 * seconds:.1f} | "
            f"{median_ratio(times, name, OURS):.3f} | {first[name]:.1f} s |"
        )
    if OURS + COMPILED in times:
        rows += ["", break_even(times, first)]
    return [*rows, "", check_same_losses(trainers), *notes], times


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:200]}"


def break_even(times: dict[str, list[float]], first: dict[str, float]) -> str:
    """After how many steps the compiler has earned back the time of its first step."""
    saved = statistics.median(a - b for a, b in zip(times[OURS], times[OURS + COMPILED], strict=True))
    if saved <= 0:
        return "Compiling does not pay here: a compiled step is no faster."
    return f"Compiling pays from about {(first[OURS + COMPILED] - first[OURS]) / saved:,.0f} steps on."


# --- the report ----------------------------------------------------------------------------------------------------


def goals(times: dict[str, list[float]], peaks: dict[str, int]) -> list[str]:
    """Each goal with its number, met or missed."""
    speed_up = median_ratio(times, THEIRS, OURS)
    checks = [
        ("tokens/s, ratio to PEFT + bitsandbytes", speed_up, "at least 1", speed_up >= 1),
    ]
    if OURS + COMPILED in times and THEIRS + COMPILED in times:
        compiled = median_ratio(times, THEIRS + COMPILED, OURS + COMPILED)
        checks.append(("the same, both compiled", compiled, "at least 1", compiled >= 1))
    against, predicted = peaks[OURS] / peaks[THEIRS], peaks[OURS] / peaks[PREDICTED]
    checks.append(("peak memory, ratio to PEFT + bitsandbytes", against, "at most 1.02", against <= 1.02))
    checks.append(("peak memory, ratio to the prediction", predicted, "0.95 to 1.05", 0.95 <= predicted <= 1.05))
    rows = ["| goal | measured | wanted | |", "|-|-|-|-|"]
    return rows + [
        f"| {what} | {value:.3f} | {wanted} | {'met' if met else 'missed'} |" for what, value, wanted, met in checks
    ]


def card(device: str) -> str:
    """The card, as far as the numbers depend on it."""
    if device != "cuda":
        return "No GPU."
    gpu = torch.cuda.get_device_properties(0)
    precision = torch.get_float32_matmul_precision()
    return (
        f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability {gpu.major}.{gpu.minor}, CUDA "
        f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}; float32 products: {precision!r}."
    )


def report(setting: Setting) -> str:
    """All of it as Markdown."""
    title = "QLoRA on a GPU"
    if setting.device != "cuda":
        title = "Rehearsal on the CPU: these numbers say nothing about a GPU"
    torch.manual_seed(0)
    base = GPT(setting.config)
    peaks_table, peaks = memory(setting, base)
    times_table, times = time_steps(setting, base)
    shape = (
        f"{sum(p.numel() for p in base.parameters()) / 1e6:.1f} M parameters, random weights, rank {setting.rank} on "
        f"all block linears, batches of {setting.batch_size} x {setting.config.context} tokens of Shakespeare, bfloat16"
    )
    lines = [f"# {title}", "", card(setting.device), *machine(setting.device), ""]
    lines += [f"Model: {shape}.", "Written by `benchmarks/gpu.py` (`make bench-gpu`).", ""]
    lines += ["## Goals", "", *goals(times, peaks), "", "## Memory", "", *peaks_table, "", "## Time", "", *times_table]
    lines += ["", "Times are medians over interleaved rounds, ratios medians of the ratios within a round.", ""]
    lines += ["## Quantization", "", "Float32 weights, NF4, block 64.", ""]
    problem = compiler_problem(torch.device(setting.device), setting.backend)
    lines += speed(setting.device, min(9, setting.rounds), setting.layers, None if problem else setting.backend)
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse with a small model; needed on the CPU")
    parser.add_argument("--folder", type=Path, help="default: benchmarks/results, for a rehearsal build")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.tiny:
        sys.exit("error: this benchmark is about a GPU. On the CPU it can be rehearsed only: --device cpu --tiny")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: this torch sees no CUDA GPU (lora-edu doctor says more). Rehearse: --device cpu --tiny")
    if options.tiny and options.device == "cuda":
        sys.exit("error: --tiny is the rehearsal, for --device cpu")
    setting = TINY if options.tiny else Setting()
    text = report(setting)
    print(text)
    folder = options.folder or (Path("build") if options.tiny else RESULTS)
    with staging(folder / ("gpu-rehearsal.md" if options.tiny else "gpu.md")) as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
