"""The task of notebook 13: pairs of equal words and lengths, what a text costs, the rival that counts, the arms."""

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb13 import lab as task
from lora_course.nb13.lab import ASKED, MID
from lora_course.running import finetune
from lora_edu.texts import load_text


@pytest.mark.parametrize("order", ASKED)
def test_both_sides_have_the_same_words_and_as_many_bytes(order):
    """So whoever counts words, or bytes, can only toss a coin."""
    for pair in task.pairs(order, task.held_out_lines(5)):
        right, wrong = (sorted(word for text in side for word in task.words_of(text)) for side in pair)
        assert right == wrong
        assert [len(text) for text in pair.right] == [len(text) for text in pair.wrong]
        assert set(pair.right).isdisjoint(pair.wrong)


def test_a_pair_in_both_orders():
    statement, question, _, mid_line = (task.pairs(order, ["Well met."])[0] for order in ASKED)
    assert statement.right == ("Well met.\nThou art ", "Well met.\nYou are ")
    assert question.wrong == ("Well met.\nAre thou ", "Well met.\nArt you ")
    assert mid_line.right == ("Well met, art thou ", "Well met, are you ")


def test_the_lines_are_held_out_and_address_nobody():
    lines = task.held_out_lines()
    trained, held_out = (bytes(part.tolist()).decode("utf-8") for part in load_text("shakespeare"))
    assert len(lines) == task.LINES and lines != task.held_out_lines(seed=1)
    assert all(line in held_out for line in lines) and sum(line + "\n" in trained for line in lines) < 0.1 * len(lines)
    assert not {"thou", "thee", "thy", "you", "your"} & {word for line in lines for word in task.words_of(line)}


def test_what_a_text_costs_is_what_the_model_says(tiny_gpt):
    """Padding and order change nothing: each text alone costs its mean loss times the bytes that are asked for."""
    texts = ["Art thou ", "A longer line.\nYou are ", "x y"]
    together = task.losses(tiny_gpt, texts)
    for text, cost in zip(texts, together, strict=True):
        tokens = torch.tensor([list(text.encode())])
        _, mean = tiny_gpt(tokens[:, :-1], tokens[:, 1:])
        assert cost == pytest.approx(mean.item() * (len(text) - 1), rel=1e-5)


def test_a_model_that_prefers_the_right_lines_is_right(monkeypatch):
    asked = task.pairs("question", ["Well met."])
    cheap = {text for pair in asked[:2] for text in pair.right} | {text for pair in asked[2:] for text in pair.wrong}
    monkeypatch.setattr(task, "losses", lambda _, texts: torch.tensor([0.0 if t in cheap else 1.0 for t in texts]))
    assert task.answers(None, asked).tolist() == [1, 1, 0, 0, 0]
    cheap.clear()
    assert task.answers(None, asked).tolist() == [0] * 5  # equal is not right


def test_counting_pairs_of_words():
    text = torch.tensor(list(b"thou art so you are so art thou so are you so "), dtype=torch.uint8).repeat(20)
    counts = task.count_word_pairs(text, 1, seed=0)
    assert counts["thou", "art"] > 15 and counts["thou", "are"] == 0 == counts["you", "art"]
    by_order = {order: task.counted_answers(counts, task.pairs(order, ["Well met."])) for order in ASKED}
    assert by_order["statement"].tolist() == [1, 0, 0, 0, 0]  # of the other verbs it has read nothing
    assert by_order["question"].tolist() == [1, 0, 0, 0, 0]


def test_the_fair_rival_keeps_capitals():
    """It read "thou art" in mid-line only: the line that begins with a capital is new to it."""
    text = torch.tensor(list(b"thou art, art thou, you are, are you, "), dtype=torch.uint8).repeat(40)
    counts = task.count_word_pairs(text, 1, seed=0, fold=False)
    assert task.words_of("Art thou", fold=False) == ["Art", "thou"]
    for order in ASKED:
        right = task.counted_answers(counts, task.pairs(order, ["Well met."]), fold=False)
        assert right.tolist() == [int(order.endswith(MID)), 0, 0, 0, 0]


def test_an_arm_trains_as_notebook_09_does_and_says_the_same_again(in_small, monkeypatch):
    in_small(task, finetune)
    monkeypatch.setattr(task, "loss_on", lambda model, name: 0.0)
    monkeypatch.setattr(task, "held_out_lines", lambda count: ["Well met.", "So be it."][:count])
    how = dict(lr=1e-2, steps=3, lines=2, progress=False)
    one = task.agreement("lora", **how)
    assert one == task.agreement("lora", **how) and set(one) == {*ASKED, "plays"}
    assert all(len(one[order]) == 2 * len(task.VERBS) and set(one[order]) <= {"0", "1"} for order in ASKED)


# --- what is stored --------------------------------------------------------------------------------------------------


def test_the_base_answers_again_as_it_is_stored():
    model = task.prepared(task.load_base("laptop", device="cpu"), "lora")
    for order in ASKED:
        again = task.digits(task.answers(model, task.pairs(order, task.held_out_lines()[:4])))
        stored = load_results("agreement")["arms"]["base"][order]
        assert sum(a != b for a, b in zip(again, stored, strict=False)) <= 1  # a near tie may fall the other way
