"""The check-up that a teacher asks a student to send: versions, device, threads, disk, texts, and one verdict."""

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path

import torch

from lora_course.setup import environment
from lora_edu import downloads, files
from lora_edu.models.base import base_path, pick_size
from lora_edu.texts import available_texts
from lora_edu.training import pick_device

PACKAGES = ("lora-edu", "torch", "numpy", "matplotlib", "jupyterlab", "ipywidgets", "transformers")
NEEDED_DISK = 1e9  # bytes


def report() -> tuple[str, bool]:
    """The check-up as text, and whether the course can run here."""
    lines, problems, hints = [], [], []
    lines.append(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        installed = _version(package)
        if installed:
            lines.append(f"{package:12} {installed}")
        else:
            problems.append(f"{package} is not installed: run python -m lora_edu setup")
    for label, chosen in (("size", pick_size), ("device", describe_device)):  # what LORA_EDU_SIZE and _DEVICE say
        try:
            lines.append(f"{label:12} {chosen()}")
        except (ValueError, RuntimeError) as error:
            problems.append(str(error))
    if hint := missing_gpu_hint():
        hints.append(hint)
    if hint := untested_versions_hint(environment.ROOT / environment.TESTED):
        hints.append(hint)
    lines.append(f"threads      {torch.get_num_threads()} for torch, {os.cpu_count()} processors")
    if files.cache_dir().exists() and not files.cache_dir().is_dir():
        problems.append(f"the cache is no folder: {files.cache_dir()}. Set LORA_EDU_CACHE to another place")
    there = next(path for path in (files.cache_dir(), *files.cache_dir().absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    lines.append(f"free disk    {free / 1e9:.1f} GB where the cache is ({files.cache_dir()})")
    if free < NEEDED_DISK:
        problems.append("less than 1 GB of disk is free")
    cached = [name for name in available_texts() if downloads.cached(name, ".safetensors").exists()]
    lines.append(f"texts        {', '.join(cached) or 'none'} of {', '.join(available_texts())} in the cache")
    if len(cached) < len(available_texts()):
        hints.append("texts are missing; with a network, they come on first use or by: lora-edu fetch texts")
    if not base_path("laptop").exists():
        problems.append("the shipped base model is missing: get a fresh copy of the course")
    lines += [f"note         {hint}" for hint in hints] + [f"problem      {problem}" for problem in problems]
    lines.append("verdict      " + ("mend the problems above" if problems else "the course can run here"))
    return "\n".join(lines), not problems


def main() -> None:
    """Print the check-up. The exit code is 0 if the course can run."""
    argparse.ArgumentParser(prog="lora-edu doctor", description=__doc__).parse_args()
    text, healthy = report()
    print(text)
    sys.exit(0 if healthy else 1)


def describe_device() -> str:
    """The device that the notebooks will use, and its memory."""
    device = pick_device()
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
    return f"CPU{_system_memory()}"


def missing_gpu_hint() -> str | None:
    """What to say where an NVIDIA card is present but this torch cannot use it."""
    if shutil.which("nvidia-smi") is None or torch.cuda.is_available():
        return None
    build = "is a CPU-only build" if torch.version.cuda is None else "sees no usable driver"
    return (
        f"an NVIDIA card is here, but this torch ({torch.__version__}) {build}: the course runs on the CPU. "
        "To use the card, install the build that PyTorch's page names: https://pytorch.org/get-started/locally"
    )


def untested_versions_hint(tested: Path) -> str | None:
    """What differs from the versions that the stored numbers were measured with. tested: the file of these."""
    if not tested.exists():  # no clone: a wheel knows ranges only
        return None
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", tested.read_text(encoding="utf-8"), re.M))
    others = []
    for package in PACKAGES:
        installed = _version(package)
        if package in pins and installed and installed.partition("+")[0] != pins[package]:
            others.append(f"{package} {installed} (tested: {pins[package]})")
    if not others:
        return None
    return (
        f"other versions than the tested ones: {', '.join(others)}. A number may differ from the page's in its digits"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _system_memory() -> str:
    try:
        return f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB of memory"
    except (AttributeError, ValueError):  # Windows has no sysconf
        return ""
