"""Notebook 06: what the page says about codebooks, and what it said before."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb06 import pictures
from lora_course.nb06.check import taken_over
from lora_course.nb06.lab import COMPENSATED, DRAWS, TABLE, arm_name, inside_out, without_zero
from lora_edu import nf_codebook, quantize
from lora_edu.measures import relative_error
from lora_edu.rounding import compensated, lloyd_max


def test_inside_out_has_the_same_gaps():
    codebook = nf_codebook(4)
    changed = inside_out(codebook)
    assert changed[7] == 0 and changed[0] == -1 and changed[-1] == pytest.approx(1, abs=1e-6)
    assert torch.allclose(changed.diff().sort().values, codebook.diff().sort().values, atol=1e-6)
    assert changed.diff()[0] < changed.diff()[6]


@pytest.mark.parametrize("start", [nf_codebook(4), without_zero(), nf_codebook(4, offset=0.9)])
def test_free_levels_reach_the_same_bound_from_each_start(start):
    """The page once took levels held at -1, 0 and 1 for the best that 16 can do."""
    seen, fresh = (torch.randn(2**17, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    fitted = (lloyd_max(seen, start, held=levels) for levels in ((-1, 0, 1), ()))
    held, free = (relative_error(fresh, quantize(fresh, codebook, 64).dequantize()) for codebook in fitted)
    assert 0.0871 < free < 0.0878 and free < held - 0.001


def of_draws(name, experiment="formats"):
    arms = load_results(experiment)["arms"]
    return {kind: np.array([arms[arm_name(name, k)][kind] for k in DRAWS]) for kind in arms[arm_name(name, 0)]}


def test_the_order_of_the_formats_in_each_draw():
    """The page once said "four draws cannot say" of E2M1, and that two tables gain: the loss of kin cannot tell."""
    names = (*TABLE[:-1], "fp4-e3m0")  # GPTQ's draws are in an experiment of their own
    kl = {name: of_draws(name)["kl"] for name in names} | {"gptq": of_draws("addresses", "compensation")["kl"]}
    groups = [
        ("gptq",),
        ("q4_k", "four over six", "nf4, blocks of 32"),
        ("nf4", "nvfp4", "int4, affine"),
        ("fp4-e2m1",),
        ("mxfp4, nearest", "int4"),
        ("mxfp4", "fp4-bnb"),
        ("fp4-e3m0",),
    ]
    assert {name for group in groups for name in group} == kl.keys()
    for less, more in pairwise(groups):
        assert all((kl[one] < kl[other]).all() for one in less for other in more), (less, more)
    nf4 = kl["nf4"].mean()
    assert (kl["int4, affine"] > kl["nf4"]).all()  # not "half of it is the blocks": without them none is left
    for table in ("nf4-offset-0.94", "lloyd-max, free"):
        assert abs(of_draws(table)["kl"].mean() / nf4 - 1) < 0.035


def test_smollm2_is_moved_further_in_nearly_the_same_order():
    kl = {name: np.array(arm["kl"]) for name, arm in load_results("formats-smollm2")["arms"].items()}
    assert (kl["four over six"] < kl["nvfp4"]).all() and (kl["four over six"] < kl["nf4"]).all()
    assert max(*kl["nvfp4"], *kl["nf4"]) < min(kl["int4"]) and (kl["int4"] < kl["mxfp4"]).all()
    assert (kl["mxfp4, nearest"] < kl["mxfp4"]).all() and kl["fp4-bnb"].mean() > kl["int4"].mean()


def test_a_compensated_rounding_errs_more_and_moves_the_guesses_less():
    """On six draws of their own: the page once had four that were moved by 16 columns each, and a loss."""
    nearest, found = of_draws("nf4"), {name: of_draws(name, "compensation") for name in COMPENSATED}
    addresses, plays, noise, shuffled, unpaired, fp4 = found.values()
    assert (addresses["weight_error"] > 1.3 * nearest["weight_error"]).all()
    assert (addresses["output_error"] < 0.7 * nearest["output_error"]).all()
    assert (addresses["kl"] < nearest["kl"] / 2).all() and (addresses["flips"] < nearest["flips"]).all()
    ratio = {name: each["kl"].mean() / nearest["kl"].mean() for name, each in found.items()}
    assert ratio["addresses"] < ratio["plays"] < 0.5 and 0.75 < ratio["random bytes"] < 0.85  # "even random bytes help"
    assert (shuffled["kl"] > 2 * nearest["kl"]).all() and 0.93 < ratio["unpaired"] < 0.97  # "next to nothing"
    assert (fp4["kl"] < 0.9 * nearest["kl"]).all()  # which codes, more than which numbers
    assert (plays["kl"] < noise["kl"]).all() and (noise["kl"] < unpaired["kl"]).all()


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


def test_the_picture_sorts_the_ways_shows_each_draw_and_names_the_least_and_the_most():
    kl = {"far": [0.01, 0.014], "near": [0.004, 0.004], "nf4": [0.006, 0.008]}
    figure, words = pictures.moved_guesses(kl, dict.fromkeys(kl, "0.56"), {"nf4": "NF4"})
    assert words.startswith("The guesses move least with near, and 3.0 times as far with far.")
    line, *rows = (each.get_xydata() for each in figure.axes[0].lines)
    assert line[0, 0] == pytest.approx(7)
    assert np.allclose(rows, [[[4, 0], [4, 0]], [[6, 1], [8, 1]], [[10, 2], [14, 2]]])
    assert [each.get_text() for each in figure.axes[0].get_yticklabels()] == ["near · 0.56", "nf4 · 0.56", "far · 0.56"]
