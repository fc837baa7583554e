"""What notebook 17 says about telegrams, each with the stored number that would prove it wrong; and its instruments."""

import numpy as np
import pytest
import torch
import transformers

from lora_course.experiments import load_results
from lora_course.nb17 import check, lab, pictures
from lora_course.nb17 import lab_telegrams as nb17
from lora_edu import load_text

ARMS = load_results("telegrams")["arms"] | load_results("telegrams-asked")["arms"]
LORA = {n: pictures.of_seeds(ARMS, f"{n} pairs") for n in (64, 600)}
TRAIN, HELD_OUT = nb17.pairs()
ROWS = HELD_OUT[: lab.TESTED]


def score(counted) -> float:
    return nb17.interval(np.array(counted))[0]


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


class Letters:
    """A tokenizer of single bytes. Padded on the left, with END."""

    padding_side = "left"

    def __call__(self, text, return_tensors="pt", padding=False, add_special_tokens=False):
        texts = [text] if isinstance(text, str) else text
        longest = max(map(len, texts))
        ids = torch.tensor([[lab.END] * (longest - len(one)) + list(one.encode()) for one in texts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in texts])
        return {"input_ids": ids, "attention_mask": mask}

    def batch_decode(self, ids, skip_special_tokens=True):
        return [bytes(row.tolist()).decode("latin-1") for row in ids]


def test_examples_that_are_read_once_are_read():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.LlamaConfig(vocab_size=256, **shape, initializer_range=0.6)
    model = transformers.LlamaForCausalLM(config).eval()
    prompts, before = ["a b c", "the old pilot", "x"], "something in front: "
    once, ended = lab.answered(model, Letters(), prompts, before)
    assert once == lab.answered(model, Letters(), [before + prompt for prompt in prompts])[0]
    assert once != lab.answered(model, Letters(), prompts)[0]
    assert 0 <= ended <= 3


def test_the_line_that_answers_is_read():
    assert lab.best_line("old men peace", "Here it is:\nThe old men of peace.\nI hope") == "The old men of peace."


def test_words_that_are_right_are_marked_where_they_stand():
    right = pictures.right_words(
        "people want peace", "The people want the a peace, the end", "The people want a peace."
    )
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
    assert 14 < score(one_word) < 18
    assert all(apart(counted, one_word)[0] < 0 for counted in PROMPTS.values())
    assert all(apart(one, one_word)[0] > 2 for one in LORA[64])  # each seed


def test_nobody_forgets_to_say_for_how_much_data():
    rules = [nb17.GapRule(seen) for seen in (TRAIN[:600], TRAIN, nb17.pairs(3, 60)[0])]
    same, more, every = (nb17.counts(ROWS, [rule(short) for short, _ in ROWS]) for rule in rules)
    assert apart(LORA[600], same)[0] > 20 and apart(LORA[600], more)[0] > 10
    assert apart(LORA[600], every)[0] < 10  # the rule that saw 46 times as much comes close, at least


def test_a_text_is_learned_without_the_task_and_the_task_without_the_text():
    read, start = load_results("telegrams-read")["arms"]["running addresses, seed 0"], ARMS["asked, short"]
    assert read["addresses"] < start["addresses"] - 0.05
    told = [loss for n in (64, 600) for loss in pictures.marks(ARMS, f"{n} pairs")]
    assert len(told) == 6 and min(told) > start["addresses"] + 0.05
    best = max(score(counted) for counted in PROMPTS.values())
    assert max(score(read[way]["counts"]) for way in ("short", "long", "5 examples")) < best + 5


def test_what_loose_sentences_do_is_no_reading():
    """The first control, the same sentences shuffled: it made addresses worse, and could tell nothing."""
    loose = load_results("telegrams-read")["arms"]["600 sentences, seed 0"]
    assert loose["addresses"] > ARMS["asked, short"]["addresses"] + 0.5


def test_without_the_end_it_does_not_stop():
    assert ARMS["200 pairs, no end, seed 0"]["ended"] == 0
    assert min(pictures.marks(ARMS, "64 pairs", "ended") + pictures.marks(ARMS, "600 pairs", "ended")) > 115
