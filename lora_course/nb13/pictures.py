"""The article of notebook 13: ten sentences to mark, and what opens behind each.

    article()       # the page, each answer folded; the course's site has buttons to mark with
    verdicts()      # its sentences once more, a row each: the verdict, a sign for each setting

What is behind a sentence (verdict, numbers, control, source) is computed by `pictures_claims` when the page is drawn.
"""

from html import escape

from lora_course.drawing import plots
from lora_course.nb13.pictures_claims import CLAIMS, SAID, Claim

TITLE = "Fine-tuning without the bill"
HEADINGS = {1: "<h4>The idea</h4>", 8: "<h4>In four bits</h4>"}  # by the sentence that they stand above
SIGNS = {True: "\u25cf", False: "\u00d7", None: "?"}  # of one setting


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
        f"{HEADINGS.get(number, '')}<p><b>{number}.</b> {escape(claim.sentence)}</p>"
        f"<details><summary>Marked it? Open {number}</summary>{answer_html(claim)}</details>"
        for number, claim in enumerate(CLAIMS, 1)
    )
    return f'<div class="lora-edu-static"><h3>{TITLE}</h3>{sentences}</div>'


def verdicts() -> list[list[str]]:
    """The article with the verdict of each sentence, and a sign for each of its settings."""
    return [
        [f"{number}. {claim.sentence}", claim.verdict, " ".join(SIGNS[held] for held in claim.answers)]
        for number, claim in enumerate(CLAIMS, 1)
    ]


def article() -> None:
    """Show the article: mark a sentence, then open what is folded below it."""
    sentences = "\n".join(f"{number}. {claim.sentence}" for number, claim in enumerate(CLAIMS, 1))
    plots.publish({"text/html": article_html(), "text/plain": sentences})
