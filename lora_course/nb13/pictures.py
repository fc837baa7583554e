"""The article of notebook 13: ten sentences to mark, and what opens behind each.

    controls = article()      # the page; with a kernel it has buttons
    verdicts()                # its sentences once more, a row each: the verdict, a sign for each setting

What is behind a sentence (verdict, numbers, control, source) is computed by `pictures_claims` when the page is drawn.
"""

from collections.abc import Iterator, Sequence
from html import escape

import ipywidgets

from lora_course.drawing import plots
from lora_course.drawing.sliders import show_widget
from lora_course.nb13.pictures_claims import CLAIMS, SAID, VERDICTS, Claim

TITLE = "Fine-tuning without the bill"
HEADINGS = {1: "The idea", 8: "In four bits"}  # by the sentence that they stand above
SIGNS = {True: "\u25cf", False: "\u00d7", None: "?"}  # of one setting
# Where the buttons are, the folded sentences below them are not needed.
HIDE_STATIC = "<style>.jp-OutputArea:has(.lora-edu-article) .lora-edu-static {display: none}</style>"


def numbered() -> Iterator[tuple[int, Claim]]:
    return enumerate(CLAIMS, 1)


# --- the score -------------------------------------------------------------------------------------------------------


def readout(marks: Sequence[str | None]) -> str:
    """The score in words: how many marks were right, beside what one word gets."""
    marked = [mark == claim.verdict for mark, claim in zip(marks, CLAIMS, strict=True) if mark]
    if not marked:
        return f"0 of {len(CLAIMS)} marked"
    text = f"{len(marked)} of {len(CLAIMS)} marked, {sum(marked)} right"
    if len(marked) == len(CLAIMS):
        always = {word: sum(claim.verdict == word for claim in CLAIMS) for word in VERDICTS}
        best = max(always, key=lambda word: always[word])
        text += f". Who always marks '{best}' gets {always[best]}"
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


def heading(number: int) -> str:
    return f"<h4>{HEADINGS[number]}</h4>" if number in HEADINGS else ""


def article_html() -> str:
    """The whole page with folded answers: for readers without a kernel."""
    sentences = "".join(
        f"{heading(number)}<p><b>{number}.</b> {escape(claim.sentence)}</p>"
        f"<details><summary>Marked it? Open {number}</summary>{answer_html(claim)}</details>"
        for number, claim in numbered()
    )
    return f'<div class="lora-edu-static"><h3>{TITLE}</h3>{sentences}</div>'


# --- the article -----------------------------------------------------------------------------------------------------


def verdicts() -> list[list[str]]:
    """The article with the verdict of each sentence, and a sign for each of its settings."""
    return [
        [f"{number}. {claim.sentence}", claim.verdict, " ".join(SIGNS[held] for held in claim.answers)]
        for number, claim in numbered()
    ]


def article() -> dict[str, list[ipywidgets.Widget]]:
    """Show the article. With a kernel each sentence has buttons, and opens when it is marked."""
    said, page = ipywidgets.HTML(), []
    buttons, answers = [], []
    for number, claim in numbered():
        choice = ipywidgets.ToggleButtons(options=list(VERDICTS), value=None, description=f"sentence {number}")
        choice.style.button_width, choice.style.description_width = "6em", "initial"
        text = ipywidgets.HTML(f"{heading(number)}<p><b>{number}.</b> {escape(claim.sentence)}</p>")
        buttons.append(choice)
        answers.append(ipywidgets.HTML())
        page += [text, choice, answers[-1]]

    def redraw(_change=None) -> None:
        marks = [button.value for button in buttons]
        said.value = f'{HIDE_STATIC}<div class="lora-edu-article" role="status">{readout(marks)}</div>'
        for claim, mark, opened in zip(CLAIMS, marks, answers, strict=True):
            if mark and not opened.value:
                opened.value = answer_html(claim)

    for control in buttons:
        control.observe(redraw, names="value")
    redraw()
    show_widget(ipywidgets.VBox([*page, said]))
    sentences = "\n".join(f"{number}. {claim.sentence}" for number, claim in numbered())
    plots.publish({"text/html": article_html(), "text/plain": sentences})
    return {"marks": buttons}
