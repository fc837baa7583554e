"""The annotated article of notebook 13: fifteen sentences to mark, and what opens behind each.

    controls = article()          # the page; with a kernel it has buttons
    score("1 true, 2 false!")     # the same in plain text: an exclamation mark says "I am sure"

What is behind a sentence (verdict, numbers, control, source) is computed by `nb13_claims` when the page is drawn.
"""

import base64
import re
from collections.abc import Sequence
from html import escape

import ipywidgets
import matplotlib.pyplot as plt

from lora_edu.figures import plots
from lora_edu.figures.drawing import slider
from lora_edu.figures.looks import BLUE, GRAY, GREEN, ORANGE
from lora_edu.figures.nb13_claims import CLAIMS, DEPENDS, FALSE, SAID, TRUE, VERDICTS, Claim
from lora_edu.figures.plots import publish, show_words
from lora_edu.figures.sliders import show_widget

TITLE = "Fine-tuning without the bill"
PARAGRAPHS = (("The idea", 8), ("In four bits", 7))  # heading, number of sentences
ALT = (
    "A sheet with fifteen lines, one a sentence, and columns for true, false and depends. A ring shows your mark; once "
    "you have marked, a filled square shows the verdict, and at the right small marks show in which settings the "
    "sentence holds."
)
COLUMNS = {TRUE: 5.4, FALSE: 6.6, DEPENDS: 7.8}


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
        best = max(always, key=always.get)
        text += f". Who always marks '{best}' gets {always[best]}"
    return text


def read_marks(text: str) -> tuple[list[str | None], list[bool]]:
    """ "1 true, 2 false!, 3 d" -> marks and whether they are sure, one for each sentence."""
    marks: list[str | None] = [None] * len(CLAIMS)
    sure = [False] * len(CLAIMS)
    entries = re.findall(r"(\d+)\s*:?\s*([A-Za-z]+)\s*(!?)", text)
    if not entries:
        raise ValueError('write marks like "1 true, 2 false!, 3 depends" (an exclamation mark: I am sure)')
    for number, word, mark in entries:
        known = [verdict for verdict in VERDICTS if verdict.startswith(word.lower())]
        if not (1 <= int(number) <= len(CLAIMS)) or len(known) != 1:
            raise ValueError(f"{number} {word}: sentences are 1 to {len(CLAIMS)}, marks true, false or depends")
        marks[int(number) - 1], sure[int(number) - 1] = known[0], bool(mark)
    return marks, sure


def score(text: str | None) -> None:
    """Open the sentences that are marked in a text, and print the score. None prints what could be written."""
    if text is None:
        return print('nothing marked: write for example my_marks = "1 true, 2 false!"')
    marks, sure = read_marks(text)
    for number, (mark, claim) in enumerate(zip(marks, CLAIMS, strict=True), 1):
        if mark:
            heads = f"{number}. {'right' if mark == claim.verdict else 'not as measured'}: you say {mark}"
            publish(
                {"text/html": f"<p><b>{heads}</b></p>{answer_html(claim)}", "text/plain": f"{heads}\n{answer(claim)}"}
            )
    print(readout(marks, sure))


# --- what opens ------------------------------------------------------------------------------------------------------


def answer(claim: Claim) -> str:
    """What is behind a sentence, as text."""
    name, number = claim.control_number
    marks = {True: "", False: " (no)", None: " (cannot tell)"}
    cases = "; ".join(f"{setting}: {claim.shown(n)}{marks[claim.holds(n)]}" for setting, n in claim.numbers.items())
    return (
        f"{claim.verdict.upper()}. {claim.told} Asked: {claim.asks}.\nMeasured: {cases}\n"
        f"Control: {name}: {claim.shown(number)}{marks[claim.control_holds]}\n"
        f"Better: {claim.corrected}\nSource: {claim.source}. Measured in {claim.link}"
    )


def answer_html(claim: Claim) -> str:
    """The same for a page. Held or not is told by words, not by color alone."""
    name, number = claim.control_number
    rows = [(setting, n) for setting, n in claim.numbers.items()] + [(f"control: {name}", number)]
    body = "".join(
        f"<tr>{plots.row_head(setting)}<td>{claim.shown(n)}</td>"
        f'<td style="text-align: left">{SAID[claim.holds(n)]}</td></tr>'
        for setting, n in rows
    )
    place = f"{claim.file[:2]}, {claim.heading}"
    return (
        f"<p><b>{claim.verdict.upper()}.</b> {escape(f'{claim.told} {claim.corrected}')}</p>"
        f'<table><caption style="text-align: left">{escape(claim.asks)}</caption><tbody>{body}</tbody></table>'
        f'<p>Source: {escape(claim.source)}. Measured in <a href="{escape(claim.link)}">{escape(place)}</a>.</p>'
    )


def answers_table() -> list[list]:
    """One row a sentence: verdict, the numbers of its settings, that of its control, and the notebook."""
    rows = []
    for number, claim in enumerate(CLAIMS, 1):
        name, control = claim.control_number
        numbers = "; ".join(map(claim.shown, claim.numbers.values()))
        what = [claim.verdict, numbers, f"{name}: {claim.shown(control)}", claim.file[:2]]
        rows.append([f"{number}. {claim.short}", *what])
    return rows


def article_html() -> str:
    """The whole page with folded answers: for readers without a kernel."""
    parts, number = [f"<h3>{TITLE}</h3>"], 0
    for heading, count in PARAGRAPHS:
        parts.append(f"<h4>{heading}</h4>")
        for claim in CLAIMS[number : number + count]:
            number += 1
            parts.append(
                f"<p><b>{number}.</b> {escape(claim.sentence)}</p>"
                f"<details><summary>Marked it? Open {number}</summary>{answer_html(claim)}</details>"
            )
    return f'<div class="lora-edu-static">{"".join(parts)}</div>'


def article_text() -> str:
    return "\n".join(f"{number}. {claim.sentence}" for number, claim in enumerate(CLAIMS, 1))


# --- the sheet -------------------------------------------------------------------------------------------------------


@slider
def sheet():
    """The score sheet. Its one setting: for each sentence a mark, or None, and whether the reader is sure."""
    figure = plt.figure(figsize=(9.6, 4.7))
    axes = figure.add_axes([0, 0, 1, 1])
    axes.set(xlim=(0, 12.4), ylim=(len(CLAIMS) - 0.4, -1.7))
    axes.axis("off")
    axes.text(0.2, -1.1, TITLE, fontsize=13, weight="bold", va="center")
    for name, x in COLUMNS.items():
        axes.text(x, -1.05, name, ha="center", va="center", fontsize=10.5)
    axes.text(8.75, -1.05, "\u25cf holds, \u00d7 fails, ? cannot tell", va="center", fontsize=10.5)
    for row, claim in enumerate(CLAIMS):
        axes.axhline(row - 0.5, color="#DDDDDD", lw=0.6)
        axes.text(0.55, row, f"{row + 1}", ha="right", va="center", fontsize=10.5, color=GRAY)
        axes.text(0.75, row, claim.short, va="center", fontsize=10.5)
        axes.plot(list(COLUMNS.values()), [row] * 3, ".", ms=4, color="#AAAAAA")  # no rings: nobody can press them
    empty, row_text = ([], []), {"va": "center", "ha": "right", "fontsize": 10.5, "animated": True}
    (right,) = axes.plot(*empty, "s", ms=8, color=GREEN, animated=True)
    (wrong,) = axes.plot(*empty, "s", ms=8, color=ORANGE, animated=True)
    (ring,) = axes.plot(*empty, "o", ms=14, mfc="none", mec="black", mew=1.8, animated=True)
    (certain,) = axes.plot(*empty, "o", ms=18, mfc="none", mec="black", mew=0.8, animated=True)
    (holds,) = axes.plot(*empty, "o", ms=6, color=BLUE, animated=True)
    (fails,) = axes.plot(*empty, "x", ms=6, color=GRAY, mew=1.6, animated=True)
    (open_,) = axes.plot(*empty, marker="$?$", ls="", ms=7, color=GRAY, animated=True)
    marks = [axes.text(12.2, row, "", **row_text) for row in range(len(CLAIMS))]

    def values(marks: Sequence[str | None], sure: Sequence[bool]) -> dict:
        opened = [row for row, mark in enumerate(marks) if mark]
        cases = {row: [CLAIMS[row].holds(n) for n in CLAIMS[row].numbers.values()] for row in opened}
        return {
            "marks": {row: marks[row] for row in opened},
            "sure": [row for row in opened if sure[row]],
            "verdicts": {row: CLAIMS[row].verdict for row in opened},
            "cases": cases,
            "readout": readout(marks, sure),
        }

    def draw(now: dict) -> None:
        def place(line, rows, where) -> None:
            line.set_data([COLUMNS[where[row]] for row in rows], rows)

        hits = [row for row, mark in now["marks"].items() if mark == now["verdicts"][row]]
        place(right, hits, now["verdicts"])
        place(wrong, [row for row in now["marks"] if row not in hits], now["verdicts"])
        place(ring, list(now["marks"]), now["marks"])
        place(certain, now["sure"], now["marks"])
        spots = [(8.85 + 0.31 * i, row, kept) for row, kinds in now["cases"].items() for i, kept in enumerate(kinds)]
        for line, wanted in ((holds, True), (fails, False), (open_, None)):
            line.set_data([x for x, _, kept in spots if kept == wanted], [y for _, y, kept in spots if kept == wanted])
        for row, text in enumerate(marks):
            text.set_text("" if row not in now["marks"] else "right" if row in hits else "look again")

    return figure, values, draw, {"marks": [None] * len(CLAIMS), "sure": [False] * len(CLAIMS)}


def article() -> dict[str, list[ipywidgets.Widget]]:
    """Show the article: the sheet, then the sentences. With a kernel each has buttons, and opens when it is marked."""
    view, empty = sheet(), ([None] * len(CLAIMS), [False] * len(CLAIMS))
    picture, line = view.render(marks=empty[0], sure=empty[1])
    source = base64.b64encode(picture).decode("ascii")
    words = f"{ALT} {line}"
    publish({"image/png": source, "text/plain": "(a figure: its words follow)"}, {"image/png": {"alt": words}})
    panel = ipywidgets.HTML()
    buttons, boxes, answers, page = [], [], [], [panel]
    number = 0
    for heading, count in PARAGRAPHS:
        page.append(ipywidgets.HTML(f"<h4>{heading}</h4>"))
        for claim in CLAIMS[number : number + count]:
            number += 1
            choice = ipywidgets.ToggleButtons(options=list(VERDICTS), value=None, description=f"sentence {number}")
            box = ipywidgets.Checkbox(description="I am sure", indent=False, layout=ipywidgets.Layout(width="auto"))
            choice.style.button_width, choice.style.description_width = "6em", "initial"
            opened = ipywidgets.HTML()
            row = ipywidgets.HBox([choice, box], layout=ipywidgets.Layout(flex_flow="row wrap"))
            page += [ipywidgets.HTML(f"<p><b>{number}.</b> {escape(claim.sentence)}</p>"), row, opened]
            buttons, boxes, answers = [*buttons, choice], [*boxes, box], [*answers, opened]

    def redraw(_change=None) -> None:
        marks, sure = [b.value for b in buttons], [b.value for b in boxes]
        picture, line = view.render(marks=marks, sure=sure)
        panel.value = panel_html(picture, line)
        for claim, mark, opened in zip(CLAIMS, marks, answers, strict=True):
            text = answer_html(claim) if mark else ""
            if opened.value != text:
                opened.value = text

    for control in (*buttons, *boxes):
        control.observe(redraw, names="value")
    redraw()
    show_widget(ipywidgets.VBox(page))
    show_words(words)
    publish({"text/html": article_html(), "text/plain": article_text()})
    return {"marks": buttons, "sure": boxes}


HIDE_STATIC = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .lora-edu-article) {display: none}"
    ".jp-OutputArea:has(.lora-edu-article) .lora-edu-static {display: none}</style>"
)


def panel_html(picture: bytes, line: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
    return (
        f'{HIDE_STATIC}<div class="lora-edu-view lora-edu-article">'
        f'<img src="{source}" alt="{escape(ALT)}" style="max-width: 100%">'
        f'<div role="status" aria-live="polite">{escape(line)}</div></div>'
    )
