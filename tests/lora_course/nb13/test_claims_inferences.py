"""What notebook 13 infers from stored results: each assertion fails with the sentence that stood there before."""

from statistics import mean

import numpy as np
import pytest

from lora_course.nb13 import check
from lora_course.nb13 import lab_measured as measured
from lora_course.nb13 import lab_trained as trained
from lora_course.nb13.lab import ASKED, MID
from lora_course.nb13.pictures_claims import holds

# --- products, memory, precision -------------------------------------------------------------------------------------


def test_an_interval_holds_the_true_mean_95_times_in_100():
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    held = [low < 0 < high for low, high in map(trained.interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_an_nf4_layer_multiplies_in_16_or_32_bits():
    assert set(measured.operand_bits().values()) == {16.0, 32.0} and set(measured.integer_bits().values()) == {8.0}


def test_the_large_model_is_compared_at_equal_checkpointing():
    assert measured.less_in_a_step()["a step of LLaMA 7B, r = 64, counted"] == pytest.approx(5.0, abs=0.1)


# --- which verb goes with which pronoun? -----------------------------------------------------------------------------


def gap(one, other, order):
    pairs = zip(trained.shares(one, order), trained.shares(other, order), strict=True)
    return trained.interval([a - b for a, b in pairs])


@pytest.mark.parametrize("form", ["", MID])
def test_lora_is_behind_counting_and_full_training_ahead_of_lora_in_both_forms(form):
    """The page had said "counting wins": that was of the start of a line, where the rival is told that A is a."""
    (_, behind), (ahead, _) = gap("lora", "counted", f"question{form}"), gap("full", "lora", f"question{form}")
    assert behind < 0 < ahead
    low, high = gap("full", "counted", f"question{form}")
    assert low < 0 < high if form else high < 0


@pytest.mark.parametrize("form", ["", MID])
def test_the_fair_rival_is_ahead_of_lora_and_level_with_full_training_in_both_forms(form):
    """It keeps capitals, as the models do: for a while the page compared with the one that folds them alone."""
    (_, behind), (low, high) = (gap(way, "cased", f"question{form}") for way in ("lora", "full"))
    assert behind < 0 and low < 0 < high
    assert gap("cased", "counted", "question")[1] < 0, "at the start of a line, folding is a help"


def test_full_training_alone_beats_the_coin_in_both_orders_and_in_mid_line_alone():
    """LoRA was below the coin at the start of a line; without the capital it cannot be told from one."""
    for way, expected in {"lora": [True, False, True, None], "full": [True, None, True, True]}.items():
        assert [holds(trained.interval(trained.shares(way, order)), 0.5, np.inf) for order in ASKED] == expected
    question, statement = (mean(trained.shares("base", f"{order}{MID}")) for order in ("question", "statement"))
    assert question < 0.25 < 0.85 < statement


def test_luck_is_what_exercise_13_1_asks_for():
    one, other = (trained.right(f"{way}, seed 0", "question") for way in ("full", "lora"))
    assert trained.luck("full", "lora", "question", 0) == pytest.approx(check.standard_errors.reference(one, other))
