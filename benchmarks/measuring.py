"""What the benchmarks share: interleaved timing, peak memory, the competitor's layers, and the machine in words."""

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import bitsandbytes
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def timed(call: Callable, device: str, repeats: int) -> float:
    """Seconds for one call. With one thread on the CPU: processor time, which other programs hardly change."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def interleaved(calls: dict[str, Callable], device: str, rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Run every call in every round; one round to warm up."""
    times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            seconds = timed(call, device, repeats)
            if number:
                times[name].append(seconds)
    return times


def median_ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def peak_bytes(call: Callable, device: str) -> int:
    """The most memory in bytes that `call` had allocated at one moment, its result included."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def bandwidth_share(moved: int, copied: int, time_ratio: float) -> float:
    """Bytes a second, as a share of a copy's. moved, copied: bytes read and written; time_ratio: time / copy's time."""
    return moved / time_ratio / copied


def bitsandbytes_linears(model: nn.Module, compute_dtype: torch.dtype = torch.float32) -> nn.Module:
    """Replace the block linears by bitsandbytes' Linear4bit, in place; they are quantized when the model is moved."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if name in LINEARS:
                new = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, quant_type="nf4", compress_statistics=True,
                    compute_dtype=compute_dtype,
                )  # fmt: skip
                new.weight = bitsandbytes.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
                new.support_avx512bf16_for_cpu = False  # else one forward in eval mode changes the layout of the weight
                setattr(module, name, new)
    # As transformers says it: PEFT then takes its own layer for bitsandbytes instead of the general one.
    model.is_loaded_in_4bit = True
    return model


def facts(device: str) -> dict:
    """The machine, its threads and the versions."""
    kind = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {processor()}"
    packages = {name: version(name) for name in ("torch", "bitsandbytes", "torchao", "peft", "transformers")}
    versions = {"Python": platform.python_version(), **packages}
    return {"machine": kind, "threads": torch.get_num_threads(), "versions": versions}


def machine(device: str) -> list[str]:
    return [in_words(facts(device))]


def in_words(facts: dict) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"Device: {facts['machine']}. Threads: {facts['threads']}. {versions}."


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(': ')[2]}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or "unknown processor"
