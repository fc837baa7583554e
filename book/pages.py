"""A notebook with its stored outputs becomes a page of the book: pictures with alt text, links that lead somewhere."""

import base64
import io
import re
from html import escape, unescape
from pathlib import Path

import latex2mathml.converter
import nbformat
import numpy as np
from nbformat.v4 import new_markdown_cell
from PIL import Image

from lora_course.alive.dial_page import hero

MARKDOWN = ("in_practice.md", "glossary.md", "questions.md", "setup.md", "scaling.md")  # pages that are no notebooks
WIDGET = "application/vnd.jupyter.widget-view+json"
GUESS = re.compile(r"my_guess = None +# (.+)")  # a cell that asks, and what it asks for
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.M)
HTML_LINK = re.compile(r'href="(?P<page>[\w-]+)\.(?:ipynb|md)#(?P<anchor>[^"]+)"')
JUPYTER_LINK = re.compile(r"\]\((?P<page>[\w./-]*\.(?:ipynb|md))?#(?P<anchor>[^)\s]+)\)")

# The bars of a norm: a browser would take the closing one for an opening one too, and stretch both to the line.
NORM = re.compile(r"<mo>(&#x0*(?:2016|7C);)</mo>", re.I)
MUCH_GRAY = 0.08  # of the pixels of a picture
LARGE_PICTURE = 100_000  # bytes: one above it may lose what no eye sees
CODE_OF = {
    "other": "The code",
    "slider": "The code of this slider",
    "measurement": "Guess first, then open: the {type} of the measurement",
}

ALIVE = (  # what a page needs on which the model runs
    '<script defer src="alive/gpt.js"></script><script defer src="alive/writing.js"></script>'
    '<script defer src="alive/dial.js"></script>'
)
CARD = "14_which_card"
FRONT = {"lora_course/alive/": "alive/", "data/": "alive/", "README.md": "contents.html"}  # try.html, at its place here
FRONT |= {f"notebooks/{CARD}.ipynb": f"{CARD}.html"}
CARD_HERE = "<!-- the picture of 14 -->"
TWINS = {  # who reads a page runs no cell
    "Now wake the slider. On every page you do this in the same way: click the line that begins with `# The slider`, "
    "above the picture, and press Shift+Enter. Then move the dial to the right.": "Move the dial to the right.",
    "turn into a play, with the speaker's name between stars?": "turn into a play, with a speaker's name?",
    "and run again": "and run again, in JupyterLab",
    "The dial above plays back measurements that we stored. You can trust them once you have measured one yourself, so "
    "the next two cells measure both losses at half strength.": "The dial above computes in your browser. Here a "
    "notebook measured both losses at half strength, and its table compares them with what is stored.",
}
DIAL_CELL = "pictures.dial(stored)"  # the cell of notebook 00 in whose place the model runs
DIAL_HERE = "<!-- the dial -->"  # and a place for it in a text

DIAL_THERE = "<p>The adapter of notebook 00 under such a dial, where scripts may run:</p>"

RUN = """\
## Run this page

This page is a notebook with the outputs of its last run. To change the code, move every slider and have your answers
checked, open it in JupyterLab: with the course on your machine, `make lab` (or `lora-edu lab`) does so; this page is
`{name}` there. <a href="notebooks/{name}" download>Download the notebook alone</a>.
"""


def page(source: Path, pictures: Path, sliders: dict[int, str] | None = None) -> nbformat.NotebookNode:
    """The notebook as the book shows it. Its pictures are written to the folder `pictures`.

    sliders: the cells whose picture is a slider that works without a kernel (see `book.live`), with the names of these.
    Their code is folded.
    """
    notebook, sliders = nbformat.read(source, as_version=4), sliders or {}
    number, key = 0, ""  # of pictures, and of the last guess
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = sphinx_links(cell.source).replace(DIAL_HERE, DIAL_THERE + ALIVE + hero("", "alive/model.js"))
            for written, twin in TWINS.items():
                anyhow_broken = r"\s".join(map(re.escape, written.split()))  # its lines may end anywhere
                cell.source = re.sub(anyhow_broken, lambda _, twin=twin: twin, cell.source)
            continue
        if asked := GUESS.fullmatch(cell.source.strip()):
            key = f"{source.stem[:2]}-{place}"
            notebook.cells[place] = new_markdown_cell(guess_html(key, asked[1]), id=cell.id)
            continue
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            fold_code(cell)
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        if DIAL_CELL in cell.source:  # its words would tell of the picture's setting, whatever the dial's
            cell.outputs = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = html_links(output.data["text/html"])
            if "image/png" in output.get("data", {}):
                number += 1
                name = f"{source.stem}-{number}.webp"
                (pictures / name).write_bytes(webp(base64.b64decode(output.data["image/png"])))
                html = picture_html(name, output)
                if DIAL_CELL in cell.source:
                    after = f' data-after="{key}"' if key else ""  # the tour asks for no guess before its dial
                    html = f"<div{after}>{ALIVE}{hero(html, 'alive/model.js')}</div>"
                    fold_code(cell)
                elif place in sliders:
                    html = live_html(sliders[place], html)
                    fold_code(cell)
                output.data = {"text/html": html}
    notebook.cells.append(new_markdown_cell(RUN.format(name=source.name), id="run-this-page"))
    return notebook


def fold_code(cell: nbformat.NotebookNode) -> None:
    """The code behind a line that says what it is of; a cell that is folded already stays as it is."""
    tags = cell.metadata.get("tags", [])
    if "hide-input" not in tags:
        said = CODE_OF[kind(cell.source)]
        prompts = {"code_prompt_show": said, "code_prompt_hide": said}
        cell.metadata |= {"tags": [*tags, "hide-input"], "mystnb": prompts}


def kind(source: str) -> str:
    """What the code of a folded cell is of, as its first line says."""
    first = source.partition("\n")[0]
    return "slider" if first.startswith("# The slider") else "measurement" if first.startswith("# Measure") else "other"


def guess_html(key: str, asked: str) -> str:
    """A place to type a guess, which the browser keeps (static/guess.js); without scripts, the line that asks."""
    colon = "" if asked.endswith("?") else ":"
    return f'<label class="guess">Your guess, {escape(asked)}{colon} <input data-guess="{key}" maxlength="60"></label>'


def picture_html(name: str, output: nbformat.NotebookNode) -> str:
    """The picture of an output, with its alt text and with its size, so that the page does not jump while it loads."""
    width, height = png_size(base64.b64decode(output.data["image/png"]))
    if "width" in output["metadata"]["image/png"]:  # it holds more pixels than it takes: here, twice as many
        width, height = width // 2, height // 2
    kind = "picture photo" if is_photo(base64.b64decode(output.data["image/png"])) else "picture"
    alt = escape(alt_text(output))
    return f'<img class="{kind}" src="pictures/{name}" alt="{alt}" width="{width}" height="{height}" loading="lazy">'


def live_html(name: str, picture: str) -> str:
    """A place for a live slider; where no script runs, the stored picture stays."""
    return f'<div class="live" data-live="{name}">{picture}</div><script defer src="live/{name}.js"></script>'


def alt_text(output: nbformat.NotebookNode) -> str:
    """What `plots.show` stored beside a picture. A picture without words is an error of the notebook."""
    words = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    if not words:
        raise ValueError("a stored picture has no alt text: show it with plots.show(figure, words)")
    return words


def webp(png: bytes) -> bytes:
    """The same picture in 40% of the bytes: to the pixel, unless it is a photograph or the like."""
    written = {lossless: io.BytesIO() for lossless in (True, False)}
    with Image.open(io.BytesIO(png)) as picture:
        for lossless, file in written.items():
            picture.convert("RGB").save(file, "WEBP", lossless=lossless, quality=70, method=6)
            if file.tell() < LARGE_PICTURE:
                break
    return file.getvalue()


def is_photo(png: bytes) -> bool:
    """Whether a picture holds a photograph, by its many shades of gray: in the dark it stays as it is."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB").reduce(4)).astype(int)
    gray = np.ptp(pixels, axis=-1) < 8
    middle = (pixels[..., 0] > 50) & (pixels[..., 0] < 205)
    shades = np.bincount(pixels[..., 0][gray & middle], minlength=256)
    few = np.sort(shades)[-3:].sum()  # bars have one shade, or two
    return bool(shades.sum() > MUCH_GRAY * gray.size and few < shades.sum() / 2)


def mathml(formula: str, display: str = "inline") -> str:
    """One formula as MathML, which a browser's translator shall leave alone. display: "inline" or "block"."""
    # latex2mathml would show the backslash of \text{o\_proj}
    plain = re.sub(r"\\text\{[^}]*\}", lambda text: text[0].replace(r"\_", "_"), formula.strip())
    written = latex2mathml.converter.convert(plain, display=display).replace("<math ", '<math translate="no" ', 1)
    return NORM.sub(r'<mo fence="false" stretchy="false">\1</mo>', written)


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a png file."""
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def sphinx_links(source: str) -> str:
    """JupyterLab's anchors (`06_nf4.ipynb#1.-Why-quantiles`) in the form that the book's headings have."""
    return JUPYTER_LINK.sub(lambda link: f"]({link['page'] or ''}#{slug(link['anchor'].replace('-', ' '))})", source)


def html_links(html: str) -> str:
    """The same in the HTML of an output, whose links Sphinx does not touch."""
    return HTML_LINK.sub(
        lambda link: f'href="{link["page"]}.html#{slug(unescape(link["anchor"]).replace("-", " "))}"', html
    )


def slug(heading: str) -> str:
    """The anchor of a heading, as on GitHub: lower case, punctuation left out, hyphens for spaces."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def first_png(notebook: nbformat.NotebookNode) -> bytes:
    return base64.b64decode(_first_output(notebook).data["image/png"])


def _first_output(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return next(output for output in outputs if "image/png" in output.get("data", {}))


def front_page(page: str, card: nbformat.NotebookNode) -> str:
    """The first page: try.html with the addresses that its parts have in the book, and with the first picture of 14."""
    picture = picture_html(f"{CARD}-1.webp", _first_output(card))
    page = page.replace(CARD_HERE, f'\n<p id="picture" hidden><a href="{CARD}.html">{picture}</a></p>')
    for there, here in FRONT.items():
        page = page.replace(f'="{there}', f'="{here}')
    return page.replace("</title>", '</title>\n<meta property="og:image" content="pictures/preview.png">', 1)


def start_page(template: str, readme: str, guesses: int, notebooks: list[str], others: list[str]) -> str:
    """The contents: its template with the README's notebooks as stations, and the list for Sphinx."""
    contents = ""
    for caption, names in (("Notebooks", notebooks), ("To look up", others)):
        contents += "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", "", ""])
    return template.replace("THE_NOTEBOOKS", stations(readme, guesses)) + "\n" + contents


def stations(readme: str, guesses: int) -> str:
    """The README's table of notebooks as the tour and two paths with a line a page, and a count of guesses."""
    rows = re.findall(r"^\| (\d\d|tour) \| (\[.+?\]\(.+?\)) \| (.+?) \|", readme, re.M)
    lines = [f"- {number} {link}: {learned}" for number, link, learned in rows]
    tour = [line.replace("- tour ", "- ") for line in lines if line.startswith("- tour")]
    core = [line for line in lines if ": elective: " not in line and not line.startswith("- tour")]
    electives = [line.replace(": elective: ", ": ") for line in lines if ": elective: " in line]
    made = f'<p data-guesses="{guesses}"></p>'
    paths = [
        "**In two hours**",
        "",
        *tour,
        "",
        "**The whole course, page by page**",
        "",
        *core,
        "",
        "**More, in any order**",
        "",
        *electives,
    ]
    paths += ["", made]
    return "\n".join(paths).replace("](notebooks/", "](")
