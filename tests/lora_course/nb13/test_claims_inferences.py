"""What notebook 13 infers from stored results: each assertion fails with the sentence that stood there before."""

from statistics import mean

import numpy as np
import pytest

from lora_course.nb13 import check
from lora_course.nb13 import lab_measured as measured
from lora_course.nb13 import lab_trained as trained
from lora_course.nb13.lab import ASKED, MID
from lora_course.nb13.pictures_claims import CLAIMS, DEPENDS, FALSE, holds, verdict

# --- products, memory, precision -------------------------------------------------------------------------------------


def test_an_interval_holds_the_true_mean_95_times_in_100():
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    assert np.mean([low < 0 < high for low, high in map(trained.interval, draws.tolist())]) == pytest.approx(
        0.95, abs=0.012
    )


def test_an_nf4_layer_multiplies_in_16_or_32_bits():
    assert set(measured.operand_bits().values()) == {16.0, 32.0} and set(measured.integer_bits().values()) == {8.0}


def test_the_large_model_is_compared_at_equal_checkpointing():
    assert measured.less_in_a_step()["a step of LLaMA 7B, r = 64, counted"] == pytest.approx(5.0, abs=0.1)


# --- which verb goes with which pronoun? -----------------------------------------------------------------------------


def test_an_untrained_base_passes_half_of_the_test_and_fails_the_other():
    statements, questions = (mean(trained.shares("base", order)) for order in ("statement", "question"))
    assert statements > 0.85 and questions < 0.25, "so neither of them is knowledge"


def test_lora_fails_at_questions_which_counting_learns_from_the_same_bytes():
    """With three seeds the interval held the coin: six tell. One task that fails is enough against 'any'."""
    assert CLAIMS[6].sentence.startswith("In 100 steps") and "100 steps" in CLAIMS[6].settings
    assert CLAIMS[6].answers == [True, False, None] and CLAIMS[6].verdict == FALSE and CLAIMS[6].says_any
    assert verdict(CLAIMS[6].answers) == DEPENDS
    assert all(len(trained.shares(method, "question")) == 6 for method in ("lora", "qlora", "full", "counted"))


def gap(one, other, order):
    pairs = zip(trained.shares(one, order), trained.shares(other, order), strict=True)
    return trained.interval([a - b for a, b in pairs])


@pytest.mark.parametrize("form", ["", MID])
def test_lora_is_behind_counting_and_full_training_ahead_of_lora_in_both_forms(form):
    """The page had said "counting wins": that was of the start of a line, where the rival is told that A is a."""
    assert gap("lora", "counted", f"question{form}").high < 0 < gap("full", "lora", f"question{form}").low
    ahead = gap("full", "counted", f"question{form}")
    assert ahead.low < 0 < ahead.high if form else ahead.high < 0


def test_full_training_alone_beats_the_coin_in_both_orders_and_in_mid_line_alone():
    """LoRA was below the coin at the start of a line; without the capital it cannot be told from one."""
    found = {
        way: [holds(trained.interval(trained.shares(way, order)), 0.5, np.inf) for order in ASKED]
        for way in ("lora", "full")
    }
    assert found == {"lora": [True, False, True, None], "full": [True, None, True, True]}
    assert (
        mean(trained.shares("base", f"question{MID}")) < 0.25 < 0.85 < mean(trained.shares("base", f"statement{MID}"))
    )


def test_six_seeds_tell_of_questions_and_take_back_what_three_said_of_statements():
    """The page had said of both orders that it cannot be told, and of statements that full training is behind."""
    full, lora = ({order: np.array(trained.shares(way, order)) for order in ASKED} for way in ("full", "lora"))
    gaps = {order: (full[order] - lora[order]).tolist() for order in ASKED}
    assert max(gaps["statement"][:4]) < 0 < gaps["statement"][5] and min(gaps["question"]) > 0
    assert holds(trained.interval(gaps["statement"]), 0, 1) is None and holds(trained.interval(gaps["question"]), 0, 1)
    luck = [trained.luck("full", "lora", "statement", seed) for seed in range(6)]
    assert max(luck[:4]) < -4 and luck[5] > 4, "each of these runs alone is far from luck among its pairs"


def test_luck_is_what_exercise_13_1_asks_for():
    one, other = (trained.right(f"{way}, seed 0", "question") for way in ("full", "lora"))
    assert trained.luck("full", "lora", "question", 0) == pytest.approx(check.standard_errors.reference(one, other))
