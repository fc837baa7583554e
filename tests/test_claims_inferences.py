"""What notebook 13 infers from stored results: each assertion fails with the sentence that stood there before."""

from functools import partial
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from lora_edu.exercises import nb13 as check
from lora_edu.experiments import nb13_measured as measured
from lora_edu.experiments import nb13_trained as trained
from lora_edu.figures import nb11_published as published
from lora_edu.figures import nb13_gaps
from lora_edu.figures.nb13_claims import CLAIMS, DEPENDS, FALSE, SAID, TRUE, as_well, verdict


def claim(letter: str):
    return next(claim for claim in CLAIMS if claim.letter == letter)


# --- losses, seed by seed --------------------------------------------------------------------------------------------


def test_lora_stays_behind_in_three_settings_and_its_own_matrices_cannot_be_told():
    """Seed by seed rank 64 is worse there, too; that it is so by more than the tolerance, three seeds do not say."""
    found = trained.lora_gaps()
    assert all(gap > trained.TOLERANCE for gap in found["all plays, rank 64 against the same matrices"])
    assert [as_well(gap) for gap in trained.lora_against_full().values()] == [False, False, False, None]
    assert claim("h").verdict == FALSE and claim("h").kept == 0 and "stays behind" in claim("h").corrected
    assert "In 1 three seeds cannot tell." in claim("h").told
    assert "three seeds cannot tell" in claim("h").corrected


def test_in_a_published_setting_chance_covers_the_gap_of_lora_and_full_fine_tuning():
    """So sentence 6 names its setting: 100 steps of our GPT."""
    full, lora = (row["right"] / published.QUESTIONS for row in (published.FULL, published.PUBLISHED["LoRA, rank 64"]))
    error = sum(share * (1 - share) / published.QUESTIONS for share in (full, lora)) ** 0.5
    assert 0 < (full - lora) / error < 1 and "100 steps of our GPT" in claim("h").sentence
    assert "645 and 660 right of 1,319" in claim("h").corrected
    assert [published.PUBLISHED["LoRA, rank 64"]["right"], published.FULL["right"]] == [645, 660]


def test_qlora_learns_all_plays_as_well_and_elsewhere_three_seeds_cannot_tell():
    """The page had compared the means with the tolerance, three of which lie below it: one interval does."""
    found = trained.qlora_gaps()
    said = {name: as_well(gap) for name, gap in trained.qlora_against_lora().items()}
    assert [name for name, holds in said.items() if holds is not None] == ["all plays, learned"]
    assert said["all plays, learned"] is True and sum(mean(gaps) <= trained.TOLERANCE for gaps in found.values()) == 3
    assert "In 3 three seeds cannot tell." in claim("m").told and claim("m").kept == 1
    assert "It learns as much" not in claim("m").corrected and "three seeds cannot tell" in claim("m").corrected


def test_qlora_ends_worse_on_what_the_base_knew():
    found = trained.qlora_gaps()
    kept = found["all plays, kept"] + found["20 kB, kept"]
    assert len(kept) == 6 and min(kept) > 0, "no difference to be seen? there is one for every seed"
    before = mean(trained.rounding_alone("addresses"))
    assert mean(found["all plays, kept"]) < before < mean(found["20 kB, kept"]), (
        "it covers one, and a part of the other"
    )
    assert claim("m").verdict == DEPENDS
    assert "no difference" not in claim("m").corrected
    assert verdict(trained.qlora_against_lora(), partial(as_well, most=0.02)) == TRUE  # so the tolerance comes first


def test_the_tolerance_is_the_spread_of_eight_draws():
    """A third of one draw's cost, as it was before, is more than NF4 costs plays in the mean."""
    plays, addresses = (trained.rounding_alone(text) for text in ("plays", "addresses"))
    assert trained.TOLERANCE == pytest.approx(stdev(plays), abs=1e-4) and len(plays) == 8
    assert abs(mean(plays)) < trained.TOLERANCE and min(plays) < 0 < max(plays), "nothing that its draws agree on"
    assert min(addresses) > 0 and stdev(addresses) < mean(addresses) / 5


def test_pairs_are_pairs():
    """A difference that each seed has, and a spread ten times as large."""
    one, other = [1.01, 1.11, 1.215], [1.0, 1.1, 1.2]
    assert trained.deviation([a - b for a, b in zip(one, other, strict=True)]) == pytest.approx(7, rel=0.01)
    (gap,) = trained.intervals({"a": [1.0, 2.0, 3.0]}).values()
    assert gap == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


@pytest.mark.parametrize(("low", "high", "word"), [(-1, 0.9, "holds"), (1.1, 9, "fails"), (-1, 1.1, "cannot tell")])
def test_all_of_the_interval_must_lie_on_one_side_of_the_tolerance(low, high, word):
    assert SAID[as_well(trained.Interval(low, high), most=1.0)] == word


def test_the_picture_says_what_the_rule_says():
    _, words = nb13_gaps.gaps_picture()
    assert words.startswith("QLoRA does as well as LoRA in 1 of 4 settings, and 3 cannot be told.")
    assert [words.count(f": {said}") for said in SAID.values()] == [1, 3, 4] and len(words.split()) <= 85


# --- products, memory, precision -------------------------------------------------------------------------------------


def test_cheaper_products_are_timed_and_an_integer_product_can_be_cheaper():
    """Operations are as many in 8 bits as in 32: a count of them could not have said that a product is cheaper."""
    assert claim("f").verdict == FALSE and claim("f").control_number[0].endswith("int8")
    assert claim("f").control_number[1] < 0.5 and min(claim("f").numbers.values()) > 0.9
    assert set(measured.operations_of_nf4().values()) == {1.0}


def test_the_large_model_is_compared_at_equal_checkpointing():
    found = measured.times_less_memory()
    assert found["LLaMA 7B, LoRA"] == pytest.approx(5.0, abs=0.1)
    assert found["LLaMA 7B, QLoRA"] == pytest.approx(12.0, abs=0.1)


def test_the_largest_is_exact_and_the_next_are_worst():
    found = measured.precision_of_important()
    assert found["the largest of its block"] == 0 and found["the six next to it"] > 1.5
    assert 0.9 < found["1% by size of input"] < 1.1 and claim("i").kept == 1


def test_precision_by_another_way():
    """On normal weights: no layer, no inputs; sort each block and compare errors place by place."""
    blocks = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    errors = (measured.quantize(blocks).dequantize() - blocks).square()
    ordered = errors.gather(1, blocks.abs().argsort(1, descending=True))
    by_place = (ordered.mean(0) / errors.mean()).sqrt()
    assert by_place[0] < 0.01 and by_place[1:7].mean() > 1.5 and by_place[32:].max() < 0.95


def test_the_time_for_one_byte_says_how_far_its_rounds_lie_apart():
    """On a busy machine the median alone is a number of another day's noise."""
    name, middle = list(trained.on_a_small_device().items())[-1]
    low, high = (float(part) for part in name.split("rounds: ")[1].rstrip(")").split(" to "))
    assert low - 0.05 <= middle <= high + 0.05 and not claim("p").holds(middle)


# --- which verb goes with which pronoun? -----------------------------------------------------------------------------


def test_an_untrained_base_passes_half_of_the_test_and_fails_the_other():
    statements, questions = (mean(trained.shares("base", order)) for order in ("statement", "question"))
    assert statements > 0.85 and questions < 0.25, "so neither of them is knowledge"


def test_counting_beats_every_model_with_questions():
    counted = trained.shares("counted", "question")
    assert set(trained.shares("counted", "statement")) == {1.0} and min(counted) == pytest.approx(0.8)
    missed = [pair for pair in np.flatnonzero(trained.right("counted, seed 2", "question") == 0)]
    assert {pair % 5 for pair in missed} == {4}, "the questions of one verb"
    for method in ("base", "lora", "qlora", "full"):
        assert mean(trained.shares(method, "question")) < mean(counted)
    assert claim("l").verdict == DEPENDS and claim("l").kept == 1


def test_no_way_beats_the_coin_in_both_orders_with_all_seeds():
    for method in ("lora", "qlora", "full"):
        assert min(trained.shares(method, "question")) < 0.5
        assert all(trained.right(f"{method}, seed 0", order).size == 500 for order in ("statement", "question"))
    assert max(trained.shares("lora", "question") + trained.shares("qlora", "question")) < 0.5
    assert sorted(share > 0.5 for share in trained.shares("full", "question")) == [False, True, True]


def gaps(one: str, other: str, order: str) -> list[float]:
    return [a - b for a, b in zip(trained.shares(one, order), trained.shares(other, order), strict=True)]


def test_full_and_lora_change_places_with_the_order():
    """Each run is far from luck among its pairs; three seeds are not far from the luck of training."""
    assert max(gaps("full", "lora", "statement")) < 0 < min(gaps("full", "lora", "question"))
    for order in ("statement", "question"):
        assert all(abs(trained.luck("full", "lora", order, seed)[2]) > 4 for seed in range(3))
        assert abs(trained.deviation(gaps("full", "lora", order))) < 4.3, "it cannot be told"


def test_luck_is_what_exercise_13_1_asks_for():
    one, other = (trained.right(f"{way}, seed 0", "question") for way in ("full", "lora"))
    assert trained.luck("full", "lora", "question", 0)[2] == pytest.approx(check.standard_errors.reference(one, other))


# --- rank and size ---------------------------------------------------------------------------------------------------


def test_the_sign_depends_on_the_rank_that_one_compares_with():
    found = trained.lost_in_the_larger()
    assert found["rank 1 against rank 8"] > 0.02 > -0.02 > found["rank 1 against rank 64"]
    assert claim("s").verdict == DEPENDS
    name, number = claim("s").control_number  # the same quantity, and only the rate is another
    assert number > max(found.values()) and "two rates" in name
    assert len(trained.gains_of("smollm2", 1, times=1.0)) == 3
