"""Quantization beside the real libraries, run on the CPU: bitsandbytes bit for bit, torchao with its differences."""

import pytest
import torch
from conftest import library
from cpu_rounding import quantize_as_on_cpu
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.codebooks import dynamic_codebook, get_codebook, nf_codebook
from lora_edu.measures import relative_error
from lora_edu.quantization import DoubleQuant, quantize, unpack


def functional():
    return library("bitsandbytes.functional")


BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
# bitsandbytes numbers its FP4 values by bit pattern (8 is the sign), we number them in rising order: our code i is
# its code FP4_BNB_PATTERNS[i]. It gives small negative numbers the pattern of +0, and small positive ones that of -0.
FP4_BNB_PATTERNS = (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3)
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny

names = st.sampled_from(["nf4", "fp4"])
shapes = st.one_of(st.lists(st.integers(1, 300), min_size=1, max_size=3), st.integers(1, 40_000).map(lambda n: [n]))
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
scales = st.sampled_from([0.0, 1e-44, 1e-42, 1e-40, 3e-39, 1e-38, 1e-37, 1e-20, 1e-4, 1.0, 1e4, 1e20, 1e36])
kinds = st.sampled_from(["normal", "constant", "one value", "every block its own scale", "zero blocks"])


def make_input(shape, kind, scale, dtype, block_size, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = torch.Size(shape) if torch.Size(shape).numel() < 200_000 else torch.Size(shape[:2])
    x = torch.randn(shape.numel(), generator=generator)
    block = torch.arange(len(x)) // block_size
    if kind == "constant":
        x = x[0].expand(len(x))
    elif kind == "one value":
        x = torch.zeros(len(x)).index_fill(0, torch.tensor([len(x) // 2]), 1.0)
    elif kind == "every block its own scale":
        x = x * 10.0 ** (torch.rand(len(x), generator=generator) * 20 - 10)[block]
    elif kind == "zero blocks":
        x = x * (block % 2)
    return (x * scale).view(shape).to(dtype)


def our_codes(quantized, quant_type):
    """Our packed codes in bitsandbytes' numbering."""
    if quant_type == "nf4":
        return quantized.codes
    codes = torch.tensor(FP4_BNB_PATTERNS, dtype=torch.uint8)[unpack(quantized.codes, 16).int()].view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1]


def assert_same_values(ours, theirs):
    """Equal, except that bitsandbytes may give zero where ours is under the smallest normal number."""
    flushed = (theirs == 0) & (ours.abs() <= SMALLEST_NORMAL)
    assert ((ours == theirs) | flushed).all()


@settings(max_examples=400, deadline=None)
@given(names, shapes, st.sampled_from(BLOCK_SIZES), dtypes, scales, kinds, st.integers(0, 10**6))
def test_codes_constants_and_values_equal_bitsandbytes(quant_type, shape, block_size, dtype, scale, kind, seed):
    x = make_input(shape, kind, scale, dtype, block_size, seed)
    if x.isfinite().all():  # float16 ends at 65,504
        assert_equal_to_bitsandbytes(x, quant_type, block_size)


def assert_equal_to_bitsandbytes(x, quant_type, block_size):
    """Codes, constants and restored values, with and without double quantization."""
    codebook = "nf4" if quant_type == "nf4" else "fp4-bnb"
    for double in (False, True):
        ours = (quantize_as_on_cpu if double else quantize)(x, codebook, block_size)
        how = dict(blocksize=block_size, quant_type=quant_type, compress_statistics=double)
        codes, state = functional().quantize_4bit(x, **how)
        assert torch.equal(our_codes(ours, quant_type), codes.flatten())
        if double and state.offset.isinf():
            continue  # the sum of the absmax overflows: see the test below
        if double:
            assert torch.equal(ours.offset, state.offset)
            assert torch.equal(ours.absmax.codes, state.absmax)
            assert torch.equal(ours.absmax.absmax, state.state2.absmax)
        else:
            assert torch.equal(ours.absmax, state.absmax)
        reads_the_wrong_absmax = x.shape[-1] % 16 == 0 and x.shape[-1] % block_size != 0  # its AVX-512 version
        if len(codes) > 1 and not reads_the_wrong_absmax:
            assert_same_values(ours.dequantize(), functional().dequantize_4bit(codes, state).view(x.shape))


@pytest.fixture(autouse=True)
def without_compiling():
    """bitsandbytes compiles one of its functions, for seconds and for every new shape; its result is the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_codebooks_equal_the_reference_bit_for_bit():
    assert torch.equal(nf_codebook(4), functional().get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_codebook(), functional().create_dynamic_map())
    fp4 = functional().get_4bit_type("fp4", device="cpu")
    assert torch.equal(get_codebook("fp4-bnb"), fp4[list(FP4_BNB_PATTERNS)])
    assert sorted(FP4_BNB_PATTERNS) == list(range(16))


def test_bitsandbytes_reads_codes_that_were_chosen_for_the_stored_constants():
    """The same bytes in the same places: no kernel needs to know in which order they were made."""
    x = torch.randn(128, 512)
    ours = quantize(x, double_quant=DoubleQuant(constants_first=True))
    codes, state = functional().quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert not torch.equal(ours.codes, codes.flatten())
    state.absmax, state.offset, state.state2.absmax = ours.absmax.codes, ours.offset, ours.absmax.absmax
    assert torch.equal(functional().dequantize_4bit(ours.codes.view(codes.shape), state), ours.dequantize())


def test_the_exact_search_differs_in_a_few_second_level_codes():
    x = torch.randn(1024, 1024)
    exact, grid = quantize(x, double_quant=True), quantize_as_on_cpu(x)
    share = (exact.absmax.codes != grid.absmax.codes).float().mean().item()
    assert 0 < share < 0.01
    absmax = quantize(x).absmax
    errors = [(quantized.block_scales() - absmax).abs().mean().item() for quantized in (exact, grid)]
    assert errors[0] <= errors[1] < 1.01 * errors[0]


def test_where_the_sum_of_the_absmax_overflows_only_ours_is_finite():
    x = torch.randn(64, 64) * 3e37
    _, state = functional().quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert state.offset.isinf()
    assert relative_error(x * 1e-37, quantize(x, double_quant=True).dequantize() * 1e-37) < 0.11


# --- torchao: the same first level, another second one -------------------------------------------------------------


def test_torchao_beside_ours():
    """The same 4-bit codes up to its rounded levels; linear int8 instead of the dynamic code for the absmax."""
    to_nf4 = library("torchao.quantization").to_nf4
    x = torch.randn(512, 512)
    theirs = to_nf4(x, block_size=64, scaler_block_size=256)
    ours = {name: quantize(x, double_quant=how) for name, how in [("dynamic", True), ("int8", DoubleQuant("int8"))]}
    codes = theirs.quantized_data.flatten()
    assert (unpack(codes, 16) == unpack(ours["int8"].codes, 16)).float().mean() > 0.999
    restored = theirs.get_original_weight()
    assert relative_error(x, restored) == pytest.approx(relative_error(x, ours["int8"].dequantize()), rel=1e-3)
    absmax = quantize(x).absmax
    worst = {name: (quantized.block_scales() - absmax).abs().mean().item() for name, quantized in ours.items()}
    their_scales = theirs.dequantize_scalers(theirs.quantized_scalers, theirs.quantization_factor, 256).flatten()
    their_error = (their_scales - absmax).abs().mean().item()
    assert their_error == pytest.approx(worst["int8"], rel=0.1)  # the same kind of code
    assert worst["dynamic"] > 1.1 * their_error  # the dynamic code spends its codes near the mean
