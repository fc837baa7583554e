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
from pathlib import Path

import pytest

from lora_edu.files import cache_dir
from lora_edu.records import sha256, staging

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
PARTS = ("convert_lora_to_gguf.py", "conversion/", "gguf-py/gguf/")


def or_skip(found, what: str):
    """What only `make clients` promises: there it must be had; elsewhere a test without it is skipped."""
    if not found:
        (pytest.fail if os.environ.get("LORA_EDU_CLIENTS") else pytest.skip)(f"{what}: run make clients")
    return found


def converter() -> Path:
    """The folder with convert_lora_to_gguf.py, fetched once."""
    folder = cache_dir() / f"llama.cpp-{VERSION}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=llama-cpp-python"]
            pip = subprocess.run([*command, "--dest", place, f"llama-cpp-python=={VERSION}"], capture_output=True)
            archives = list(Path(place).glob("*.tar.gz"))
            or_skip(archives, f"the converter of llama.cpp could not be downloaded ({pip.stderr.decode()[-300:]})")
            assert sha256(archives[0]) == SHA256
            with staging(folder) as target, tarfile.open(archives[0]) as archive:
                for member in archive.getmembers():
                    member.name = member.name.removeprefix(INSIDE)
                    if member.isfile() and member.name.startswith(PARTS) and member.name.endswith(".py"):
                        archive.extract(member, target, filter="data")
    return folder


def convert(adapter: Path, base: Path, into: Path) -> subprocess.CompletedProcess:
    """Run the converter on an adapter. base: a folder with the base's config.json."""
    folder = converter()
    command = [sys.executable, folder / "convert_lora_to_gguf.py", adapter, "--base", base, "--outfile", into]
    environment = os.environ | {"PYTHONPATH": str(folder / "gguf-py")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


SPEAK = """
import json, sys, xllamacpp
model, prompt, tokens, adapter = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_gpu_layers, params.warmup, params.n_parallel = model, 256, 0, False, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if adapter:
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "top_k": 1, "cache_prompt": False}
answer = xllamacpp.Server(params).handle_completions(asked)
answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
print("\\nSAID" + json.dumps(answer["choices"][0]["text"]))
"""


def speak(model: Path, prompt: str, tokens: int, adapter: Path | None = None) -> str:
    """What llama.cpp says, always the likeliest token, in a process of its own."""
    asked = json.dumps([str(model), prompt, tokens, str(adapter) if adapter else None])
    done = subprocess.run([sys.executable, "-c", SPEAK, asked], capture_output=True, text=True, timeout=300)
    assert "\nSAID" in done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout.rpartition("\nSAID")[2])
