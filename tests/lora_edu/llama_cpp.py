"""llama.cpp for tests: what only `make clients` promises is skipped elsewhere."""

import os
from pathlib import Path

import pytest

from lora_course.running import llama_cpp
from lora_edu.downloads import DownloadError


def or_skip(found, what: str):
    """What only `make clients` promises: there it must be had; elsewhere a test without it is skipped."""
    if not found:
        (pytest.fail if os.environ.get("LORA_EDU_CLIENTS") else pytest.skip)(f"{what}: run make clients")
    return found


def convert(adapter: Path, base: Path, into: Path):
    try:
        return llama_cpp.convert(adapter, base, into)
    except DownloadError as error:
        or_skip(None, str(error))


def speak(model: Path, prompt: str, tokens: int, adapter: Path | None = None) -> str:
    return llama_cpp.speak(model, [prompt], tokens, adapter)[0]
