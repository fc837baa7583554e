"""llama.cpp beside us: its converter of adapters, and a model that speaks in it.

The converter comes out of the source package of llama-cpp-python, pinned by its sha256: three things of it are unpacked
into the cache, and nothing is installed. The extra `clients` installs xllamacpp, a wheel with llama.cpp inside.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from lora_edu.downloads import DownloadError
from lora_edu.files import cache_dir
from lora_edu.records import sha256, staging

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
PARTS = ("convert_lora_to_gguf.py", "conversion/", "gguf-py/gguf/")


def converter() -> Path:
    """The folder with convert_lora_to_gguf.py, fetched once. Raises DownloadError."""
    folder = cache_dir() / f"llama.cpp-{VERSION}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=llama-cpp-python"]
            pip = subprocess.run([*command, "--dest", place, f"llama-cpp-python=={VERSION}"], capture_output=True)
            archives = list(Path(place).glob("*.tar.gz"))
            if not archives or sha256(archives[0]) != SHA256:
                said = pip.stderr.decode()[-300:] or "it is not the pinned one"
                raise DownloadError(f"the converter of llama.cpp could not be downloaded ({said}): check the network")
            with staging(folder) as target, tarfile.open(archives[0]) as archive:
                for member in archive.getmembers():
                    member.name = member.name.removeprefix(INSIDE)
                    if member.isfile() and member.name.startswith(PARTS) and member.name.endswith(".py"):
                        archive.extract(member, target, filter="data")
    return folder


def convert(adapter: Path, base: Path, into: Path) -> subprocess.CompletedProcess:
    """Run the converter on an adapter. base: a folder with the base's config.json."""
    folder = converter()
    script = str(folder / "convert_lora_to_gguf.py")
    command = [sys.executable, script, str(adapter), "--base", str(base), "--outfile", str(into)]
    environment = os.environ | {"PYTHONPATH": str(folder / "gguf-py")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def as_gguf(adapter: Path, model: nn.Module) -> Path:
    """An adapter's folder as one file beside it, which llama.cpp reads. model: the one that it was trained on.

    Raises RuntimeError with the converter's words.
    """
    # Only architecture and shapes matter to the converter, and it refuses a config that says "gguf".
    kept = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    kept["architectures"] = [type(model).__name__]
    with tempfile.TemporaryDirectory() as base:
        Path(base, "config.json").write_text(json.dumps(kept, default=str), encoding="utf-8")
        done = convert(adapter, Path(base), adapter.with_suffix(".gguf"))
    if done.returncode:
        raise RuntimeError(f"the converter of llama.cpp refused {adapter}: {done.stderr[-500:]}")
    return adapter.with_suffix(".gguf")


SPEAK = """
import json, sys, xllamacpp
model, prompts, tokens, adapter = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_gpu_layers, params.warmup, params.n_parallel = model, 256, 0, False, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if adapter:
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
server, said = xllamacpp.Server(params), []
for prompt in prompts:
    asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "top_k": 1, "cache_prompt": False}
    answer = server.handle_completions(asked)
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    said.append(answer["choices"][0]["text"])
print("\\nSAID" + json.dumps(said))
"""


def speak(model: Path, prompts: Sequence[str], tokens: int, adapter: Path | None = None) -> list[str]:
    """What llama.cpp says to each prompt, always the likeliest token, in a process of its own.

    model, adapter: GGUF files. Raises RuntimeError with its last words.
    """
    asked = json.dumps([str(model), list(prompts), tokens, str(adapter) if adapter else None])
    done = subprocess.run([sys.executable, "-c", SPEAK, asked], capture_output=True, text=True, timeout=300)
    if "\nSAID" not in done.stdout:
        raise RuntimeError(f"llama.cpp did not speak: {done.stderr[-2000:]}")
    return json.loads(done.stdout.rpartition("\nSAID")[2])
