"""Benchmarks measure what they say: peak memory, the same model for each peer, and rows with their verdicts."""

import copy
import itertools
import json
import random

import pytest
import torch
from conftest import library, load_benchmark

from lora_edu import GPT, GPTConfig, quantize, quantize_linears


@pytest.fixture(scope="module")
def bench():
    for peer in ("bitsandbytes", "peft", "torchao"):
        library(peer)
    return load_benchmark("quantize_speed")


@pytest.mark.parametrize("rows", [1024, 8192])  # 16 MB and 128 MB in float32
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_is_a_chunk_and_the_constants_in_float32(bench, dtype, rows):
    x = torch.randn(rows, 4096, dtype=dtype)
    quantized, out = quantize(x, double_quant=True), torch.empty_like(x)
    constants = 4 * x.numel() / 64
    assert bench.peak_bytes(lambda: quantized.dequantize(out), "cpu") < 1.6e6 + 1.05 * constants
    # Quantizing holds the constants twice for a moment: as they are, and with their mean taken off.
    assert bench.peak_bytes(lambda: quantize(x, double_quant=True), "cpu") - quantized.nbytes < 2.1e6 + 2.2 * constants


def test_the_competitors_have_the_same_model(bench):
    base = GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=64)).requires_grad_(False)
    tokens = torch.randint(0, 256, (2, 16))
    theirs = bench.bitsandbytes_linears(copy.deepcopy(base)).to("cpu")
    ours = quantize_linears(copy.deepcopy(base))
    assert torch.allclose(ours(tokens)[0], theirs(tokens)[0], atol=1e-2)
    assert not torch.allclose(ours(tokens)[0], base(tokens)[0], atol=1e-2)  # both are quantized


def test_the_readmes_have_the_tables_of_the_stored_run(bench):
    page = load_benchmark("page")
    stored = json.loads(page.STORED.read_text("utf-8"))
    texts = {first: path.read_text("utf-8") for path, first in page.PAGES.items()}
    made = {first: page.with_table(text, stored, first) for first, text in texts.items()}
    assert made == texts, "run python benchmarks/page.py --readme"
    assert [row["what"] for row in stored["rows"]] == [row.what for row in page.ROWS]
    del stored["parts"]["step"]  # the control
    without = [page.with_table(text, stored, first) for first, text in texts.items()]
    assert all("| not measured: --only step measures it |" in text for text in without)


def test_wrong_answers_are_a_solution_s_with_one_change():
    wrong = load_benchmark("wrong_answers")
    asked, source = wrong.exercises("05")["5.3"], wrong.solutions("05")["5.3"]
    made = set(itertools.islice(wrong.changed(source, asked, 1, 8, random.Random(0)), 8))
    assert len(made) > 4 and all(wrong.defined(text) == wrong.defined(source) for text in made)
