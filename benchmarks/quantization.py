"""Speed and memory of the course's quantization beside bitsandbytes, torchao and PEFT, in one process, interleaved.

    make bench                                          (or: python benchmarks/quantization.py --threads 1)

Every round runs each competitor once, one after the other, so that a busy machine slows all of them. A ratio is taken
within a round; the table gives the median of the ratios. On a computer with a CUDA GPU the same program runs there too.
The result goes to benchmarks/results/quantization-<device>.md.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import functional
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchao.quantization import to_nf4

from lora_edu import GPT, GPTConfig, add_lora, quantize, quantize_linears

COPY = "copy of as many bytes, reused buffer"
RESULTS = Path(__file__).parent / "results"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


# --- measuring -----------------------------------------------------------------------------------------------------


def timed(call: Callable, device: str, repeats: int) -> float:
    """Seconds for one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


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


# --- the three parts -----------------------------------------------------------------------------------------------


def speed(device: str, rounds: int) -> list[str]:
    """Quantize and dequantize a layer of a 7B-class model and one of the course's size."""
    rows = ["| layer | what | time | bitsandbytes' time | ratio | lowest, highest | goal |", "|-|-|-|-|-|-|-|"]
    for size, repeats in [(4096, 1), (512, 20)]:
        x = torch.randn(size, size, device=device)
        ours, (codes, state) = quantize(x), functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
        theirs = to_nf4(x)
        out = torch.empty_like(x)
        times = interleaved(
            {
                "quantize": lambda x=x: quantize(x),
                "bitsandbytes": lambda x=x: functional.quantize_4bit(x, blocksize=64, quant_type="nf4"),
                "quantize, torchao": lambda x=x: to_nf4(x),
            },
            device, rounds, max(1, repeats // 4),
        )  # fmt: skip
        times_back = interleaved(
            {
                "dequantize into a reused buffer": lambda ours=ours, out=out: ours.dequantize(out),
                "dequantize, fresh output": lambda ours=ours: ours.dequantize(),
                "bitsandbytes": lambda codes=codes, state=state: functional.dequantize_4bit(codes, state),
                "dequantize, torchao": lambda theirs=theirs: theirs.get_original_weight(),
                COPY: lambda x=x, out=out: out.copy_(x),
            },
            device, 2 * rounds, repeats,
        )  # fmt: skip
        for measured in (times, times_back):
            for name in measured:
                if name != "bitsandbytes":
                    rows.append(speed_row(size, name, measured))
        copied = median_ratio(times_back, "dequantize into a reused buffer", COPY)
        share = bandwidth_share(ours.nbytes + out.nbytes, 2 * out.nbytes, copied)
        rows.append(
            f"| {size} x {size} | dequantize into a reused buffer / copy: {copied:.2f} times its time, "
            f"{share:.0%} of its bandwidth | | | | | |"
        )
    return rows


def speed_row(size: int, name: str, times: dict[str, list[float]]) -> str:
    goals = {"quantize": 0.3, "dequantize into a reused buffer": 0.6} if size == 4096 else {}
    ratio = median_ratio(times, name, "bitsandbytes")
    ms, base_ms = (1000 * statistics.median(times[key]) for key in (name, "bitsandbytes"))
    goal = f"at most {goals[name]}: {'met' if ratio <= goals[name] else 'missed'}" if name in goals else ""
    ratios = [a / b for a, b in zip(times[name], times["bitsandbytes"], strict=True)]
    return (
        f"| {size} x {size} | {name} | {ms:.2f} ms | {base_ms:.2f} ms | {ratio:.3f} | "
        f"{min(ratios):.2f} to {max(ratios):.2f} | {goal} |"
    )


def bandwidth_share(moved: int, copied: int, time_ratio: float) -> float:
    """Bytes a second, as a share of a copy's. moved, copied: bytes read and written; time_ratio: time / copy's time."""
    return moved / time_ratio / copied


def memory(device: str, rounds: int) -> list[str]:
    """Peak extra memory and time per value against the size of the layer."""
    rows = [
        "| layer | values | extra memory, quantize | extra memory, dequantize | ns a value, quantize | dequantize |"
    ]
    rows.append("|-|-|-|-|-|-|")
    for shape in [(1024, 1024), (2048, 2048), (4096, 4096), (11008, 4096)]:
        x = torch.randn(shape, device=device)
        ours, out = quantize(x, double_quant=True), torch.empty_like(x)
        extra = peak_bytes(lambda x=x: quantize(x, double_quant=True), device) - ours.nbytes
        extra_back = peak_bytes(lambda ours=ours, out=out: ours.dequantize(out), device)
        times = interleaved(
            {"quantize": lambda x=x: quantize(x, double_quant=True), "back": lambda q=ours, out=out: q.dequantize(out)},
            device, rounds,
        )  # fmt: skip
        each = [1e9 * statistics.median(times[key]) / x.numel() for key in ("quantize", "back")]
        rows.append(
            f"| {shape[0]} x {shape[1]} | {x.numel() / 1e6:.1f} M | {extra / 1e6:.1f} MB | {extra_back / 1e6:.1f} MB "
            f"| {each[0]:.2f} | {each[1]:.2f} |"
        )
        largest = max(extra, extra_back)
    met = "met" if largest < 300e6 else "missed"
    rows += ["", f"Extra: at the peak, without input and result. Goal: under 300 MB for the last layer: {met}."]
    return [*rows, *one_at_a_time(device)]


def one_at_a_time(device: str, size: tuple[int, int] = (11008, 4096), layers: int = 4) -> list[str]:
    """The peak while `quantize_linears` works through several layers of a 7B-class model."""
    model = nn.ModuleList(nn.Linear(*size, bias=False, device=device) for _ in range(layers))
    peak = peak_bytes(lambda: quantize_linears(model), device)
    kept = sum(buffer.nbytes for buffer in model.buffers())
    extra = peak - kept
    return [
        "",
        f"`quantize_linears` on {layers} layers of {size[0]} x {size[1]}: {extra / 1e6:.1f} MB at the peak beyond the "
        f"{kept / 1e6:.1f} MB that stay, and the float32 weights go as it moves on: "
        f"{'met' if extra < 300e6 else 'missed'}.",
    ]


def bitsandbytes_linears(model: nn.Module) -> nn.Module:
    """Replace the block linears by bitsandbytes' Linear4bit, in place."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if name in LINEARS:
                new = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, quant_type="nf4", compress_statistics=True,
                    compute_dtype=torch.float32,
                )  # fmt: skip
                new.weight = bitsandbytes.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
                new.support_avx512bf16_for_cpu = False  # else one forward in eval mode changes the layout of the weight
                setattr(module, name, new)
    return model


def training_step(model: nn.Module, tokens: torch.Tensor) -> Callable:
    """One step: forward, backward, AdamW on what is trained."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step() -> None:
        model(inputs, targets)[1].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps(device: str, rounds: int) -> list[str]:
    """A LoRA step, a QLoRA step and the same with PEFT, on the course's GPT: 8 sequences of 256 tokens."""
    base = GPT(GPTConfig()).requires_grad_(False).to(device)
    tokens = torch.randint(0, 256, (8, 257), device=device)
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, lora_dropout=0.0)
    models = {
        "LoRA": add_lora(copy.deepcopy(base), rank=8, alpha=16, targets="all-linear"),
        "QLoRA": add_lora(quantize_linears(copy.deepcopy(base)), rank=8, alpha=16, targets="all-linear"),
        "LoRA, PEFT": get_peft_model(copy.deepcopy(base), adapters),
        "QLoRA, PEFT + bitsandbytes": get_peft_model(bitsandbytes_linears(copy.deepcopy(base)).to(device), adapters),
    }
    trained = {sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models.values()}
    assert len(trained) == 1, "the four models must train the same number of parameters"
    times = interleaved({name: training_step(model.train(), tokens) for name, model in models.items()}, device, rounds)
    rows = ["| step, 2,048 tokens | time | ratio to LoRA | goal |", "|-|-|-|-|"]
    for name in models:
        ratio = median_ratio(times, name, "LoRA")
        goal = f"at most 1.1: {'met' if ratio <= 1.1 else 'missed'}" if name == "QLoRA" else ""
        rows.append(f"| {name} | {1000 * statistics.median(times[name]):.0f} ms | {ratio:.3f} | {goal} |")
    against = median_ratio(times, "QLoRA", "QLoRA, PEFT + bitsandbytes")
    word = "met" if against <= 1.0 else "missed"
    rows.append(f"| QLoRA / PEFT + bitsandbytes | | {against:.3f} | at most 1.0: {word} |")
    return rows


# --- the report ----------------------------------------------------------------------------------------------------


def machine(device: str) -> list[str]:
    kind = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {processor()}"
    packages = ["torch", "bitsandbytes", "torchao", "peft"]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [f"Device: {kind}. Threads: {torch.get_num_threads()}. Python {platform.python_version()}, {versions}."]


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(': ')[2]}, {torch.backends.cpu.get_cpu_capability()}"
    return platform.processor() or "unknown processor"


def report(device: str, rounds: int) -> str:
    lines = [f"# Quantization on {device.upper()}: speed and memory", ""]
    lines += machine(device)
    lines += ["", "Float32 weights, NF4, block 64. Ratios are medians over interleaved rounds; under 1 is faster."]
    lines += ["Written by `benchmarks/quantization.py` (`make bench`).", "", "## Speed", ""]
    lines += speed(device, rounds)
    lines += ["", "## Memory and cost against size, with double quantization", ""]
    lines += memory(device, rounds)
    lines += ["", "## A training step", ""]
    lines += steps(device, rounds)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for all competitors (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: both where there is a GPU, else the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    devices = [arguments.device] if arguments.device else ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        text = report(device, arguments.rounds)
        print(text)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"quantization-{device}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
