"""The dial as HTML: the course's own for pages of the book, and a page of one file that holds a voice.

hero(still, ...) -> str               the place of the dial and its script, for a page with `FILES` beside it
voice_page(model, ...) -> str         a page of one file, to send to somebody: base, adapter and dial
"""

import json
from html import escape
from pathlib import Path

from lora_course.alive.exporting import exported, script
from lora_edu.gpt import GPT
from lora_edu.texts import PLAY_LINE

HERE = Path(__file__).parent
ENGINES = ("gpt.js", "writing.js", "dial.js")
FILES = (*ENGINES, "front.js", "adapter.js", "train.js", "yours.js")
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'"


def hero(still: str, model: str) -> str:
    """The dial. still: HTML before it; model: the address of a script that holds one."""
    settings = {"line": PLAY_LINE, "model": model}  # dial.js says what it needs to know
    start = f"aliveDial(document.getElementById('alive'), {_in_script(json.dumps(settings, ensure_ascii=False))});"
    return (
        f'<div class="alive" id="alive">{still}</div>\n'
        f"<script>addEventListener('DOMContentLoaded', () => {{ {start} }});</script>"
    )


def voice_page(model: GPT, name: str, rights: str, line: str) -> str:
    """A page of one file with a model in NF4, its adapter and a dial. It asks for nothing, from nowhere.

    name, rights: what it was trained on, and why that was allowed; line: one held-out line.
    """
    settings = {"right": name, "rights": rights, "start": 1, "line": line}  # whoever opens it hears the voice at once
    scripts = [HERE.joinpath(file).read_text(encoding="utf-8") for file in ENGINES]
    scripts += [script("model", exported(model)), f"showVoice({json.dumps(settings, ensure_ascii=False)});"]
    inside = "".join(f"<script>{_in_script(text)}</script>\n" for text in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>The voice of {escape(name)}</title></head>\n<body>\n"
        f"<noscript>Where scripts are off, this voice stays silent.</noscript>\n{inside}</body></html>\n"
    )


def _in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")
