"""The article of notebook 13: fifteen sentences to mark, and what opens behind each.

    controls = article()      # the page; with a kernel it has buttons
    clipping()                # the article once more, as a picture, with every verdict beside its sentence

What is behind a sentence (verdict, numbers, control, source) is computed by `nb13_claims` when the page is drawn.
"""

from collections.abc import Iterator, Sequence
from html import escape
from textwrap import fill

import ipywidgets

from lora_course.drawing import plots
from lora_course.drawing.looks import BLUE, GRAY, GREEN, ORANGE
from lora_course.drawing.sliders import show_widget
from lora_course.drawing.style import Drawn, panels, styled
from lora_course.nb13.pictures_claims import CLAIMS, DEPENDS, FALSE, SAID, TRUE, VERDICTS, Claim

TITLE = "Fine-tuning without the bill"
HEADINGS = {1: "The idea", 9: "In four bits"}  # by the sentence that they stand above
LOOKS = {TRUE: GREEN, FALSE: ORANGE, DEPENDS: BLUE}
SIGNS = {True: "\u25cf", False: "\u00d7", None: "?"}  # of one setting
# Where the buttons are, the folded sentences below them are not needed.
HIDE_STATIC = "<style>.jp-OutputArea:has(.lora-edu-article) .lora-edu-static {display: none}</style>"


def numbered() -> Iterator[tuple[int, Claim]]:
    return enumerate(CLAIMS, 1)


# --- the score -------------------------------------------------------------------------------------------------------


def readout(marks: Sequence[str | None], sure: Sequence[bool]) -> str:
    """The score in words: how many marks were right, of the sure ones and of the others; beside what one word gets."""
    marked = [(mark, claim, s) for mark, claim, s in zip(marks, CLAIMS, sure, strict=True) if mark]
    if not marked:
        return f"0 of {len(CLAIMS)} marked"
    right = [mark == claim.verdict for mark, claim, _ in marked]
    text = f"{len(marked)} of {len(CLAIMS)} marked, {sum(right)} right"
    for name, group in (("sure", True), ("not sure", False)):
        hits = [hit for hit, (_, _, s) in zip(right, marked, strict=True) if s == group]
        if hits and any(sure):
            text += f"; {name}: {sum(hits)} of {len(hits)}"
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


@styled
def clipping() -> Drawn:
    """The article with the verdict of each sentence, and a sign for each of its settings."""
    figure, (axes,) = panels(1, 9.6, 6.4)
    axes.axis("off")
    line = 0.6
    axes.text(0, 0, TITLE, family="serif", fontsize=16, weight="bold")
    axes.text(8.6, 0, "what was measured", fontsize=10, color=GRAY)
    for number, claim in numbered():
        if number in HEADINGS:
            axes.text(0, line + 0.3, HEADINGS[number], family="serif", fontsize=11.5, weight="bold", va="top")
            line += 1.5
        text = fill(claim.sentence, 88)
        axes.text(0.25, line, str(number), ha="right", va="top", fontsize=10.5, color=GRAY)
        axes.text(0.4, line, text, family="serif", va="top", fontsize=10.5, linespacing=1.25)
        look: dict = {"va": "top", "fontsize": 10.5, "color": LOOKS.get(claim.verdict, GRAY)}
        axes.text(8.6, line, claim.verdict, weight="bold", **look)
        axes.text(9.7, line, " ".join(SIGNS[held] for held in claim.answers), **look)
        line += 1.2 + 0.95 * text.count("\n")
    axes.set(xlim=(0, 11), ylim=(line, -0.8))
    signs = ", ".join(f"{sign} {SAID[held]}" for held, sign in SIGNS.items())
    axes.text(8.6, line, signs, fontsize=9, color=GRAY, va="top")
    words = "; ".join(f"{word}: {', '.join(str(n) for n, c in numbered() if c.verdict == word)}" for word in LOOKS)
    return figure, f"The article with what was measured. {words}. Beside each a sign for each setting: {signs}."


def article() -> dict[str, list[ipywidgets.Widget]]:
    """Show the article. With a kernel each sentence has buttons, and opens when it is marked."""
    said, page = ipywidgets.HTML(), []
    buttons, boxes, answers = [], [], []
    for number, claim in numbered():
        choice = ipywidgets.ToggleButtons(options=list(VERDICTS), value=None, description=f"sentence {number}")
        box = ipywidgets.Checkbox(description="I am sure", indent=False, layout=ipywidgets.Layout(width="auto"))
        choice.style.button_width, choice.style.description_width = "6em", "initial"
        row = ipywidgets.HBox([choice, box], layout=ipywidgets.Layout(flex_flow="row wrap"))
        text = ipywidgets.HTML(f"{heading(number)}<p><b>{number}.</b> {escape(claim.sentence)}</p>")
        buttons.append(choice)
        boxes.append(box)
        answers.append(ipywidgets.HTML())
        page += [text, row, answers[-1]]

    def redraw(_change=None) -> None:
        marks, sure = [b.value for b in buttons], [b.value for b in boxes]
        said.value = f'{HIDE_STATIC}<div class="lora-edu-article" role="status">{readout(marks, sure)}</div>'
        for claim, mark, opened in zip(CLAIMS, marks, answers, strict=True):
            if mark and not opened.value:
                opened.value = answer_html(claim)

    for control in (*buttons, *boxes):
        control.observe(redraw, names="value")
    redraw()
    show_widget(ipywidgets.VBox([*page, said]))
    sentences = "\n".join(f"{number}. {claim.sentence}" for number, claim in numbered())
    plots.publish({"text/html": article_html(), "text/plain": sentences})
    return {"marks": buttons, "sure": boxes}
