"""The article of notebook 13: every verdict is computed and can flip, every link leads to a heading, marks are scored.

What the page says about stored results is held in test_claims_inferences.py.
"""

import dataclasses
import re
from itertools import product
from math import inf

import pytest

from lora_course.nb13 import lab_measured as measured
from lora_course.nb13 import pictures as page
from lora_course.nb13.pictures_claims import CLAIMS, DEPENDS, FALSE, TRUE, VERDICTS, holds, verdict

EACH = pytest.mark.parametrize("claim", CLAIMS, ids=[f"sentence {number}" for number, _ in enumerate(CLAIMS, 1)])


@EACH
def test_a_sentence_has_a_control_unless_its_settings_fall_on_both_sides(claim):
    """That its measurement can say both, the page's last cell asserts."""
    assert claim.verdict in VERDICTS and bool(claim.control_number) == (claim.verdict != DEPENDS)
    assert not claim.control_number.keys() & claim.numbers.keys()  # it is no case of its own


@EACH
def test_the_words_judge_no_one(claim):
    assert not re.search(r"\b(?:author|they claim|wrongly)\b", claim.corrected)


@EACH
def test_a_verdict_says_its_settings_and_its_bound(claim):
    html = page.answer_html(claim)
    assert f"<b>{claim.verdict.upper()}.</b> It held in {claim.answers.count(True)} of {len(claim.answers)}" in html
    assert claim.settings in claim.told and re.search(r": at (least|most) [\d.,]+$", claim.asked)
    told = int(re.search(r"(\d+) cannot|$", claim.told)[1] or 0)
    assert html.count(">cannot tell<") == claim.answers.count(None) == told


@pytest.mark.parametrize("answers", list(product([True, False, None], repeat=3)))
def test_a_verdict_is_what_all_settings_say_together(answers):
    told = verdict(answers)
    assert (told == TRUE) == all(answers)
    assert (told == FALSE) == (False in answers and True not in answers)
    assert (told == DEPENDS) == (False in answers and True in answers)
    assert (verdict(answers, says_any=True) == FALSE) == (False in answers)  # one is enough


@pytest.mark.parametrize(
    ("number", "least", "most", "expected"),
    [(2.0, 1, inf, True), (2.0, 3, inf, False), (2.0, -inf, 2, True), ((-1, 0.9), -inf, 1, True),
     ((1.1, 9), -inf, 1, False), ((-1, 1.1), -inf, 1, None), ((0, 3), 1, 2, None)],
)  # fmt: skip
def test_all_of_the_interval_must_lie_on_one_side(number, least, most, expected):
    assert holds(number, least, most) is expected


OTHERWISE = [
    (lambda: measured.kept_in_codes(sizes=(0.5, 1.0)), 10, TRUE),
    (lambda: measured.unequal_gaps(names=("int4", "int8")), 8, TRUE),
    (lambda: measured.operations_of_lora(rank=512), 3, FALSE),
]


@pytest.mark.parametrize(("cases", "number", "expected"), OTHERWISE)
def test_other_arguments_of_a_measurement_give_another_verdict(cases, number, expected):
    other = dataclasses.replace(CLAIMS[number - 1], cases=cases)
    assert other.verdict == expected != CLAIMS[number - 1].verdict


# --- marks and score -------------------------------------------------------------------------------------------------


def test_the_score_counts_what_is_marked():
    right = [claim.verdict for claim in CLAIMS]
    wrong = [next(word for word in VERDICTS if word != claim.verdict) for claim in CLAIMS]
    assert page.readout([None] * 10) == "0 of 10 marked"
    assert page.readout([*wrong[:2], right[2], *[None] * 7]) == "3 of 10 marked, 1 right"
    best = right.count(DEPENDS)
    said = f"10 of 10 marked, 6 right. If you mark 'depends' every time, {best} are right"
    assert page.readout(wrong[:4] + right[4:]) == said
    assert page.readout([DEPENDS] * 10).startswith(f"10 of 10 marked, {best} right.")


@pytest.fixture
def shown(monkeypatch, capsys):
    """The buttons, and what stands around them."""
    found = []
    monkeypatch.setattr(page, "show_widget", found.append)
    buttons = page.article()
    return buttons, found[0]


def test_a_mark_opens_its_sentence_and_no_other(shown):
    buttons, around = shown
    *rest, score = around.children
    answers = [child for child in rest if getattr(child, "value", None) == ""]
    assert len(answers) == 10 and "0 of 10 marked" in score.value
    buttons[2].value = DEPENDS
    assert [bool(answer.value) for answer in answers] == [row == 2 for row in range(10)]
    assert "DEPENDS" in answers[2].value
    assert "1 of 10 marked, 1 right" in score.value and 'role="status"' in score.value


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_folds_every_answer():
    """The site's script reads each verdict from the first bold word of a fold."""
    html = page.article_html()
    folds = re.findall(r"<details>.*?</details>", html, flags=re.DOTALL)
    assert [re.search(r"<p><b>(\w+)\.", fold)[1].lower() for fold in folds] == [claim.verdict for claim in CLAIMS]
    before = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert not re.search(r"TRUE|FALSE|DEPENDS", before)  # nothing is told before it is opened


def test_the_picture_has_each_sentence_below_its_verdict_with_a_sign_for_each_setting():
    figure, words = page.verdicts_picture()
    texts = [text.get_text() for text in figure.axes[0].texts]
    places = {word: texts.index(f"{word}: {count}") for word, count in page.always().items()}
    for claim in CLAIMS:
        before = [word for word, place in places.items() if place < texts.index(claim.sentence)]
        assert max(before, key=places.get) == claim.verdict
        assert texts[texts.index(claim.sentence) - 1].count(" ") == len(claim.answers) - 1
    assert "depends: 3 \u00d7 \u25cf \u25cf, 4 " in words
