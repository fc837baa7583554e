"""Speed and memory of the course's quantization beside bitsandbytes, torchao and PEFT, in one process, interleaved.

    python benchmarks/quantize_speed.py --threads 1

Every round runs each competitor once, one after the other, so that a busy machine slows all of them. A ratio is taken
within a round; the table gives the median of the ratios. On a computer with a CUDA GPU the same program runs there too.
The result goes to benchmarks/results/quantization-<device>.md.
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from bitsandbytes import functional
from measuring import (
    LINEARS,
    RESULTS,
    bandwidth_share,
    bitsandbytes_linears,
    interleaved,
    machine,
    median_ratio,
    peak_bytes,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torchao.quantization import to_nf4

from lora_edu import GPT, GPTConfig, add_lora, quantize, quantize_linears
from lora_edu.engine import kernels
from lora_edu.qlora import NF4Linear
from lora_edu.quantization import QuantizedTensor

COMPILED = "dequantize, compiled, fresh output"
LOOK_UP = "the look-up alone: a byte, two values"
COPY = "copy of as many bytes, reused buffer"
SIZES = ((4096, 1), (512, 20))  # of a square layer, and how often a call is repeated within one measurement
REPEATS_ON_A_GPU = 20  # times as many: there a call takes microseconds
BYTES_IN_4_BITS = 1 / 2 + 4 / 64  # of one weight: its code, and its share of the block's constant


# --- the four parts ------------------------------------------------------------------------------------------------


def speed(
    device: str, rounds: int, sizes: tuple[tuple[int, int], ...] = SIZES, backend: str | None = None
) -> list[str]:
    """Quantize and dequantize a layer of a 7B-class model and one of the course's size.

    backend: of torch.compile, for one row more: the weight from its codes in one expression (`quantization.decode`).
    """
    rows = ["| layer | what | time | bitsandbytes' time | ratio | lowest, highest |", "|-|-|-|-|-|-|"]
    for size, repeats in sizes:
        repeats *= REPEATS_ON_A_GPU if device == "cuda" else 1
        times = interleaved(quantize_calls(size, device), device, rounds, max(1, repeats // 4))
        times_back = interleaved(dequantize_calls(size, device, backend), device, 2 * rounds, repeats)
        for measured in (times, times_back):
            rows += [speed_row(size, name, measured) for name in measured if name != "bitsandbytes"]
        moved, copied = (BYTES_IN_4_BITS + 4) * size**2, 2 * 4 * size**2  # read and written
        for name in (name for name in times_back if "torchao" not in name and name not in (COPY, LOOK_UP)):
            slower = median_ratio(times_back, name, COPY)
            rows.append(
                f"| {size} x {size} | {name} / copy: {slower:.2f} times its time, "
                f"{bandwidth_share(moved, copied, slower):.0%} of its bandwidth | | | | |"
            )
        rate = copied / statistics.median(times_back[COPY]) / 1e9
        rows.append(f"| {size} x {size} | measured copy bandwidth: {rate:,.0f} GB/s, read and written | | | | |")
    return rows


def quantize_calls(size: int, device: str) -> dict[str, Callable]:
    """Each competitor quantizes one square layer."""
    x = torch.randn(size, size, device=device)
    return {
        "quantize": lambda: quantize(x),
        "bitsandbytes": lambda: functional.quantize_4bit(x, blocksize=64, quant_type="nf4"),
        "quantize, torchao": lambda: to_nf4(x),
    }


def dequantize_calls(size: int, device: str, backend: str | None = None) -> dict[str, Callable]:
    """Each competitor brings one square layer back to float32. backend: as for `speed`."""
    x = torch.randn(size, size, device=device)
    ours, (codes, state) = quantize(x), functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    theirs, out = to_nf4(x), torch.empty_like(x)
    calls = {
        "dequantize into a reused buffer": lambda: ours.dequantize(out),
        "dequantize, fresh output": lambda: ours.dequantize(),
        "bitsandbytes": lambda: functional.dequantize_4bit(codes, state),
        "dequantize, torchao": lambda: theirs.get_original_weight(),
        LOOK_UP: look_up(ours, out),
        COPY: lambda: out.copy_(x),
    }
    if backend:
        decoded = torch.compile(QuantizedTensor.dequantize, backend=backend, dynamic=False)
        calls[COMPILED] = lambda: decoded(ours)
    return calls


def look_up(quantized: QuantizedTensor, out: Tensor) -> Callable:
    """torch's part of decoding that nothing in Python can make faster: index_select, all else prepared."""
    table, index = kernels.byte_table(quantized.codebook), quantized.codes.int()
    places = out.view(-1).view(table.dtype)
    return lambda: torch.index_select(table, 0, index, out=places)


def speed_row(size: int, name: str, times: dict[str, list[float]]) -> str:
    ms, base_ms = (1000 * statistics.median(times[key]) for key in (name, "bitsandbytes"))
    ratios = [a / b for a, b in zip(times[name], times["bitsandbytes"], strict=True)]
    return (
        f"| {size} x {size} | {name} | {ms:.2f} ms | {base_ms:.2f} ms | "
        f"{statistics.median(ratios):.3f} | {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def layers(device: str, rounds: int, sizes: tuple[int, ...] = (4096, 1024, 512), n_tokens: int = 128) -> list[str]:
    """A square layer in 4 bits, double quantization, float32 product: forward, and backward to the input."""
    rows = [f"| layer, {n_tokens} tokens | what | time | bitsandbytes' time | ratio | lowest, highest |"]
    rows.append("|-|-|-|-|-|-|")
    for size in sizes:
        times = interleaved(layer_calls(size, device, n_tokens), device, 2 * rounds, max(1, 2**20 // size**2))
        rows += [speed_row(size, name, times) for name in times if name != "bitsandbytes"]
    return rows


def layer_calls(size: int, device: str, n_tokens: int = 128) -> dict[str, Callable]:
    """Forward and backward of one square layer, for each competitor."""
    linear = nn.Linear(size, size)
    theirs = bitsandbytes_linears(nn.ModuleDict({LINEARS[0]: copy.deepcopy(linear)}))
    x, grad_y = torch.randn(2, n_tokens, size, device=device).unbind()
    return {
        "forward and backward": forward_and_backward(NF4Linear.from_linear(linear.to(device)), x, grad_y),
        "bitsandbytes": forward_and_backward(theirs.to(device)[LINEARS[0]], x, grad_y),
        "forward and backward, a full weight": forward_and_backward(linear.requires_grad_(False), x, grad_y),
    }


def forward_and_backward(layer: nn.Module, x: Tensor, grad_y: Tensor) -> Callable:
    x = x.clone().requires_grad_(True)

    def run() -> None:
        x.grad = None
        layer(x).backward(grad_y)

    return run


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
    times = interleaved(step_calls(device), device, rounds)
    rows = ["| step, 2,048 tokens | time | ratio to LoRA |", "|-|-|-|"]
    for name in times:
        seconds, ratio = statistics.median(times[name]), median_ratio(times, name, "LoRA")
        rows.append(f"| {name} | {1000 * seconds:.0f} ms | {ratio:.3f} |")
    ratio = median_ratio(times, "QLoRA", "QLoRA, PEFT + bitsandbytes")
    return [*rows, f"| QLoRA / PEFT + bitsandbytes | | {ratio:.3f} |"]


def step_calls(device: str) -> dict[str, Callable]:
    """A training step of each competitor. All train as many numbers."""
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
    return {name: training_step(model.train(), tokens) for name, model in models.items()}


# --- the report ----------------------------------------------------------------------------------------------------


def report(device: str, rounds: int) -> str:
    lines = [f"# Quantization on {device.upper()}: speed and memory", ""]
    lines += machine(device)
    lines += ["", "Float32 weights, NF4, block 64. Ratios are medians over interleaved rounds; under 1 is faster."]
    lines += ["With one thread the times are the processor's, without what other programs took of it."]
    lines += ["Written by `benchmarks/quantize_speed.py`; `make bench` has the goals.", "", "## Speed", ""]
    lines += speed(device, rounds)
    lines += [
        "",
        "A layer that fits into the cache is bound by the look-up, in which torch reads the table once a byte;",
        "bitsandbytes' compiled code looks up 16 values at once in a register.",
    ]
    lines += ["", "## A layer", ""]
    lines += layers(device, rounds)
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
