"""The site's search: every section with its text, for static/search.js. Sphinx's own search finds pages, not
sections, and fetches them for its summaries, which a page from file:// may not do; and it finds folded answers. It
would save these lines and the 51 of search.js, and a reader 50 kB.

sections(name, html) -> [[address, title, page, text], ...]      script(...) -> the JavaScript that holds them
"""

import re
from html import unescape

from book.live import packed

SECTION = re.compile(r'<section id="([^"]+)">')
HEADING = re.compile(r'<h(\d)>(.*?)<a class="headerlink".*?</h\1>', re.S)
FOLD = re.compile(r"<details([^>]*)>((?:(?!<details).)*?)</details>", re.S)  # the innermost
SPOILS = re.compile(r"<summary>(<\w+>)*(Hint|Solution)")  # and so does what a reader shall guess before opening
UNSEEN = re.compile(r"<(script|style|annotation|button)\b.*?</\1>", re.S)
BREAK = re.compile(r"</(p|li|td|th|tr|pre|div|summary|dt|dd)>")


def sections(name: str, html: str) -> list[list[str]]:
    """The sections of a page, in their order. A section's text ends where the first section within it begins."""
    body, folds = html.partition("<article")[2].partition("</article>")[0], 1
    while folds:
        body, folds = FOLD.subn(_unfolded, body)
    _, *parts = SECTION.split(UNSEEN.sub(" ", body))
    found: list[list[str]] = []
    for anchor, part in zip(parts[::2], parts[1::2], strict=True):
        title = _text(HEADING.search(part)[2])
        found.append(
            [f"{name}#{anchor}", title, found[0][1] if found else title, _text(HEADING.sub("", part, count=1))]
        )
    return found


def script(found: list[list[str]]) -> str:
    return f'window.sections = "{packed(found)}";\n'


def _unfolded(fold: re.Match) -> str:
    """What a fold holds, without what answers a question."""
    return "" if 'class="hide' in fold[1] or SPOILS.match(fold[2].strip()) else fold[2]


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", "", BREAK.sub(" ", html))).split())
