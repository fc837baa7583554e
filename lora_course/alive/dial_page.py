"""The dial as HTML: the course's own for the front page of the book, and a page of one file that holds a voice.

hero(still, ...) -> str               the place of the dial and its scripts, for a page with `FILES` beside it
voice_page(model, ...) -> str         a page of one file, to send to somebody: base, adapter and dial
"""

import json
from html import escape
from pathlib import Path

from lora_course.alive.exporting import exported, script
from lora_edu.gpt import GPT, decode
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE, load_text

HERE = Path(__file__).parent
FILES = ("gpt.js", "dial.js", "dial.css")
BOOK_FILES = ("breaking.js", "writing.js", "front.js", "adapter.js", "train.js", "yours.js")  # in the book besides
PROMPT = "I have "  # a president goes on from here, and so does a playwright
HELD_OUT = slice(20_000, 21_001)  # of each text's validation part: four windows
TEXTS = {"plays": "shakespeare", "addresses": "speeches"}
LINKS = {"bits": ("06", "06_nf4.html"), "blocks": ("05", "05_blocks.html"), "rank": ("01", "01_low_rank.html")}
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; img-src data:"


def settings() -> dict:
    """What dial.js needs to know for the course's own adapter."""
    return {
        "left": "president",
        "right": "playwright",
        "dial": "strength of the adapter",
        "start": 0,
        "marks": ["0 president", "1 as trained", "2 it babbles"],
        "prompt": PROMPT,
        "lines": [
            {"words": "A line of yours", "text": PLAY_LINE, "editable": True, "kind": "play"},
            {"words": "A held-out address", "text": ADDRESS_LINE, "editable": False, "kind": "address"},
        ],
    }


def hero(still: str, model: str, source: str = "") -> str:
    """The dial and, given a source, the sliders that break the model. still: HTML before it; the others: addresses."""
    ours = settings() | {"model": model}
    if source:
        held = {name: decode(load_text(text).validation[HELD_OUT]) for name, text in TEXTS.items()}
        ours |= {"source": source, "held": held, "links": LINKS}
    return place(still, ours)


def place(still: str, settings: dict) -> str:
    """Where a dial stands: what shows until the model is there, and where no script runs."""
    start = f"aliveDial(document.getElementById('alive'), {_in_script(json.dumps(settings, ensure_ascii=False))});"
    return (
        f'<div class="alive" id="alive">{still}</div>\n'
        f"<script>addEventListener('DOMContentLoaded', () => {{ {start} }});</script>"
    )


def voice_page(model: GPT, name: str, rights: str, line: str) -> str:
    """A page of one file with a model in NF4, its adapter and a dial. It asks for nothing, from nowhere.

    name, rights: what it was trained on, and why that was allowed; line: one held-out line, which the card shows too.
    """
    ours = settings() | {"right": name, "start": 1}  # whoever opens it hears the voice at once
    ours["lines"] = [ours["lines"][0] | {"text": line}, ours["lines"][1]]
    still = "<p>The model is being unpacked. Where scripts are off, it stays silent.</p>"
    told = (
        f"A small language model that had read presidents' addresses only, frozen in 4 bits, and an adapter trained on "
        f"<b>{escape(name)}</b> beside it ({escape(rights)}). Turn the dial: everything runs in this page."
    )
    style, *engines = (HERE.joinpath(file).read_text(encoding="utf-8") for file in ("dial.css", "gpt.js", "dial.js"))
    scripts = "".join(f"<script>{_in_script(text)}</script>\n" for text in (*engines, script("model", exported(model))))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>The voice of {escape(name)}</title>\n<style>{PLAIN}{style}</style></head>\n"
        f'<body><main><h1>The voice of {escape(name)}</h1>\n<p class="alive">{told}</p>\n'
        f"{scripts}{place(still, ours)}\n{HOME}</main></body></html>\n"
    )


HOME = (
    "<p>Made with lora-edu, a course that builds LoRA and QLoRA by hand. Make your own: "
    "<code>lora-edu voice my_text.txt</code>, or in a browser tab, on the course's first page.</p>\n"
)
PLAIN = """
body { margin: 0; background: #fbfaf7; color: #1c2430; font: 17px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { font: 600 clamp(1.6rem, 4vw, 2.6rem)/1.15 Georgia, "DejaVu Serif", serif; }
@media (prefers-color-scheme: dark) { body { background: #14161a; color: #e9e6df; } }
"""


def _in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")
