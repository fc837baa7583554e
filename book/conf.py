"""What Sphinx reads. `python -m book` calls it with the folder of prepared pages as its source."""

import os
import re
from html import unescape

from book import api

project = "LoRA and QLoRA, built by hand"
author = "the lora-edu contributors"
copyright = author
extensions = ["myst_nb", "book.mathml", "sphinx.ext.autodoc"]
autodoc_preserve_defaults = True  # `loss_fn=model_loss`, as it is written
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
default_role = "code"  # of docstrings, which have Markdown's single backticks
toc_object_entries = False  # a name has a heading already
root_doc = "contents"  # index.html is try.html
exclude_patterns = ["jupyter_execute"]

nb_execution_mode = "off"  # the outputs are those that the notebooks store
nb_merge_streams = True
nb_ipywidgets_js = {}  # no script from a network: a page shows the picture that is stored beside a widget
nb_code_prompt_show = "Guess first, then open: what was measured"
nb_code_prompt_hide = "What was measured"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
html_math_renderer = "mathml"

html_theme = "sphinx_book_theme"
html_title = project
html_baseurl = os.environ.get("BOOK_URL", "")  # where the site will stand; a preview picture needs its whole address
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["live.js", "guess.js"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,  # exercises are sections of a section
    "home_page_in_toc": False,
    "search_bar_text": "Search the course",
    "show_navbar_depth": 1,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_sidebars = {"**": ["navbar-logo.html", "search-field.html", "sbt-sidebar-nav.html"]}
# The first cell of a Markdown table's row, after what docutils writes before it; outputs have theirs from plots.table.
FIRST_WORDS = [re.compile(start + r"(.*?)</p>", re.S) for start in (r"<strong>The claim\.</strong>", "<p>")]
SIGNATURE = re.compile(
    r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>', re.S
)  # a line an argument: no list of terms
ROW_HEAD = re.compile(r'(?P<row><tr class="row-(?:even|odd)">)<td(?P<look>[^>]*)>(?P<text>.*?)</td>', re.S)


def accessible(app, pagename, templatename, context, doctree) -> None:
    """For who hears the page: code, output and a table's heads say what they are, and a fold is named by its words. A
    browser's translator is kept away from code."""
    body = context.get("body", "")
    body = ROW_HEAD.sub(r'\g<row><th scope="row"\g<look>>\g<text></th>', body)
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    body = body.replace('<th class="head', '<th scope="col" class="head')
    for part, label in (("cell_input", "code"), ("cell_output", "output")):
        body = body.replace(f'<div class="{part} ', f'<div role="group" aria-label="{label}" class="{part} ')
    body = SIGNATURE.sub(
        lambda lines: re.sub(r"<(/?)dd>", r"<\1div>", f'<div class="sig-lines">{lines[1]}</div>'), body
    )
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    body = body.replace('<code class="', '<code translate="no" class="')
    context |= {"description": description(body), "preview": html_baseurl and f"{html_baseurl.rstrip('/')}/"}
    context["body"] = re.sub(r'<div class="(highlight-|output stream)', r'<div translate="no" class="\1', body)


def description(body: str) -> str:
    """What a page says of itself elsewhere: a notebook's claim, or else the first paragraph."""
    found = next(filter(None, (pattern.search(body) for pattern in FIRST_WORDS)), None)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", found[1])).split()) if found else project


def setup(app) -> None:
    app.connect("html-page-context", accessible)
    app.connect("autodoc-process-docstring", api.in_paragraphs)
