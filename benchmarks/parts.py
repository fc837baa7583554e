"""How each part of the page of `make bench` is measured; `page.py` holds the rows, their peers and goals.

A part is a function from the number of rounds to seconds, or shares, a list for each name.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from dial import dial
from driver import chromium
from measuring import interleaved
from quantize_speed import SIZES, dequantize_calls, layer_calls, quantize_calls, step_calls
from safetensors.torch import load_file, save_file
from slider_latency import PRESSES, latencies, p95
from wrong_answers import unspecific

from lora_course.programs.inspecting import inspect_adapter
from lora_edu import GPT, GPTConfig
from lora_edu.gpt import sample
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS

ROOT = Path(__file__).parent.parent
SLIDERS = ("01_low_rank", "05_blocks", "06_nf4", "14_which_card")
CORE = [f"{number:02}" for number in range(10)]
Times = dict[str, list[float]]  # seconds of each round, by name

REUSED, FRESH, LAYER = "dequantize into a reused buffer", "dequantize, fresh output", "forward and backward"
BNB, GPT2, GPT2_CACHE = "bitsandbytes", "GPT-2 of transformers, no cache", "GPT-2 of transformers"


def layers_of(make: Callable, names: tuple[str, ...], rounds: int, sizes=SIZES) -> Times:
    """make: the calls for one size, of which those in `names` are timed. Names of times end in the size."""
    times = {}
    for size, repeats in sizes:
        calls = make(size, "cpu")
        measured = interleaved({name: calls[name] for name in names}, "cpu", rounds, repeats)
        times |= {f"{name} {size}": values for name, values in measured.items()}
    return times


def sampling(rounds: int) -> Times:
    """200 bytes after 32, with the course's GPT and with GPT-2 in the same shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPTConfig()
    shape = dict(n_positions=config.context, n_embd=config.d_model, n_layer=config.n_layers, n_head=config.n_heads)
    ours = GPT(config).eval()
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, bos_token_id=0, eos_token_id=0, **shape)).eval()
    prompt = torch.randint(1, 256, (1, 32))
    options = dict(do_sample=True, temperature=0.8, top_k=0, max_new_tokens=200, min_new_tokens=200, pad_token_id=0)
    options["attention_mask"] = torch.ones_like(prompt)
    calls = {
        "ours": lambda: ours.generate(prompt, 200),
        "plain": lambda: plain(ours, prompt, 200),
        GPT2: lambda: theirs.generate(prompt, use_cache=False, **options),
        GPT2_CACHE: lambda: theirs.generate(prompt, **options),
    }
    return interleaved(calls, "cpu", min(rounds, 3))


@torch.no_grad()
def plain(model: GPT, tokens: torch.Tensor, count: int) -> None:
    """What `generate` did before it kept anything."""
    for _ in range(count):
        chosen = sample(model(tokens)[0][:, -1], 0.8, None)
        tokens = torch.cat([tokens, chosen], dim=1)


def importing(rounds: int) -> Times:
    """Fresh processes, one after the other in each round."""
    programs = {
        "import lora_edu": "import lora_edu",
        "every name": "import lora_edu\nfor name in lora_edu.__all__: getattr(lora_edu, name)",
        "import torch": "import torch",
    }
    times: Times = {name: [] for name in programs}
    for number in range(min(rounds, 5) + 1):
        for name, code in programs.items():
            seconds = processor_seconds("-c", code)
            if number:
                times[name].append(seconds)
    return times


def sliders(rounds: int) -> Times:
    """Everything between the key and the frame that is painted, in a real browser: no processor time."""
    chromium()  # says so at once where there is none
    paths = [ROOT / "notebooks" / f"{name}.ipynb" for name in SLIDERS]
    times = {name: [ms / 1000 for ms in measured] for name, measured in latencies(paths, PRESSES)}
    slowest = {"median": max(map(statistics.median, times.values())), "95%": max(map(p95, times.values()))}
    return times | {f"slowest {name}": [value] for name, value in slowest.items()}


def notebooks(rounds: int) -> Times:
    """Each of the core in a fresh kernel, once."""
    times = {}
    for number in CORE:
        path = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
        seconds = processor_seconds(
            "-m", "lora_course.setup.report", str(path), "--folder", str(ROOT / "build" / "bench")
        )
        times[number] = [seconds]
        print(f"  {path.stem}: {seconds:.0f} s", flush=True)
    slowest = max(times[number][0] for number in CORE[:-1])
    return times | {"00 to 09": [sum(times[number][0] for number in CORE)], "slowest of 00 to 08": [slowest]}


def book(rounds: int) -> Times:
    if not importlib.util.find_spec("myst_nb"):
        raise SystemExit("the packages of the extra `book` are not installed")
    start = time.perf_counter()
    seconds = processor_seconds("-m", "book", "--folder", str(ROOT / "build" / "bench" / "book"))
    return {"book": [seconds], "book, by the clock": [time.perf_counter() - start]}


def page_dial(rounds: int) -> Times:
    """The model in the page of the book that the part `book` has built, or `make book`."""
    built = [folder / "index.html" for folder in (ROOT / "build" / "bench" / "book", ROOT / "build" / "book")]
    page = next((path for path in built if path.exists()), None)
    if page is None:
        raise SystemExit("the book is not built: make book")
    return dial(page.as_uri(), rounds)


def inspecting(rounds: int) -> Times:
    """The doctor for adapters before one of rank 16 on all linear layers of a LLaMA 7B, in bfloat16; and reading it."""
    inside = {"q_proj": (4096, 4096), "k_proj": (4096, 4096), "v_proj": (4096, 4096), "o_proj": (4096, 4096)}
    inside |= {"gate_proj": (11008, 4096), "up_proj": (11008, 4096), "down_proj": (4096, 11008)}
    tensors = {}
    for block in range(32):
        for name, (d_out, d_in) in inside.items():
            path = f"{PREFIX}model.layers.{block}.{name}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(16, d_in, dtype=torch.bfloat16)
            tensors[f"{path}.lora_B.weight"] = 0.01 * torch.randn(d_out, 16, dtype=torch.bfloat16)
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": list(inside)}
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder) / WEIGHTS)
        (Path(folder) / CONFIG).write_text(json.dumps(config))
        assert inspect_adapter(folder).verdict.startswith("alive")
        calls = {"inspect": lambda: inspect_adapter(folder), "read": lambda: load_file(Path(folder) / WEIGHTS)}
        return interleaved(calls, "cpu", rounds)


def processor_seconds(*arguments: str) -> float:
    """What a Python program and its children take of a processor, which other programs hardly change."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise RuntimeError(f"python {' '.join(arguments[:2])} ended with {done.returncode}: {last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


PARTS: dict[str, Callable[[int], Times]] = {
    "quantize": lambda rounds: layers_of(quantize_calls, ("quantize", BNB), rounds, ((4096, 1), (512, 5))),
    "dequantize": lambda rounds: layers_of(dequantize_calls, (REUSED, FRESH, BNB), 2 * rounds),
    "layer": lambda rounds: layers_of(layer_calls, (LAYER, BNB), rounds, ((4096, 1),)),
    "step": lambda rounds: interleaved(step_calls("cpu"), "cpu", rounds),
    "sampling": sampling,
    "import": importing,
    "sliders": sliders,
    "book": book,
    "dial": page_dial,
    "checks": lambda rounds: {name: [unspecific(k)] for k, name in ((1, "one slip"), (2, "two slips"))},
    "inspect": inspecting,
    "notebooks": notebooks,
}
