"""NF4 against its own definition and, bit for bit, against bitsandbytes on the CPU."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.codebooks import dynamic_codebook, get_codebook, nf_codebook
from lora_edu.quantization import DoubleQuant, nearest_code, pack, quantize, unpack

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=3)
block_sizes = st.sampled_from([1, 3, 16, 48, 64, 256])
codebooks = st.sampled_from(["nf2", "nf3", "nf4", "nf5", "nf8", "dynamic"])


# --- against the definition ----------------------------------------------------------------------------------------


@given(shapes, block_sizes, codebooks, st.floats(-30, 30), st.booleans(), st.integers(0, 10**6))
def test_round_trip(shape, block_size, codebook, exponent, double, seed):
    """Whatever the shape: the error is at most half the widest gap of the codebook times the block's absmax."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    quantized = quantize(x, codebook, block_size, double_quant=double)
    restored = quantized.dequantize()
    assert restored.shape == x.shape and restored.dtype == x.dtype and restored.isfinite().all()
    if not double:
        levels = get_codebook(codebook)
        reach = max(levels.diff().max().item() / 2, 1 + levels.min().item())  # `dynamic` does not reach -1
        scales = quantized.block_scales().repeat_interleave(block_size)[: x.numel()].view(x.shape)
        assert ((restored - x).abs() <= reach * scales * (1 + 1e-5)).all()


@given(shapes, block_sizes, st.sampled_from(["nf2", "nf4", "nf6"]), st.integers(0, 10**6))
def test_quantizing_twice_changes_nothing(shape, block_size, codebook, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    once = quantize(x, codebook, block_size).dequantize()
    # Only blocks whose largest value was positive have an absmax that comes back exactly for every codebook.
    assert torch.allclose(quantize(once, codebook, block_size).dequantize(), once, rtol=1e-6, atol=0)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_packing_is_reversible_and_the_first_code_is_high(values):
    codes = torch.tensor(values, dtype=torch.uint8)
    packed = pack(codes, nf_codebook(4))
    assert len(packed) == math.ceil(len(codes) / 2)
    assert torch.equal(unpack(packed, 16)[: len(codes)], codes)
    assert packed[0] >> 4 == values[0]


@given(st.integers(0, 10**6))
def test_codes_are_nearest(seed):
    scaled = torch.rand(500, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    for codebook in (nf_codebook(4), dynamic_codebook()):
        chosen = codebook[nearest_code(scaled, codebook).int()]
        best = (scaled[:, None] - codebook).abs().min(dim=1).values
        assert torch.allclose((scaled - chosen).abs(), best, atol=1e-7)


def test_a_tie_goes_to_the_lower_code():
    codebook = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    assert nearest_code(torch.tensor([-0.5, 0.25, 0.75]), codebook).tolist() == [0, 1, 2]


def test_nf_codebooks_have_their_shape():
    for bits in range(2, 9):
        codebook = nf_codebook(bits)
        assert len(codebook) == 2**bits and codebook[0] == -1 and codebook[-1] == 1
        assert codebook[2 ** (bits - 1) - 1] == 0 and (codebook.diff() > 0).all()


def test_zero_blocks_are_exact_and_the_others_do_not_notice():
    x = torch.randn(3, 64)
    x[1] = 0
    quantized = quantize(x, "nf4", 64)
    assert quantized.absmax[1] == 0 and (quantized.dequantize()[1] == 0).all()
    assert (quantized.codes[32:64] == 0x77).all()


def test_dequantize_into_a_buffer():
    quantized = quantize(torch.randn(10, 30), double_quant=True)
    out = torch.full((10, 30), float("nan"))
    assert quantized.dequantize(out) is out and torch.equal(out, quantized.dequantize())
    for bad in (torch.empty(30, 10), torch.empty(10, 30, dtype=torch.float64), torch.empty(30, 10).T):
        with pytest.raises(ValueError, match="out must be a contiguous torch.float32 tensor of shape"):
            quantized.dequantize(bad)


def test_bits_and_bytes():
    x = torch.randn(256, 1024)  # 4096 blocks, 16 second-level blocks
    single, double = quantize(x), quantize(x, double_quant=True)
    assert single.bits_per_weight == 4 + 32 / 64 == 4.5
    assert double.bits_per_weight == 4 + 8 / 64 + 32 / (64 * 256)
    assert single.nbytes == x.numel() // 2 + 4 * 4096
    assert double.nbytes == x.numel() // 2 + 4096 + 4 * 16 + 4


@pytest.mark.parametrize(("block_size", "expected"), [(64, 0.0920), (256, 0.0987), (4096, 0.1099)])
def test_the_error_on_normal_weights(block_size, expected):
    x = torch.randn(2**20)
    error = (quantize(x, "nf4", block_size).dequantize() - x).norm() / x.norm()
    assert error.item() == pytest.approx(expected, rel=5e-3)  # the sampling error of 2**20 values


def test_double_quantization_costs_little_and_the_mean_matters():
    x = torch.randn(2**20)
    errors = [
        ((quantize(x, double_quant=how).dequantize() - x).norm() / x.norm()).item()
        for how in (False, True, DoubleQuant(subtract_mean=False))
    ]
    assert errors[1] / errors[0] == pytest.approx(1.00026, abs=2e-4)
    assert errors[2] / errors[0] == pytest.approx(1.0026, abs=1e-3)


# --- against bitsandbytes ------------------------------------------------------------------------------------------

functional = pytest.importorskip("bitsandbytes.functional")


def test_codebooks_equal_the_reference_bit_for_bit():
    assert torch.equal(nf_codebook(4), functional.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_codebook(), functional.create_dynamic_map())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=2),
    st.sampled_from([32, 64, 128, 256, 512, 1024, 2048, 4096]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([1e-42, 1e-38, 1e-20, 1e-4, 1.0, 1e4, 1e37]),
    st.integers(0, 10**6),
)
def test_codes_and_absmax_equal_bitsandbytes(shape, block_size, dtype, scale, seed):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)
    if not x.isfinite().all():
        return  # float16 ends at 65,504
    x.view(-1)[: block_size // 2] = 0
    ours = quantize(x, "nf4", block_size)
    codes, state = functional.quantize_4bit(x, blocksize=block_size, quant_type="nf4")
    assert torch.equal(ours.codes, codes.flatten())
    assert torch.equal(ours.absmax, state.absmax)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_large_tensors_equal_bitsandbytes(block_size):
    x = torch.randn(2048, 2048) * torch.logspace(-6, 6, 2048)[:, None]
    ours = quantize(x, "nf4", block_size)
    codes, state = functional.quantize_4bit(x, blocksize=block_size, quant_type="nf4")
    assert torch.equal(ours.codes, codes.flatten()) and torch.equal(ours.absmax, state.absmax)


def test_dequantized_values_equal_bitsandbytes():
    x = torch.randn(96, 128)
    codes, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    assert torch.equal(quantize(x).dequantize(), functional.dequantize_4bit(codes, state))


def test_double_quantization_against_bitsandbytes():
    """Same mean, same second-level constants; codes differ where its CPU look-up is not exact (module docstring)."""
    x = torch.randn(512, 512)
    ours = quantize(x, double_quant=True)
    _, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert torch.allclose(ours.offset, state.offset, rtol=2e-7)
    assert torch.allclose(ours.absmax.absmax, state.state2.absmax, rtol=1e-6)
    assert (ours.absmax.codes != state.absmax).float().mean() < 0.01
    theirs = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    assert torch.allclose(ours.block_scales(), theirs, rtol=5e-3)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(value):
    x = torch.randn(4, 100)
    x[2, 31] = value
    with pytest.raises(ValueError, match=rf"the value {value} at index \(2, 31\)"):
        quantize(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize(torch.arange(4)), TypeError, "only floating-point tensors .* torch.int64"),
        (lambda: quantize(torch.empty(0, 3)), ValueError, "the tensor is empty"),
        (lambda: quantize(torch.ones(4), block_size=0), ValueError, "block_size must be a whole number of at least 1"),
        (lambda: quantize(torch.ones(4), block_size=2.5), ValueError, "block_size must be a whole number"),
        (lambda: quantize(torch.ones(4), "nf9"), ValueError, "unknown codebook 'nf9': choose one of nf2"),
        (lambda: quantize(torch.ones(4), torch.tensor([1.0, 0.0])), ValueError, "values in rising order"),
        (lambda: nf_codebook(1), ValueError, "bits must be a whole number from 2 to 8"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
