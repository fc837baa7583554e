"""`python -m book`: build the site into build/book (or --folder), and say how long it took."""

import argparse
import shutil
import time
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

from book import api, live, pages, search
from book.slim import slim
from lora_course.alive import dial_page as page
from lora_course.alive import exporting
from lora_edu import data_file, load_adapter, load_base, quantize_linears

HERE = Path(__file__).parent
ROOT = HERE.parent
FIRST = "00_start_here"  # the model runs there, in place of its slider


def prepare(sources: Path) -> None:
    """Write the pages' sources: the notebooks as the book shows them, Markdown pages, the contents."""
    if sources.exists():
        shutil.rmtree(sources)
    for folder in ("pictures", "live"):
        (sources / folder).mkdir(parents=True)
    write_alive(sources / "alive")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: path.stem.replace("tour", "00_tour"))
    guesses = 0
    for notebook in notebooks:
        sliders = {} if notebook.stem == FIRST else write_live(notebook, sources / "live")  # the first has the model
        written = pages.page(notebook, sources / "pictures", sliders)
        guesses += sum("data-guess" in cell.source for cell in written.cells)
        nbformat.write(written, sources / notebook.name)
    for name in pages.MARKDOWN:
        text = (ROOT / "notebooks" / name).read_text(encoding="utf-8")
        (sources / name).write_text(pages.sphinx_links(text), encoding="utf-8")
    (sources / "api.md").write_text(api.page(notebooks), encoding="utf-8")
    shutil.copytree(ROOT / "notebooks" / "figures", sources / "figures")  # which the Markdown pages show
    start, readme = (path.read_text(encoding="utf-8") for path in (HERE / "contents.md", ROOT / "README.md"))
    names, others = [path.stem for path in notebooks], [*(Path(name).stem for name in pages.MARKDOWN), "api"]
    first = nbformat.read(ROOT / "notebooks" / f"{FIRST}.ipynb", as_version=4)
    (sources / "pictures" / "preview.png").write_bytes(pages.first_png(first))  # where a link to a page is shown
    contents = pages.start_page(start, readme, guesses, names, others)
    (sources / "contents.md").write_text(contents, encoding="utf-8")
    shutil.copytree(HERE / "static", sources / "static")


def write_alive(folder: Path) -> None:
    """Write the model and the scripts that run it."""
    folder.mkdir()
    for name in page.FILES:
        shutil.copy(page.HERE / name, folder)
    for name in ("voices.js", "places.js"):
        shutil.copy(ROOT / "data" / name, folder)
    base = load_base("laptop", device="cpu")
    adapted = load_adapter(quantize_linears(base), data_file("shakespeare-adapter"))
    (folder / "model.js").write_text(exporting.script("model", exporting.exported(adapted)), encoding="utf-8")


def write_live(notebook: Path, folder: Path) -> dict[int, str]:
    """Write the sliders of a notebook, at all their settings; returns their names, by the cells that show them."""
    shown = {f"{notebook.stem}-{slider.cell}": slider for slider in live.sliders_of(notebook)}
    for name, slider in shown.items():
        (folder / f"{name}.js").write_text(live.script(live.record(slider, name)), encoding="utf-8")
    return {slider.cell: name for name, slider in shown.items()}


def build(sources: Path, folder: Path) -> None:
    """Run Sphinx. A warning, such as a link that leads nowhere, is an error."""
    if folder.exists():
        shutil.rmtree(folder)
    doctrees = sources.parent / "book-doctrees"
    sphinx = Sphinx(sources, HERE, folder, doctrees, "html", freshenv=True, warningiserror=True, verbosity=0)
    sphinx.build()
    if sphinx.statuscode:  # it goes on after a warning, to find them all
        raise SystemExit("the book was built with the warnings above, so it is not finished: mend them")
    for name in ("alive", "pictures", "live"):
        shutil.copytree(sources / name, folder / name)
    (folder / "notebooks").mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, folder / "notebooks")  # as they are, to be downloaded
    for name in ("jupyter_execute", "_sources"):
        shutil.rmtree(folder / name, ignore_errors=True)
    slim(folder)
    found = [
        section
        for page in sorted(folder.glob("*.html"))
        for section in search.sections(page.name, page.read_text("utf-8"))
    ]
    (folder / "sections.js").write_text(search.script(found), encoding="utf-8")
    card = nbformat.read(ROOT / "notebooks" / f"{pages.CARD}.ipynb", as_version=4)
    front = pages.front_page((ROOT / "try.html").read_text(encoding="utf-8"), card)
    (folder / "index.html").write_text(front, encoding="utf-8")
    (folder / ".nojekyll").touch()  # GitHub Pages: serve _static as it is


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m book", description="Build the course as a static site.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "book")
    folder = parser.parse_args().folder.resolve()
    start, sources = time.perf_counter(), folder.with_name(f"{folder.name}-sources")
    prepare(sources)
    build(sources, folder)
    print(f"{folder / 'index.html'}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
