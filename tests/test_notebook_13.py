"""The annotated article: every verdict is computed and can flip, every link leads to a heading, marks are scored.

What the page says about stored results is held in test_claims_inferences.py.
"""

import copy
import dataclasses
import re

import pytest
from conftest import code_cell
from test_links import ANCHORS

from lora_edu.experiments import nb13_measured as measured
from lora_edu.experiments import nb13_trained as trained
from lora_edu.figures import nb13 as page
from lora_edu.figures.nb13_claims import CLAIMS, DEPENDS, FALSE, TRUE, VERDICTS, verdict

EACH = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.letter)


def test_fifteen_sentences():
    assert len(CLAIMS) == 15 == sum(count for _, count in page.PARAGRAPHS)
    assert len({claim.letter for claim in CLAIMS}) == 15 and all(claim.verdict in VERDICTS for claim in CLAIMS)
    here = {claim.letter for claim in CLAIMS if claim.file == "13_claims.ipynb"}
    assert here == set("alip")  # the four that nothing else measures


@EACH
def test_the_link_leads_to_a_heading(claim):
    assert claim.heading.replace(" ", "-") in ANCHORS[claim.file]
    assert claim.link == f"{claim.file}#{claim.heading}".replace(" ", "-")


@EACH
def test_the_control_falls_on_its_side(claim):
    assert claim.holds(claim.control_number[1]) == claim.control_holds
    assert claim.control_holds or claim.verdict != FALSE  # where nothing holds, the control must
    assert not claim.control_holds or claim.verdict != TRUE
    assert claim.control_number[0] not in claim.numbers  # it is no case of its own


@EACH
def test_another_setting_flips_the_verdict(claim):
    """The control as one more setting: what was true or false depends then. And alone it decides."""
    name, number = claim.control_number
    more = dataclasses.replace(claim, cases=lambda: claim.numbers | {name: number})
    alone = dataclasses.replace(claim, cases=lambda: {name: number})
    assert more.verdict == DEPENDS
    assert alone.verdict == (TRUE if claim.control_holds else FALSE) != claim.verdict


@EACH
def test_the_words_are_short_and_judge_no_one(claim):
    for text in (claim.sentence, claim.corrected):
        assert all(len(sentence.split()) <= 28 for sentence in re.split(r"[.:;] ", text)), text
    assert not re.search(r"\b(?:author|they claim|wrongly)\b", claim.corrected)


def test_a_verdict_says_its_settings():
    """Where all settings are ours, "false" alone would say too much."""
    claim = next(claim for claim in CLAIMS if claim.letter == "h")
    assert claim.told.startswith("It held in 0 of 4 settings, all ours: 100 steps of one model.")
    assert "FALSE. It held in 0 of 4 settings, all ours" in page.answer(claim)
    assert "<b>FALSE.</b> It held in 0 of 4 settings, all ours" in page.answer_html(claim)
    assert page.answer(claim).count("(no)") == 3 and page.answer(claim).count("(cannot tell)") == 1
    assert page.answer_html(claim).count(">fails<") == 3 and page.answer_html(claim).count(">cannot tell<") == 1


@pytest.mark.parametrize(("holding", "expected"), [(0, FALSE), (1, DEPENDS), (2, DEPENDS), (3, TRUE)])
def test_a_verdict_is_what_all_settings_agree_on(holding, expected):
    assert verdict({str(i): float(i) for i in range(3)}, lambda n: n < holding) == expected


@pytest.mark.parametrize(
    ("others", "expected"), [([True], DEPENDS), ([False], FALSE), ([None], DEPENDS), ([True, False], DEPENDS)]
)
def test_beside_a_setting_that_cannot_be_told_a_sentence_can_be_false_and_not_true(others, expected):
    answers = dict(enumerate([None, *others]))
    assert verdict(answers, lambda answer: answer) == expected


def test_the_table_has_every_answer():
    """A reader without a kernel saw two of the fifteen."""
    rows = page.answers_table()
    assert [row[1] for row in rows] == [claim.verdict for claim in CLAIMS]
    assert all(f"{i}. {claim.short}" == row[0] for i, (claim, row) in enumerate(zip(CLAIMS, rows, strict=True), 1))
    assert rows[12][2].count(" to ") == 4 and rows[12][3].startswith("NF2: ") and rows[12][4] == "09"
    assert "page.answers_table()" in code_cell("13_claims", "answers_table").source


@pytest.mark.parametrize(
    ("function", "settings", "letter", "expected"),
    [
        (measured.kept_in_codes, {"sizes": (0.5, 1.0)}, "r", TRUE),
        (measured.unequal_gaps, {"names": ("int4", "int8")}, "e", TRUE),
        (measured.operations_of_lora, {"rank": 512}, "c", FALSE),
        (measured.kept_in_codes, {"sizes": (0.03,), "again": False}, "r", TRUE),
    ],
)
def test_other_arguments_of_a_measurement_give_another_verdict(function, settings, letter, expected):
    claim = next(claim for claim in CLAIMS if claim.letter == letter)
    assert verdict(function(**settings), claim.holds) == expected != claim.verdict


def test_other_stored_results_give_another_verdict(monkeypatch):
    runs = copy.deepcopy(trained.quality())
    for run in runs.where(method="qlora"):
        run.loss += 0.1
        run.addresses += 0.1
    monkeypatch.setattr(trained, "quality", lambda: runs)
    claim = next(claim for claim in CLAIMS if claim.letter == "m")
    assert verdict(trained.qlora_against_lora(), claim.holds) == FALSE != claim.verdict


# --- marks and score -------------------------------------------------------------------------------------------------


def test_marks_in_plain_text():
    marks, sure = page.read_marks("1 true, 2 false!, 15: d")
    assert (marks[0], marks[1], marks[14]) == (TRUE, FALSE, DEPENDS) and marks.count(None) == 12
    assert sure == [number == 1 for number in range(15)]


@pytest.mark.parametrize("text", ["", "16 true", "3 maybe", "0 false", "true"])
def test_marks_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="true"):
        page.read_marks(text)


def test_the_score_counts_the_sure_ones_apart():
    right = [claim.verdict for claim in CLAIMS]
    wrong = [next(word for word in VERDICTS if word != claim.verdict) for claim in CLAIMS]
    nobody, some = [False] * 15, [True] * 5 + [False] * 10
    assert page.readout([None] * 15, nobody) == "0 of 15 marked"
    assert "15 of 15 marked, 15 right" in page.readout(right, nobody)
    text = page.readout(wrong[:5] + right[5:], some)
    assert "10 right; sure: 0 of 5; not sure: 10 of 10" in text and "always marks" in text


def test_the_plain_text_way_opens_what_is_marked(capsys):
    page.score("2 f!")
    out = capsys.readouterr().out
    assert (
        "2. right: you say false" in out and "Control: A and B drawn: 100%" in out and "1 of 15 marked, 1 right" in out
    )


def test_the_page_without_a_kernel_folds_every_answer():
    html = page.article_html()
    assert html.count("<details>") == 15 == html.count("</details>")
    before = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert not re.search(r"TRUE|FALSE|DEPENDS", before)  # nothing is told before it is opened
    for claim in CLAIMS:
        assert claim.link.replace("&", "&amp;").replace("'", "&#x27;") in html


@pytest.fixture
def controls(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(page, "show_widget", shown.append)
    return page.article() | {"page": shown[0]}


def test_a_mark_opens_its_sentence_and_no_other(controls):
    panel, *rest = controls["page"].children
    opened = [child for child in rest if getattr(child, "value", None) == ""]
    assert len(opened) == 15 and "0 of 15 marked" in panel.value
    controls["marks"][2].value = DEPENDS
    assert [bool(child.value) for child in opened] == [row == 2 for row in range(15)]
    assert (
        "DEPENDS" in opened[2].value
        and "1 of 15 marked, 1 right" in panel.value
        and 'aria-live="polite"' in panel.value
    )
    controls["sure"][2].value = True
    assert "sure: 1 of 1" in panel.value


def test_the_sheet_shows_marks_verdicts_and_settings():
    view = page.sheet()
    marks, sure = [None] * 15, [False] * 15
    marks[2] = TRUE
    now = view.values(marks=marks, sure=sure)
    assert now["verdicts"] == {2: DEPENDS} and now["cases"] == {2: [False, True, True]}
    assert view.render(marks=marks, sure=sure)[0] != view.render(marks=[None] * 15, sure=sure)[0]
