"""The formats of the table, to the bit what `gguf` decodes, as llama.cpp does. NF4 and FP4: test_parity."""

from functools import partial

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Types
from gguf import quants

from lora_course.nb06.lab_floats import mxfp4, nvfp4, q4_k, q4_k_parts
from lora_course.nb06.lab_table import compared
from lora_course.running.scoreboard import rounded
from lora_edu.measures import relative_error


@pytest.fixture(params=range(3))
def weight(request):
    drawn = torch.randn(32, 256, generator=torch.Generator().manual_seed(request.param)) * 0.02
    drawn[0, :32] = 0.0  # a block of zeros
    drawn[1, :32] = drawn[1, :32].abs()  # none below zero
    return drawn


def test_mxfp4_is_gguf_s(weight):
    theirs = quants.dequantize(quants.quantize(weight.numpy(), Types.MXFP4), Types.MXFP4)
    assert np.array_equal(mxfp4(weight).numpy(), theirs)


def test_the_nearest_power_errs_less_where_the_standard_s_cuts_a_block_s_largest(weight):
    down, nearest, blocks = (each.view(-1, 32) for each in (mxfp4(weight), mxfp4(weight, nearest=True), weight))
    errors = [(blocks - each).square().sum(1) for each in (down, nearest)]
    kept = down.abs().amax(1)[1:] / blocks.abs().amax(1)[1:]
    assert (errors[1] <= errors[0]).all() and kept.min() < 0.8  # the standard cuts up to a quarter
    changed = (errors[1] < errors[0])[1:]
    assert 0.05 < changed.float().mean() < 0.2 and kept[changed].max() < 1.01


def test_q4_k_is_what_gguf_decodes(weight):
    d, dmin, *sixes, codes = q4_k_parts(weight)
    steps, lows = (each.flatten(1).numpy().astype(np.uint8) for each in sixes)  # (n, 8): six bits each
    rest = (steps[:, 4:] & 15) | (lows[:, 4:] & 15) << 4
    twelve = [steps[:, :4] | steps[:, 4:] >> 4 << 6, lows[:, :4] | lows[:, 4:] >> 4 << 6, rest]
    halves = [each.flatten(1).numpy().astype(np.float16).view(np.uint8) for each in (d, dmin)]
    pairs = codes.numpy().astype(np.uint8).reshape(len(d), 4, 2, 32)
    stored = np.concatenate([*halves, *twelve, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(d), 128)], 1)
    assert stored.shape == (len(d), 144)  # 4.5 bits a weight
    assert np.array_equal(quants.dequantize(stored, Types.Q4_K).ravel(), q4_k(weight).flatten().numpy())
    assert relative_error(weight, q4_k(weight)) < 0.09


@pytest.mark.skipif(not hasattr(quants, "NVFP4"), reason="this gguf does not know NVFP4")
def test_nvfp4_is_what_gguf_decodes(weight):
    weight = weight * (6 * 448 / weight.abs().max())  # so that the tensor's own constant is 1: gguf keeps it elsewhere
    weight.view(-1)[weight.abs().argmax()] = 6 * 448  # exactly
    rounded, blocks = nvfp4(weight), weight.view(-1, 16)
    scales = (blocks.abs().amax(1, keepdim=True) / 6).to(torch.float8_e4m3fn)
    levels = (rounded.view(-1, 16) / scales.float().clamp(min=1e-30)).numpy()
    magnitudes = np.abs(2 * levels[..., None] - np.array([0, 1, 2, 3, 4, 6, 8, 12]) * np.sign(levels)[..., None])
    codes = (magnitudes.argmin(-1) | (levels < 0) * 8).astype(np.uint8).reshape(-1, 4, 2, 8)
    packed = (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(-1, 32)
    stored = np.concatenate([scales.view(torch.uint8).numpy().reshape(-1, 4), packed], 1)
    assert np.array_equal(quants.dequantize(stored, Types.NVFP4).ravel(), rounded.flatten().numpy())


def test_the_table_measures_a_rounded_copy_and_leaves_the_model_alone(tiny_gpt, tiny_text):
    before = {name: value.clone() for name, value in tiny_gpt.state_dict().items()}
    formats = {"as it is": torch.clone, "int4": partial(rounded, codebook="int4", block_size=16)}
    how = {"seq_len": 16, "max_windows": 4}
    found = compared(tiny_gpt, tiny_text.validation, formats, (0, 1), **how)
    assert [tuple(one) for one in found["as it is"]] == [(0, 0), (0, 0)]
    assert len({one.kl for one in found["int4"]}) == 2 and min(one.kl for one in found["int4"]) > 0
    assert all(torch.equal(value, before[name]) for name, value in tiny_gpt.state_dict().items())
