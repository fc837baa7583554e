"""What a student wrote or printed, made harmless before a teacher's or another student's browser shows it.

Outputs come from a process that the student's code controls: plain text and pictures are kept, nothing that a browser
would run. In Markdown, HTML and links are shown as the letters they consist of. `page` does it once more to a
whole page of feedback, which then loads nothing and runs nothing, whatever is in it.
"""

import os
import re
import sys
from pathlib import Path

import bleach
import nbformat

from classroom import folders

PICTURES = ("image/png", "image/jpeg")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
READABLE = """<style>
pre {white-space: pre-wrap !important; word-break: normal !important; overflow-wrap: anywhere}
td, th {padding-right: 1em}
</style>"""
TAGS = {
    *("a", "b", "blockquote", "br", "code", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "li"),
    *("ol", "p", "pre", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
ATTRIBUTES = {"*": ["class", "id", "name"], "a": ["href"], "img": ["src", "alt"]}


def outputs(found: list) -> list:
    """The outputs of a cell, without HTML, scripts, widgets, tracebacks through files, or names of folders.

    The error of a check whose sentence is shown already is left out.
    """
    kept = [clean for output in found if (clean := _output(output))]
    shown = [output.data.get("text/plain") for output in kept if output.output_type == "display_data"]
    return [output for output in kept if output.output_type != "error" or output.evalue not in shown]


def _output(output):
    kind = output.output_type
    if kind == "stream":
        return nbformat.v4.new_output("stream", name=output.name, text=text(output.text))
    if kind == "error":
        mine = [text(frame) for frame in output.traceback if _plain(frame).startswith("Cell In[")]
        name, value = text(output.ename), text(output.evalue)
        return nbformat.v4.new_output("error", ename=name, evalue=value, traceback=[*mine, f"{name}: {value}"])
    if kind in ("display_data", "execute_result"):
        data = {mime: value for mime, value in output.data.items() if mime in PICTURES and BASE64.fullmatch(str(value))}
        if isinstance(output.data.get("text/plain"), str):
            data["text/plain"] = text(output.data["text/plain"])
        return nbformat.v4.new_output("display_data", data=data) if data else None
    return None


def text(value: str) -> str:
    """Without colors, and without the folders of this machine."""
    value = _plain(value)
    for folder in _folders():
        value = value.replace(folder, "...")
    return re.sub(r"\S*/box-\w+|/lora-edu-box", "...", value)


def _plain(value: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(value))


def _folders() -> list[str]:
    places = [folders.CLONE, sys.prefix, sys.base_prefix, folders.required(), Path.home(), os.getcwd()]
    return sorted({str(place) for place in places if len(str(place)) > 1}, key=len, reverse=True)


def markdown(source: str) -> str:
    """Markdown of a student: tags, links and pictures as letters, and no command of MathJax that makes a link."""
    source = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", source)
    source = re.sub(r"\](?=[(:])", "]\\\\", source)
    return re.sub(r"\\(?=(href|require|style|class|cssId|unicode)\b)", r"\\\\", source)


def page(html: str, note: str = "") -> str:
    """A page of feedback that asks for nothing and runs nothing, with a note of ours on top."""
    head, _, body = html.partition("</head>")
    styles = "".join(re.findall(r"<style.*?</style>", head, re.S))
    title = bleach.clean("".join(re.findall(r"<title>(.*?)</title>", head, re.S)))
    start, end = body.find("<body"), body.rfind("</body>")
    inner = bleach.clean(
        re.sub(r"<(script|style)\b.*?</\1>", "", body[start:end], flags=re.S | re.I),
        tags=TAGS,
        attributes=_allowed,
        protocols={"data"},
        strip=True,
    )
    inner = re.sub(r'(<a href="#test_(\w+)">)Test cell', r"\1\2", inner)  # the name of the exercise says more
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8">{policy}<title>{title}</title>{styles}{READABLE}</head>\n'
        + (f"<body>{note and f'<p><b>{note}</b></p>'}{inner}</body></html>\n")
    )


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return value.startswith("#")
    if name == "src":
        return value.startswith(tuple(f"data:{mime};base64," for mime in PICTURES))
    return name in ATTRIBUTES["*"] or name in ATTRIBUTES.get(tag, [])
