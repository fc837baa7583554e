"""Quantization against its own definition. tests/lora_edu/test_parity.py holds it against the real libraries."""

from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.codebooks import get_codebook, nf_codebook
from lora_edu.measures import relative_error
from lora_edu.qlora import NF4Linear
from lora_edu.quantization import DoubleQuant, decode, encode_for, nearest_code, quantize, unpack
from lora_edu.rounding import bin_use

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=3)
block_sizes = st.sampled_from([1, 3, 16, 48, 64, 256])
codebooks = st.sampled_from(
    ["nf2", "nf3", "nf4", "nf5", "nf8", "int2", "int3", "int4", "int8", "fp4-bnb", "fp4-e2m1", "fp4-e3m0", "dynamic"]
)


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


def test_a_tie_goes_to_the_lower_code():
    codebook = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    assert nearest_code(torch.tensor([-0.5, 0.25, 0.75]), codebook).tolist() == [0, 1, 2]


def test_nf_codebooks_have_their_shape():
    for bits in range(2, 9):
        codebook = nf_codebook(bits)
        assert len(codebook) == 2**bits and codebook[0] == -1 and codebook[-1] == 1
        assert codebook[2 ** (bits - 1) - 1] == 0 and (codebook.diff() > 0).all()


def test_dequantize_into_a_buffer():
    quantized = quantize(torch.randn(10, 30), double_quant=True)
    out = torch.full((10, 30), float("nan"))
    assert quantized.dequantize(out) is out and torch.equal(out, quantized.dequantize())
    for bad in (torch.empty(30, 10), torch.empty(10, 30, dtype=torch.float64), torch.empty(30, 10).T):
        with pytest.raises(ValueError, match="out must be a contiguous torch.float32 tensor of shape"):
            quantized.dequantize(bad)


def test_a_codebook_is_there_once():
    codebook = torch.linspace(-1, 1, 11)
    one, two = quantize(torch.randn(64), codebook), quantize(torch.randn(64), codebook.clone())
    assert one.codebook is two.codebook
    before = one.dequantize()
    codebook.mul_(0.5)  # its owner's: ours is kept
    assert torch.equal(one.dequantize(), before)


def test_fp4_codebooks():
    """That of bitsandbytes: test_parity."""
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
    e3m0 = torch.tensor([0, *(2.0**-power for power in range(6, -1, -1))])
    for name, magnitudes in [("fp4-e2m1", e2m1), ("fp4-e3m0", e3m0)]:
        codebook = get_codebook(name)
        assert torch.equal(codebook[7:], magnitudes) and torch.equal(codebook, -codebook.flip(0))


def test_normal_floats_of_two_and_three_bits_by_hand():
    normal, two, three = NormalDist().inv_cdf, 41 / 48, 209 / 224  # offsets: the mean of 1 - 1/2^(k+1) and the next
    assert nf_codebook(2).tolist() == pytest.approx([-1, 0, normal((two + 0.5) / 2) / normal(two), 1], abs=3e-7)
    steps = [(three * (3 - i) + 0.5 * i) / 3 for i in range(3)]
    assert nf_codebook(3)[:4].tolist() == pytest.approx([*(-normal(p) / normal(three) for p in steps), 0], abs=3e-7)
    steps = [(three * (4 - i) + 0.5 * i) / 4 for i in (3, 2, 1, 0)]
    assert nf_codebook(3)[4:].tolist() == pytest.approx([normal(p) / normal(three) for p in steps], abs=3e-7)


@pytest.mark.parametrize(
    "name, dtype, count, largest", [("e4m3", torch.float8_e4m3fn, 253, 448), ("e5m2", torch.float8_e5m2, 247, 57344)]
)
def test_fp8_codebooks_are_the_formats_of_torch(name, dtype, count, largest):
    codebook = get_codebook(name)
    assert len(codebook) == count and codebook[0] == -1 and codebook[-1] == 1 and (codebook.diff() > 0).all()
    x = torch.rand(1000) * 2 - 1
    rounded = (x * largest).to(dtype).float() / largest
    chosen = codebook[nearest_code(x, codebook).int()]
    assert torch.allclose((x - chosen).abs(), (x - rounded).abs(), atol=1e-6)


def test_measures_by_hand():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert relative_error(a, b) == pytest.approx(0.4)
    assert bin_use(torch.tensor([0, 0, 3, 1], dtype=torch.uint8), 4).tolist() == [0.5, 0.25, 0.0, 0.25]


# --- the order: codes for the exact constants, or for the stored ones ------------------------------------------------

constant_codes = st.sampled_from(["dynamic", "int8", "nf4", "int4", "nf2", "int2"])
FIRST = DoubleQuant(constants_first=True)


@settings(deadline=None, max_examples=60)
@given(shapes, block_sizes, constant_codes, st.booleans(), st.sampled_from([0.0, 1e-40, 1.0, 1e6]), st.integers(0, 999))
def test_by_default_codes_are_those_of_the_exact_constants(shape, block_size, code, mean, scale, seed):
    """As in bitsandbytes. The other order keeps the constants, and so the bytes; it changes codes, and nothing else."""
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    exact, default = quantize(x, "nf4", block_size), quantize(x, "nf4", block_size, DoubleQuant(code, 16, mean))
    assert torch.equal(default.codes, exact.codes)
    first = quantize(x, "nf4", block_size, DoubleQuant(code, 16, mean, constants_first=True))
    assert torch.equal(first.block_scales(), default.block_scales()) and first.nbytes == default.nbytes
    assert first.settings() == default.settings() and first.codes.shape == default.codes.shape


@settings(deadline=None, max_examples=60)
@given(shapes, block_sizes, st.sampled_from(["nf4", "int4", "nf2", "nf3"]), constant_codes, st.integers(0, 999))
def test_with_constants_first_no_other_code_is_nearer(shape, block_size, codebook, code, seed):
    """By trying all of them, against the stored constants: some are 0 or negative, in 2 bits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator) ** 4
    stored = quantize(x, codebook, block_size, DoubleQuant(code, 8, constants_first=True))
    scales = stored.block_scales().repeat_interleave(block_size)[: x.numel()]
    errors = (x.flatten()[:, None] - stored.codebook * scales[:, None]).abs()  # (n, n_codes)
    chosen = (x - stored.dequantize()).flatten().abs()
    assert torch.allclose(chosen, errors.amin(dim=1), rtol=1e-5, atol=1e-6)


def test_constants_of_zero_and_below_are_no_special_case():
    x = torch.tensor([1.0, 0.25, -0.5, 0.125, 0.0, 0.0])
    codes = encode_for(x, torch.tensor([0.0, -0.5, 1.0]), nf_codebook(4), 2)
    assert unpack(codes, 16)[2:].tolist() == [15, 4, 7, 7]  # -0.5 stands for 1.0 * -0.5; 0.125 for -0.28 * -0.5
    assert not decode(codes, torch.tensor([0.0, -0.5, 1.0]), nf_codebook(4), 2, torch.empty(6))[:2].any()


@pytest.mark.parametrize(("code", "left"), [("nf4", 0.2), ("int4", 0.2), ("nf2", 0.15)])
def test_constants_first_take_most_of_their_error_back(code, left):
    """A mistake that chooses the codes for the exact constants again would leave all of it."""
    x = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
    alone = relative_error(x, quantize(x).dequantize())
    last, first = (
        relative_error(x, quantize(x, double_quant=DoubleQuant(code, constants_first=order)).dequantize())
        for order in (False, True)
    )
    assert 0 < first - alone < left * (last - alone)


def test_constants_first_in_a_model_and_in_its_file():
    linear = torch.nn.Linear(96, 40)
    first, default = NF4Linear.from_linear(linear, double_quant=FIRST), NF4Linear.from_linear(linear)
    assert torch.equal(first.dequantize(), quantize(linear.weight, double_quant=FIRST).dequantize())
    default.load_state_dict(first.state_dict())
    assert torch.equal(default.dequantize(), first.dequantize())
    with pytest.raises(TypeError, match="constants_first"):
        quantize(linear.weight, double_quant=DoubleQuant(constants_first="yes"))
