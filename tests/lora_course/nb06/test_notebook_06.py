"""Notebook 06: what the page says about codebooks, and what it said before."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb06 import pictures
from lora_course.nb06.check import taken_over
from lora_course.nb06.lab import CALIBRATIONS, DRAWS, SHIFTS, arm_name, bin_middles, inside_out, without_zero
from lora_edu import load_base, nf_codebook, quantize
from lora_edu.measures import relative_error
from lora_edu.observing import block_linears
from lora_edu.rounding import compensated, lloyd_max


def error(values, codebook, block_size=64):
    return relative_error(values, quantize(values, codebook, block_size).dequantize())


@pytest.mark.parametrize("seed", range(3))
def test_the_tidy_code_without_a_zero_is_better_and_so_is_nf4_without_one(seed):
    """The page once called the first one refuted: it is not, on any draw. The second differs in the zero alone."""
    normal, symmetric = torch.randn(2**18, generator=torch.Generator().manual_seed(seed)), without_zero()
    assert torch.allclose(symmetric, -symmetric.flip(0), atol=1e-6) and symmetric.abs().min() > 0.04
    nf4 = error(normal, "nf4")
    assert 0.0005 > nf4 - error(normal, bin_middles()) > 0.0001 and error(normal, symmetric) < nf4 - 0.0004


def test_inside_out_has_the_same_gaps():
    codebook = nf_codebook(4)
    changed = inside_out(codebook)
    assert changed[7] == 0 and changed[0] == -1 and changed[-1] == pytest.approx(1, abs=1e-6)
    assert torch.allclose(changed.diff().sort().values, codebook.diff().sort().values, atol=1e-6)
    assert changed.diff()[0] < changed.diff()[6]


def test_no_weight_in_the_blocks_of_the_shipped_gpt_is_exactly_zero():
    assert not any((layer.weight == 0).any() for layer in block_linears(load_base("laptop", device="cpu")).values())


@pytest.mark.parametrize(
    "start", [nf_codebook(4), bin_middles(), nf_codebook(4, offset=0.9)], ids=["NF4", "middles", "0.9"]
)
def test_free_levels_reach_the_same_bound_from_each_start(start):
    """The page once took levels held at -1, 0 and 1 for the best that 16 can do."""
    seen, fresh = (torch.randn(2**17, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    held, free = (error(fresh, lloyd_max(seen, start, held=levels)) for levels in ((-1, 0, 1), ()))
    assert 0.0871 < free < 0.0878 and free < held - 0.001


def test_in_kl_e2m1_costs_more_than_nf4_and_other_tables_tie():
    """The page once said "four draws cannot say" of E2M1, and that two tables gain: the loss of kin cannot tell."""
    arms = load_results("formats")["arms"]
    names = ("nf4", "fp4-e2m1", "nvfp4", "four over six", "nf4-offset-0.94", "lloyd-max", "bin-middles")
    nf4, e2m1, nvfp4, repaired, *tables = (np.array([arms[arm_name(n, d)]["kl"] for d in DRAWS]) for n in names)
    assert (e2m1 > 1.2 * nf4).all() and (repaired < nvfp4).all()
    assert all(abs(table.mean() / nf4.mean() - 1) < 0.035 for table in tables)


def test_a_compensated_rounding_errs_more_and_costs_less():
    arms, whole = load_results("compensation")["arms"], load_results("scoreboard")["arms"]["as shipped"]["loss"]
    mean = {
        name: {kind: np.mean([arms[f"{name}, shift {k}"][kind] for k in SHIFTS]) for kind in arms["plays, shift 0"]}
        for name in CALIBRATIONS
    }
    nearest, addresses, plays, noise, shuffled, unpaired = (mean[name] for name in CALIBRATIONS)
    assert addresses["weight_error"] > 1.3 * nearest["weight_error"]
    assert addresses["output_error"] < 0.7 * nearest["output_error"]
    assert plays["loss"] - whole < 0.45 * (nearest["loss"] - whole) < 0.3 * (shuffled["loss"] - whole)
    assert 0.25 < 1 - (noise["loss"] - whole) / (nearest["loss"] - whole) < 0.4  # random bytes save a third
    assert 0.9 < (unpaired["loss"] - whole) / (nearest["loss"] - whole) < 1  # the pairs of inputs save, not their sizes


# --- the first screen ------------------------------------------------------------------------------------------------


def test_the_offset_slider_at_every_setting():
    normal = torch.randn(2**14, generator=torch.Generator().manual_seed(0))
    view = pictures.beat_nf4(normal)
    for offset in pictures.OFFSETS:
        readout = view.update(offset=offset)
        assert readout.startswith(f"offset {offset:.3f}: error ")
        levels = np.array(view.values(offset)["levels"])
        assert levels[-1] == pytest.approx(NormalDist().inv_cdf(offset), abs=1e-6) and levels[7] == 0
        area = np.diff([NormalDist().cdf(level) for level in levels])
        assert area[:7] == pytest.approx(np.full(7, (offset - 0.5) / 7), abs=1e-6)  # slices of equal probability
        assert area[7:] == pytest.approx(np.full(8, (offset - 0.5) / 8), abs=1e-6)


def test_compensation_is_exercise_6_3_column_by_column():
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(5, 64, generator=generator), torch.randn(200, 64, generator=generator)
    rounded, nearest = compensated(weight, inputs, nf_codebook(4)), quantize(weight, "nf4").dequantize()
    H = inputs.T @ inputs + 0.01 * inputs.square().sum() / 64 * torch.eye(64)
    X = torch.linalg.cholesky(H, upper=True).double().numpy()
    for w, (q, second) in zip(weight.double().numpy(), rounded[:, :2].tolist(), strict=True):
        moved, levels = taken_over.reference(w, q, X)[0], nf_codebook(4) * float(np.abs(w).max())
        assert second == pytest.approx(levels[(levels - moved).abs().argmin()].item(), abs=1e-6)
    assert (inputs @ (rounded - weight).T).norm() < (inputs @ (nearest - weight).T).norm()
    assert torch.allclose(compensated(weight, torch.eye(64), nf_codebook(4)), nearest, atol=1e-6)
