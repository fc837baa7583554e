"""What no page uses is left out of the built site: of a theme's 8 MB, a page needs a twentieth.

slim(folder): icons are drawn by book.css, so the theme's icon script and fonts go; so do source maps; style rules stay
only for classes that stand in a page or a script; code has no marks for what looks like plain text; and Sphinx's search
gives way to the course's own.
"""

import re
import shutil
from pathlib import Path

UNUSED = ("scripts/fontawesome.js", "scripts/bootstrap.js", "vendor", "locales")  # below _static
UNUSED += ("searchtools.js", "language_data.js", "base-stemmer.js", "english-stemmer.js", "../searchindex.js")
COMMENT = re.compile(r"/\*(?!!).*?\*/|/\*# sourceMappingURL.*?\*/|^//# sourceMappingURL.*$", re.S | re.M)
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
PLAIN = re.compile(r'<span class="[npw]">([^<]*)</span>')  # names, punctuation and white space in code
BRACKETS = re.compile(r"\([^()]*\)|\[[^\]]*\]")  # what stands in :not(...) or [...] is no class that has to be there


def slim(folder: Path) -> None:
    static = folder / "_static"
    for name in UNUSED:
        path = static / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in static.rglob("*.map"):
        path.unlink()
    for path in static.rglob("*.js"):
        path.write_text(re.sub(r"^//# sourceMappingURL=.*$", "", path.read_text("utf-8"), flags=re.M), "utf-8")
    pages = sorted(folder.glob("*.html"))
    for path in pages:
        path.write_text(PLAIN.sub(r"\1", without_scripts(path.read_text("utf-8"), UNUSED)), "utf-8")
    words: set[str] = set()
    for path in (*pages, *folder.rglob("*.js")):
        if "alive" not in path.parts or path.name not in ("model.js", "voices.js", "places.js"):
            words.update(re.findall(r"[\w-]+", path.read_text("utf-8")))
    words = {word for word in words if not re.match(r"fa[srbl]?(-|$)", word)}  # the icons: book.css has its own
    for path in static.rglob("*.css"):
        if path.name != "book.css":
            path.write_text(used_rules(COMMENT.sub("", path.read_text("utf-8")), words), "utf-8")


def without_scripts(html: str, names: tuple[str, ...]) -> str:
    """A page without the elements that load these scripts, now or ahead of time."""
    wanted = "|".join(re.escape(name.removeprefix("../")) for name in names)
    return re.sub(rf'\s*<(?:script|link)[^>]* (?:src|href)="[^"]*(?:{wanted})[^"]*"[^>]*>(?:</script>)?', "", html)


def used_rules(css: str, words: set[str]) -> str:
    """A style sheet without the selectors that name a class which is not among `words`, and without empty rules."""
    written, at = [], 0
    while (opened := css.find("{", at)) >= 0:
        head, depth, end = css[at:opened], 1, opened + 1
        statements, _, head = head.rpartition(";")  # @import and @charset have no braces
        written.append(f"{statements};" if statements.strip() else "")
        while depth:
            depth += {"{": 1, "}": -1}.get(css[end], 0)
            end += 1
        body, at = css[opened + 1 : end - 1], end
        name = head.strip()
        if name.startswith(("@media", "@supports")):
            body = used_rules(body, words)
        elif not name.startswith("@"):
            head = ",".join(selector for selector in selectors(head) if uses(selector, words))
        elif name.startswith("@font-face"):
            continue  # the fonts are those of the reader's system
        if head.strip() and body.strip():
            written.append(f"{head}{{{body}}}")
    return "".join(written) + css[at:]


def selectors(head: str) -> list[str]:
    """The selectors of a rule, at the commas that stand in no bracket."""
    return re.split(r",(?![^()]*\))(?![^\[\]]*\])", head)


def uses(selector: str, words: set[str]) -> bool:
    while (shorter := BRACKETS.sub("", selector)) != selector:
        selector = shorter
    return all(name in words for name in CLASS.findall(selector.rpartition("*/")[2]))
