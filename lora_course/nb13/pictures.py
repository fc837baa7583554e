"""The article of notebook 13: ten sentences to mark, and what opens behind each.

    controls = article()    # the page, with buttons to mark with; folded where there is no kernel
    always()                # how many sentences each word gets right, if it is marked ten times
    verdicts_picture()      # the sentences once more, ordered by their verdict, with a sign for each setting

What is behind a sentence (verdict, numbers, control, source) is computed by `pictures_claims` when the page is drawn.
"""

from collections.abc import Sequence
from html import escape

import ipywidgets

from lora_course.drawing import plots
from lora_course.drawing.looks import BLUE, GRAY, GREEN, ORANGE
from lora_course.drawing.sliders import show_widget
from lora_course.drawing.style import Drawn, panels, picture
from lora_course.nb13.pictures_claims import CLAIMS, DEPENDS, FALSE, SAID, TRUE, VERDICTS, Claim

TITLE = "Fine-tuning without the bill"
HEADINGS = {1: "<h4>The idea</h4>", 8: "<h4>In four bits</h4>"}  # by the sentence that they stand above
SIGNS = {True: "\u25cf", False: "\u00d7", None: "?"}  # of one setting
LOOKS = {TRUE: GREEN, FALSE: ORANGE, DEPENDS: BLUE}
# Where the buttons are, the folded sentences below them are not needed.
HIDE_STATIC = "<style>.jp-OutputArea:has(.lora-edu-article) .lora-edu-static {display: none}</style>"


# --- the score -------------------------------------------------------------------------------------------------------


def always() -> dict[str, int]:
    """How many marks are right if one word is marked every time."""
    return {word: sum(claim.verdict == word for claim in CLAIMS) for word in VERDICTS}


def readout(marks: Sequence[str | None]) -> str:
    """The score in words: how many marks were right, and what one word alone would get."""
    hits = [mark == claim.verdict for mark, claim in zip(marks, CLAIMS, strict=True) if mark]
    if not hits:
        return f"0 of {len(CLAIMS)} marked"
    text = f"{len(hits)} of {len(CLAIMS)} marked, {sum(hits)} right"
    if len(hits) == len(CLAIMS):
        right = always()
        best = max(right, key=lambda word: right[word])
        text += f". If you mark '{best}' every time, {right[best]} are right"
    return text


# --- what opens ------------------------------------------------------------------------------------------------------


def answer_html(claim: Claim) -> str:
    """What is behind a sentence: a row a setting, then the control. Held or not is told by words, not by color."""
    named = claim.numbers | {f"control: {name}": number for name, number in claim.control_number.items()}
    body = "".join(
        f"<tr>{plots.row_head(name)}<td>{claim.shown(number)}</td>"
        f'<td style="text-align: left">{SAID[claim.holds(number)]}</td></tr>'
        for name, number in named.items()
    )
    link, (file, _, heading) = escape(claim.link.replace(" ", "-")), claim.link.partition("#")
    place = f"{file[:2] if file[0].isdigit() else 'questions'}, {heading}"  # such as "08, 4. The step, level by level"
    return (
        f"<p><b>{claim.verdict.upper()}.</b> {escape(f'{claim.told} {claim.corrected}')}</p>"
        f'<table><caption style="text-align: left">{escape(claim.asked)}</caption><tbody>{body}</tbody></table>'
        f'<p>Source: {escape(claim.source)}. Measured in <a href="{link}">{escape(place)}</a>.</p>'
    )


# --- the article -----------------------------------------------------------------------------------------------------


def article_html() -> str:
    """The whole page with folded answers."""
    sentences = "".join(
        f"{sentence_html(number, claim)}"
        f"<details><summary>Marked it? Open {number}</summary>{answer_html(claim)}</details>"
        for number, claim in enumerate(CLAIMS, 1)
    )
    return f'<div class="lora-edu-static"><h3>{TITLE}</h3>{sentences}</div>'


def sentence_html(number: int, claim: Claim) -> str:
    return f"{HEADINGS.get(number, '')}<p><b>{number}.</b> {escape(claim.sentence)}</p>"


def article() -> list[ipywidgets.Widget]:
    """Show the article. With a kernel each sentence has buttons, and opens when it is marked. Returns the buttons."""
    score, page, buttons, answers = ipywidgets.HTML(), [], [], []
    for number, claim in enumerate(CLAIMS, 1):
        choice = ipywidgets.ToggleButtons(options=list(VERDICTS), value=None, description=f"sentence {number}")
        choice.style.button_width, choice.style.description_width = "6em", "initial"
        buttons.append(choice)
        answers.append(ipywidgets.HTML())
        page += [ipywidgets.HTML(sentence_html(number, claim)), choice, answers[-1]]

    def redraw(_change=None) -> None:
        marks = [button.value for button in buttons]
        score.value = f'{HIDE_STATIC}<div class="lora-edu-article" role="status">{readout(marks)}</div>'
        for claim, mark, opened in zip(CLAIMS, marks, answers, strict=True):
            if mark and not opened.value:
                opened.value = answer_html(claim)

    for button in buttons:
        button.observe(redraw, names="value")
    redraw()
    show_widget(ipywidgets.VBox([*page, score]))
    sentences = "\n".join(f"{number}. {claim.sentence}" for number, claim in enumerate(CLAIMS, 1))
    plots.publish({"text/html": article_html(), "text/plain": sentences})
    return buttons


# --- all verdicts ----------------------------------------------------------------------------------------------------


def signs_of(claim: Claim) -> str:
    return " ".join(SIGNS[held] for held in claim.answers)


@picture
def verdicts_picture() -> Drawn:
    """The sentences below their verdicts, with a sign for each setting."""
    figure, (axes,) = panels(1, 9.6, 4.6)
    axes.axis("off")
    line, told = 0.0, []
    for word in VERDICTS:
        chosen = [(number, claim) for number, claim in enumerate(CLAIMS, 1) if claim.verdict == word]
        axes.text(0, line, f"{word}: {len(chosen)}", weight="bold", fontsize=12, color=LOOKS[word])
        for number, claim in chosen:
            line += 1
            axes.text(0.3, line, f"{number}", ha="right", color=GRAY, fontsize=10)
            axes.text(0.4, line, signs_of(claim), family="monospace", weight="bold", fontsize=11, color=LOOKS[word])
            axes.text(1.5, line, claim.sentence, fontsize=10)
        told.append(f"{word}: {', '.join(f'{number} {signs_of(claim)}' for number, claim in chosen)}")
        line += 1.5
    axes.set(xlim=(0, 10), ylim=(line - 0.9, -0.8))
    counts = always()
    legend = ", ".join(f"{sign} {SAID[held]}" for held, sign in SIGNS.items())
    found = f"Of ten sentences {counts[TRUE]} is true, {counts[FALSE]} are false, and {counts[DEPENDS]} depend"
    return figure, f"{found}. A sign for each setting: {legend}. {'; '.join(told)}."
