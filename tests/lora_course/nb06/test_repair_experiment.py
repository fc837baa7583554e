"""A branch of low rank beside a rounded weight: that it is the best one, what it costs, and what the page says of it.

And that GPTQ's codes, which the page says fit into bitsandbytes' tensor, do.
"""

import numpy as np
import pytest
import torch
from conftest import library

from lora_course.experiments import load_results
from lora_course.nb06 import lab_repair
from lora_course.nb06.lab import arm_name
from lora_course.nb06.lab_repair import RANK, WAYS, branch_bits, nearest_of_rank, output_branch
from lora_edu import nf_codebook, quantize
from lora_edu.quantization import block_absmax, nearest_code, pack
from lora_edu.rounding import compensated


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def error(generator):
    return torch.randn(24, 64, generator=generator)


@pytest.fixture
def inputs(generator):
    """Inputs that go together, some of them large."""
    return torch.randn(300, 64, generator=generator) @ torch.randn(64, 64, generator=generator)


def test_the_branch_has_its_rank_and_is_the_plain_one_where_inputs_say_nothing(error):
    branch = output_branch(error, torch.eye(64), 5)
    assert torch.linalg.matrix_rank(branch) == 5
    assert torch.allclose(branch, nearest_of_rank(error, 5), atol=1e-5)


def test_no_branch_of_its_rank_takes_more_off_the_outputs(error, inputs, generator):
    best = output_branch(error, inputs, RANK)
    least = (inputs @ (error - best).T).norm()
    U, S, Vt = torch.linalg.svd(best, full_matrices=False)
    for _ in range(20):
        B = U[:, :RANK] * S[:RANK] + 0.05 * torch.randn(24, RANK, generator=generator)
        A = Vt[:RANK] + 0.05 * torch.randn(RANK, 64, generator=generator)
        assert (inputs @ (error - B @ A).T).norm() > least
    plain = nearest_of_rank(error, RANK)
    assert least < (inputs @ (error - plain).T).norm() and (error - plain).norm() < (error - best).norm()


def test_loftq_lowers_the_error_and_the_random_branch_has_the_norm_of_the_weighted(inputs, generator):
    weight = torch.randn(24, 64, generator=generator)
    off = {way: change(weight, inputs, generator) - weight for way, change in WAYS.items()}
    assert off["LoftQ"].norm() < off["SVD of the error"].norm() < off["no branch"].norm() < off["random"].norm()
    added = [(off[way] - off["no branch"]).norm().item() for way in ("random", "weighted with inputs")]
    assert added[0] == pytest.approx(added[1], rel=1e-4)
    sizes = torch.linalg.svdvals(off["random"] - off["no branch"])
    assert sizes[RANK] < 1e-4 * sizes[0]


def test_a_branch_of_rank_8_costs_three_quarters_of_a_bit():
    assert branch_bits() == pytest.approx(0.75)
    assert branch_bits(4) == pytest.approx(0.375)


def test_what_the_page_says_of_each_draw():
    """On the errors of weights and of guesses: the order of the ways, and that the inputs decide."""
    arms = load_results("repair")["arms"]
    assert len(arms) == len(WAYS) * len(lab_repair.DRAWS)
    order = ("NF5", "blocks of 8", "weighted with inputs", "LoftQ", "SVD of the error")
    for draw in lab_repair.DRAWS:
        found = {way: arms[arm_name(way, draw)] for way in WAYS}
        for text in ("kl", "plays_kl"):
            moved = [found[way][text] for way in (*order, "weighted, shuffled", "no branch", "random")]
            assert moved == sorted(moved)
        none = found["no branch"]
        left = {way: found[way]["weight_error"] / none["weight_error"] for way in WAYS}
        assert 0.945 < left["SVD of the error"] < 0.96 < left["weighted with inputs"] < 0.98 and left["random"] > 1.02
        assert abs(left["weighted, shuffled"] - left["weighted with inputs"]) < 0.002  # the weights cannot tell
    mean = {way: np.mean([arms[arm_name(way, draw)]["kl"] for draw in lab_repair.DRAWS]) for way in WAYS}
    assert 0.63 < mean["weighted with inputs"] / mean["no branch"] < 0.7  # a third less
    gptq = np.mean([load_results("compensation")["arms"][arm_name("addresses", draw)]["kl"] for draw in range(6)])
    assert gptq < mean["blocks of 8"]


def test_codes_of_gptq_fit_into_the_tensor_of_bitsandbytes(inputs, generator):
    """Its kernel decodes them to the weight that was meant; its own rounding of that weight gives other codes."""
    functional = library("bitsandbytes").functional
    weight, codebook = torch.randn(24, 64, generator=generator), nf_codebook(4)
    rounded, absmax = compensated(weight, inputs, codebook), block_absmax(weight.flatten(), 64)
    codes = nearest_code((rounded / absmax[:, None]).flatten(), codebook)
    theirs, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    ours = pack(codes, codebook).view_as(theirs)
    assert torch.equal(state.absmax, absmax) and ours.dtype == theirs.dtype and not torch.equal(ours, theirs)
    assert torch.allclose(functional.dequantize_4bit(ours, state), rounded, atol=1e-6)
    assert torch.equal(theirs.flatten(), quantize(weight, "nf4", 64).codes)
