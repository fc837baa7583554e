"""The fast versions of `lora_edu.engine.kernels` against the definitions of `lora_edu.quantization`, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import own_memory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from lora_edu import GPT, GPTConfig, NF4Linear, add_lora, quantization, quantize, quantize_linears
from lora_edu.codebooks import INT_NAMES, NF_NAMES, get_codebook
from lora_edu.engine import kernels
from lora_edu.quantization import DoubleQuant
from lora_edu.training import trainable_parameters

CODEBOOKS = (*NF_NAMES, *INT_NAMES, "fp4-bnb", "fp4-e2m1", "fp4-e3m0", "dynamic", "e4m3", "e5m2")  # widths 2 to 8
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


# --- equal to the definitions --------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.sampled_from(CODEBOOKS),
    st.sampled_from([1, 2, 3, 5, 48, 64, 100, 256, 4096]),
    st.sampled_from([False, True, DoubleQuant("int8", 32, subtract_mean=False)]),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1e-40, 1e-4, 1.0, 1e4]),
    st.sampled_from([8, 100, 1000, 2**17]),
    st.integers(0, 10**6),
)
@example([300], "nf4", 3, False, torch.float32, 1.0, 100, 0)  # 33 blocks of 3 would end inside a byte
def test_kernels_equal_the_definitions(shape, codebook, block_size, double_quant, dtype, scale, chunk, seed):
    """Every width, type, block size and ragged end, and in small chunks, so that there are several."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    x[..., 0] = 0.0
    x = x.to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CHUNK_VALUES", {"cpu": chunk})
        fast = quantize(x, codebook, block_size, double_quant)
        values = fast.dequantize()
        with fast.decoded(torch.bfloat16) as halved:
            halved = halved.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "kernel", lambda definition: definition)
        slow = quantize(x, codebook, block_size, double_quant)
        assert torch.equal(fast.codes, slow.codes) and torch.equal(fast.block_scales(), slow.block_scales())
        assert torch.equal(values, slow.dequantize())
    assert torch.equal(halved, values.bfloat16())


@pytest.mark.parametrize("codebook", ["nf2", "nf4", "nf8"])
def test_values_at_the_thresholds(codebook):
    """Where a code changes, and one step of float32 beside it."""
    levels = get_codebook(codebook)
    midpoints = (levels[:-1] + levels[1:]) / 2
    beside = [midpoints.nextafter(torch.tensor(end)) for end in (-2.0, 2.0)]
    x = torch.cat([midpoints, *beside, levels, torch.tensor([1.0])])
    fast = kernels.encode(x, levels, len(x))
    slow = quantization.encode(x, levels, len(x))
    assert all(torch.equal(one, two) for one, two in zip(fast, slow, strict=True))


def test_a_buffer_that_begins_anywhere():
    quantized = quantize(torch.randn(1000))
    for start in range(4):
        out = torch.empty(1010)[start : start + 1000]
        assert torch.equal(quantized.dequantize(out), quantized.dequantize())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_the_caller_s_default_type_changes_nothing(dtype):
    x = torch.randn(40, 70)

    def numbers():
        codebooks = [get_codebook(name) for name in CODEBOOKS]
        made = [quantize(x, name, double_quant=how) for name in CODEBOOKS for how in (False, True)]
        return [*codebooks, *(part for one in made for part in (one.codes, one.block_scales(), one.dequantize()))]

    expected = numbers()
    kernels._table_of.cache_clear()
    torch.set_default_dtype(dtype)
    found = numbers()
    assert all(one.dtype == two.dtype and torch.equal(one, two) for one, two in zip(found, expected, strict=True))


# --- memory used again -----------------------------------------------------------------------------------------------


def test_all_layers_use_one_piece_and_leave_it():
    kernels._shelf.__dict__.clear()
    layers = [NF4Linear.from_linear(nn.Linear(64, out)) for out in (32, 48, 16)]
    addresses = set()
    for layer in layers:
        with layer.quantized.decoded(torch.float32) as W:
            addresses.add(W.data_ptr())
            assert torch.equal(W, layer.dequantize())
    for layer in layers[1:]:
        layer(torch.randn(2, 64, requires_grad=True)).sum().backward()
    assert len(addresses) == 2  # it grew once
    assert {dtype: len(piece) for dtype, piece in vars(kernels._shelf).items()} == {torch.float32: 64 * 48}


def test_a_block_inside_a_block_has_its_own_piece():
    one, two = (quantize(torch.randn(8, 64)) for _ in range(2))
    with one.decoded(torch.float32) as outer, two.decoded(torch.float32) as inner:
        assert torch.equal(outer, one.dequantize()) and torch.equal(inner, two.dequantize())


def test_a_piece_made_in_inference_mode_serves_training_too():
    kernels._shelf.__dict__.clear()
    layer = NF4Linear.from_linear(nn.Linear(64, 32))
    with torch.inference_mode():
        layer(torch.randn(2, 64))
    layer(torch.randn(2, 64, requires_grad=True)).sum().backward()


CONFIG = GPTConfig(context=16, n_layers=2, n_heads=2, d_model=32)


def gradients(checkpointing="none", autocast=False):
    """Of a QLoRA model whose layers have several sizes and are used in turn."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = add_lora(quantize_linears(GPT(CONFIG, checkpointing)), 4, 8, "all-linear").train()
    model.token_embedding.requires_grad_(True)  # the reentrant kind needs inputs with a gradient
    for parameter in trainable_parameters(model):
        nn.init.normal_(parameter, std=0.1, generator=generator)
    tokens = torch.randint(0, 256, (2, 17), generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(tokens[:, :-1], tokens[:, 1:])[1]
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in trainable_parameters(model))]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant", "reentrant"])
def test_gradients_are_those_with_memory_of_their_own(checkpointing, autocast, monkeypatch):
    shared = gradients(checkpointing, autocast)
    own_memory(monkeypatch)
    assert all(map(torch.equal, shared, gradients(checkpointing, autocast)))


def test_threads_do_not_share():
    """Two layers of one size, each in a thread: both are between decoding and product at the same moment."""
    layers = [NF4Linear.from_linear(nn.Linear(64, 64)) for _ in range(2)]
    both, found = threading.Barrier(2, timeout=30), {}

    def work(number):
        with layers[number].quantized.decoded(torch.float32) as W:
            both.wait()
            found[number] = W.clone()
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert all(torch.equal(found[number], layers[number].dequantize()) for number in range(2))
