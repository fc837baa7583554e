"""What a check says without knowing the exercise: arguments exchanged or ignored, and what an error means."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_exercises import said
from torch import nn

from lora_course.checking import symptoms
from lora_course.checking.answers import Answer
from lora_course.checking.comparing import plain
from lora_course.checking.exercise import Exercise, exercise
from lora_course.checking.symptoms import symptom
from lora_course.nb02 import check as nb02
from lora_course.nb03 import check as nb03
from lora_course.nb04 import check as nb04


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


@exercise("1.1", [(*arrays(0, (4, 3), (5, 3), (5, 3)), 2.0), (*arrays(1, (6, 2), (3, 2), (3, 2)), 0.5)])
def PRODUCT(x, W, V, s):
    return s * x @ W.T + x @ V.T  # the sum of two products


@exercise("1.1", [(2, 3), (5, 7), (4, 11)])
def COUNT(n, d):
    return n * d * (d + 1)  # the product


def looks(asked, attempt):
    """All that could be said of an answer, not only the first."""
    return " ".join(sentence for _, sentence in Answer(asked, attempt).looks())


right = PRODUCT.reference


def test_arguments_that_are_exchanged():
    assert "`W` and `V` have changed places." in said(PRODUCT, lambda x, W, V, s: right(x, V, W, s))
    assert "`W` stands where `V` belongs." in said(PRODUCT, lambda x, W, V, s: right(x, W, W, s))
    assert "place" not in said(PRODUCT, lambda *everything: np.sin(right(*everything)))  # no names


def test_several_parts_where_their_sum_is_asked_for():
    assert "hese are parts of what is asked for" in said(COUNT, lambda n, d: [n * d * d, n * d])


def without_super(base, rank, alpha, dropout):
    class Layer(nn.Module):
        def __init__(self):
            self.lora_A = nn.Parameter(torch.zeros(rank, 3))

    return Layer()


def of_parts(model, tokens, n_blocks):
    return model.embed(tokens)


ERRORS = [
    (PRODUCT, lambda x, W, V, s: x @ W, "a transpose or another place. Given are `x` (4, 3), `W` (5, 3)"),
    (PRODUCT, lambda x, W, V, s: x + W, "the shapes of two arrays do not fit"),
    (PRODUCT, lambda x, W, V, s: x[4], "the first place is 0"),
    (PRODUCT, lambda x, W, V, s: eval("weight"), "does not know. It is given `x`"),
    (PRODUCT, lambda x, W, V, s: math.exp(x), "`np.log` each entry"),
    (PRODUCT, lambda x, W, V, s: np.zeros(len(x) / 2), "`/` gives a float"),
    (PRODUCT, lambda x, W, V, s: [1, 2] * s, "a list or tuple does not multiply"),
    (PRODUCT, lambda x, W, V, s: x.softmax(-1), "`softmax` is a method of torch tensors"),
    (PRODUCT, lambda x, W: x @ W.T, "has other arguments than before"),
    (PRODUCT, lambda x, W, V, s: torch.tensor(x).view(-1, 5), "do not fill that shape, there are too few or too many"),
    (PRODUCT, lambda x, W, V, s: x.reshape(5, -1), "do not fill that shape"),
    (PRODUCT, lambda x, W, V, s: torch.tensor(x).T.view(-1), "`reshape` and `flatten` do without"),
    (PRODUCT, lambda x, W, V, s: [r.split(2) for r in torch.tensor(x).flatten()], "one number is taken for an array"),
    (nb03.guess_after, of_parts, "Its parts are `token_embedding`, "),
    (nb04.lora_layer, without_super, "`super().__init__()` is the first line"),
    (nb02.merged_weight, lambda W, A, B, alpha: 1 / [], "your function stopped with TypeError"),
]


@pytest.mark.parametrize(("asked", "attempt", "sentence"), ERRORS)
def test_an_error_is_said_in_other_words(asked, attempt, sentence):
    text = said(asked, attempt)
    assert sentence in text and "your function stopped with" in text and "gufunc" not in text


def test_several_things_where_one_was_asked_for():
    text = said(PRODUCT, lambda x, W, V, s: (x @ W.T, x @ V.T))
    assert text == "your function returns 2 things, in a tuple. One was asked for."
    assert "the number is right, but it stands in a list" in looks(COUNT, lambda n, d: [n * d * (d + 1)])


def test_an_answer_of_true_or_false_is_no_number():
    assert "True or False" in said(COUNT, lambda n, d: n > d)
    Exercise("1.1", lambda n: n > 2, [(1,), (3,)])(lambda n: not n <= 2)


TABLES = ("CHANGED", "ONE_NUMBER", "OF_A_LIST", "A_PART", "ARRANGED")
SYMPTOMS = [(table, sentence) for table in TABLES for sentence in getattr(symptoms, table)]


def results_of(table, sentence):
    """Results of two cases of which a symptom can be seen: what wraps around is large, what is a list has one side."""
    if table == "OF_A_LIST":
        many = [np.array(numbers) for numbers in ([0.3, -2.0, 5.0, 1.0], [0.7, 4.0, -1.0, 0.1])]
        return [numbers[:1] for numbers in many] if "in a list or an array" in sentence else many
    size = 60_000 if "int16" in sentence else 300 if "wrap around" in sentence else 1
    if "diagonal of this" in sentence:
        return arrays(0, 4, 3)
    return [size * part for part in arrays(0, (3, 4), (5, 2))]


@pytest.mark.parametrize(("table", "sentence"), SYMPTOMS, ids=lambda part: part[:40])
def test_every_symptom_is_told_and_only_if_it_holds_in_every_case(table, sentence):
    change, results = getattr(symptoms, table)[sentence], results_of(table, sentence)
    changed = [np.ravel(result) if "not their shape" in sentence else change(result) for result in results]
    got, expected = (results, changed) if table == "OF_A_LIST" else (changed, results)
    assert symptom([plain(g) for g in got], [plain(e) for e in expected]) == sentence
    assert symptom([plain(g) for g in got], [plain(expected[0]), plain(expected[1] + 0.37)]) != sentence


CHANGES = [
    (lambda e: 2.5 * e, "this is 2.5 times what is asked for, in every case."),
    (lambda e: e / np.log(2), "1.443 is 1 / ln 2"),
    (lambda e: e - 1, "this is 1 too small, in every case."),
    (lambda e: e * np.nan, "some of what your function returns is not a number (nan)"),
    (lambda e: e * 0, "this is zero everywhere."),
    (lambda e: e.astype(np.float16), "the first digits are right"),
    (lambda e: np.roll(e.ravel(), 3).reshape(e.shape), "they stand in another order"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_symptoms_that_stand_in_no_table(change, sentence):
    results = arrays(0, (3, 4), (5, 2))
    assert sentence in symptom([plain(change(result)) for result in results], [plain(result) for result in results])


@exercise("1.1", [(1,), (2,)])
def LARGE(n):
    return 10**7 * n  # a large count


def test_of_counts_one_more_is_another_count():
    assert "too large, in every case" in looks(LARGE, lambda n: 10**7 * n + 1)
    LARGE(lambda n: Fraction(10**7 * n))
