"""The instruments of notebook 17, and what it says beside what its cells print and assert."""

import numpy as np
import pytest

from lora_course.experiments import load_results
from lora_course.nb17 import check, lab, pictures
from lora_course.nb17 import lab_telegrams as nb17
from lora_edu import load_text

ARMS = load_results("telegrams")["arms"] | load_results("telegrams-asked")["arms"]
LORA = {n: pictures.of_seeds(ARMS, f"{n} pairs") for n in (64, 600)}
TRAIN, HELD_OUT = nb17.pairs()
ROWS = HELD_OUT[: lab.TESTED]


# --- the pairs, the measure, the rule --------------------------------------------------------------------------------


def test_a_pair_is_a_sentence_and_what_is_left_of_it():
    assert nb17.telegram("It is, and will not be, the people's.") == "not people's"
    assert all(nb17.telegram(sentence) == short and len(short.split()) >= 3 for short, sentence in HELD_OUT)
    assert all(8 <= len(sentence.split()) <= 16 for _, sentence in TRAIN)


def test_no_held_out_sentence_was_said_in_a_training_address_and_six_were_dropped():
    seen = {sentence for _, sentence in TRAIN}
    assert not seen & {sentence for _, sentence in HELD_OUT}
    assert len(nb17.pairs_of(load_text("speeches").validation, 8, 16)) - len(HELD_OUT) == 6
    assert not {sentence for _, sentence in nb17.pairs(3, 60)[0]} & {sentence for _, sentence in HELD_OUT}


def test_a_word_is_right_in_its_gap_alone():
    short, sentence = "people want peace", "The people of it want a peace."
    assert nb17.put_back(short, sentence) == {(0, "the"): 1, (1, "of"): 1, (1, "it"): 1, (2, "a"): 1}
    answers = [sentence, short, "People the want peace.", "The people want the peace."]
    assert nb17.counts([(short, sentence)] * 4, answers).tolist() == [[4, 4, 4], [0, 0, 4], [0, 1, 4], [1, 2, 4]]


def test_f1_adds_words_over_sentences_and_its_interval_over_seeds():
    counted = np.array([[1, 2, 2], [0, 6, 0], [5, 5, 9]])
    assert nb17.f1(counted) == pytest.approx(200 * 6 / 24)
    assert nb17.interval(np.stack([counted, counted])) == nb17.interval(counted)
    value, low, high = nb17.interval(counted)
    assert low < value < high


def test_the_rule_puts_what_stood_there_most_often():
    said = ["The old men of peace.", "The old men at peace.", "Old men of peace.", "A wise peace."]
    rule = nb17.GapRule([(nb17.telegram(sentence), sentence) for sentence in said])
    assert rule("old men peace") == "The old men of peace."
    assert rule("wise men peace") == "A wise men of peace."  # never side by side: what stood before the second


# --- batches and answers ---------------------------------------------------------------------------------------------


def test_a_batch_asks_for_answers_and_their_ends_and_for_nothing_else():
    rows = [([1, 7, 2, 5], [8, 9, 2]), ([1, 3, 2], [6, 2]), ([4, 4, 4, 4, 4, 2], [7, 7, 7, 2])]
    inputs, targets = lab.batch_of(rows)
    for row, (question, answer) in enumerate(rows):
        assert targets[row].tolist() == check.targets_of.reference(question, answer, 9).tolist()
        assert inputs[row].tolist() == ([*question, *answer] + [lab.END] * 9)[:9]
    _, whole = lab.batch_of(rows, masked=False)
    assert whole[0].tolist() == [7, 2, 5, 8, 9, 2, -100, -100, -100]


def test_the_line_that_answers_is_read():
    assert lab.best_line("old men peace", "Here it is:\nThe old men of peace.\nI hope") == "The old men of peace."


def test_words_that_are_right_are_marked_where_they_stand():
    short, sentence = "people want peace", "The people want a peace."
    right = pictures.right_words(short, "The people want the a peace, the end", sentence)
    assert right == [True, False, False, False, True, False, False, False]
    plain, bold, line = pictures.layers("The people", [True, False])
    assert (plain, bold, line) == ("    people", "The       ", "___       ")


# --- what was found --------------------------------------------------------------------------------------------------


DRAWS = nb17.resampled(lab.TESTED)


def apart(ours, theirs):
    """The 95% interval of F1 less F1, over sentences; runs of several seeds are added up."""
    return check.difference.reference(*(one.reshape(-1, *one.shape[-2:]).sum(0) for one in (ours, theirs)), DRAWS)


PROMPTS = {name: np.array(arm["counts"]) for name, arm in load_results("telegrams-asked")["arms"].items()}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_pairs_beat_every_prompt(prompt):
    assert all(apart(one, PROMPTS[prompt])[0] > 2 for one in LORA[64])  # each seed
    assert apart(LORA[600], PROMPTS[prompt])[0] > 10


def test_no_prompt_is_clearly_above_one_word_everywhere():
    one_word = nb17.counts(ROWS, ["the " + short.replace(" ", " the ") for short, _ in ROWS])
    assert 14 < nb17.f1(one_word) < 18
    assert all(apart(counted, one_word)[0] < 0 for counted in PROMPTS.values())
    assert all(apart(one, one_word)[0] > 2 for one in LORA[64])  # each seed
