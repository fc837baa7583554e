"""The book's pages: what is made of a notebook. Building the whole takes longer and is left to `make book`."""

import base64
import io
import json
import re
import zlib
from html import unescape

import nbformat
import numpy as np
import pytest
from conftest import PAGES, ROOT, markdown
from nbformat.v4 import new_output
from PIL import Image, ImageChops

import lora_edu
from book import api, conf, pages, search, slim


@pytest.mark.parametrize("notebook", PAGES, ids=lambda path: path.stem)
def test_every_picture_has_words_and_no_widget_is_left(notebook, tmp_path):
    page = pages.page(notebook, tmp_path)
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if {pages.WIDGET, "image/png"} & set(output.get("data", {}))]
    pictures = re.findall(r'<img [^>]*src="pictures/([^"]+)" alt="([^"]+)" width="\d\d+"', str(outputs))
    assert {name for name, _ in pictures} == {path.name for path in tmp_path.iterdir()}
    assert all(len(words) > 20 for _, words in pictures)
    assert notebook.name in page.cells[-1].source


LINKS = [
    (
        pages.sphinx_links,
        "[a](06_nf4.ipynb#2.-The-offset,-the-zero,-and-a-control), [b](05_blocks.ipynb), [c](#7.-Optimal-for-what?)",
        "[a](06_nf4.ipynb#2-the-offset-the-zero-and-a-control), [b](05_blocks.ipynb), [c](#7-optimal-for-what)",
    ),
    (
        pages.html_links,  # in an output
        '<a href="04_lora_torch.ipynb#8.-What-it-costs-and-what-it-saves">04</a> <a href="notes.txt">n</a>',
        '<a href="04_lora_torch.html#8-what-it-costs-and-what-it-saves">04</a> <a href="notes.txt">n</a>',
    ),
]


@pytest.mark.parametrize(("change", "link", "expected"), LINKS)
def test_the_links_of_jupyterlab_become_those_of_the_book(change, link, expected):
    assert change(link) == expected


def test_the_start_page_lists_every_notebook():
    readme, template = ((ROOT / name).read_text("utf-8") for name in ("README.md", "book/contents.md"))
    start = pages.start_page(template, readme, 67, [path.stem for path in PAGES], ["glossary"])
    for path in PAGES:
        assert f"]({path.name}): " in start and f"\n{path.stem}\n" in start
    assert '<p data-guesses="67"></p>' in start
    assert "THE_" not in start and start.index("](tour.ipynb)") < start.index("**The whole course, page by page**")
    ten, electives = start.partition("**The whole course, page by page**")[2].split("**More, in any order**")
    assert ten.count("\n- ") == 10 and electives.count("\n- ") == len(PAGES) - 11


def test_every_public_name_stands_on_its_page_with_the_notebook_that_builds_it():
    page = api.page(PAGES)
    assert sorted(re.findall(r"^\.\. auto(?:class|function):: lora_edu\.(\w+)$", page, re.M)) == lora_edu.__all__
    section = page.partition("### nf_codebook")[2].partition("##")[0]
    assert "Built by hand in [06 · NF4" in section and "](06_nf4.ipynb)" in section
    lines = ["Does it.", "rank: a number", "of A.", "Raises none."]
    api.in_paragraphs(None, "function", "f", None, None, lines)
    assert lines == ["Does it.", "", "rank: a number", "of A.", "", "Raises none."]


def test_the_front_page_is_try_html_and_asks_for_what_the_book_holds():
    card = nbformat.read(ROOT / "notebooks" / "14_which_card.ipynb", as_version=4)
    page = pages.front_page((ROOT / "try.html").read_text("utf-8"), card)
    asked = re.findall(r'(?:src|href|data-voices)="([^"#]+)"', page)
    held = {"alive/places.js", "alive/gpt.js", "alive/writing.js", "alive/front.js", "alive/voices.js", "contents.html"}
    held |= {"alive/train.js", "14_which_card.html", "pictures/14_which_card-1.webp"}  # to be read, and to be seen
    assert set(asked) == held


def test_guesses_are_typed_in_the_page_and_the_dial_waits_for_one(tmp_path):
    cells = pages.page(PAGES[0], tmp_path).cells
    asked = [re.search(r'data-guess="([^"]+)"', cell.source)[1] for cell in cells if "data-guess" in cell.source]
    assert asked and len(set(asked)) == len(asked) and not [cell for cell in cells if "my_guess = None" in cell.source]
    dial = next(output for cell in cells for output in cell.get("outputs", []) if 'id="alive"' in str(output))
    assert f'data-after="{asked[0]}"' in str(dial)
    assert "alive/model.js" in "".join(cell.source for cell in pages.page(PAGES[9], tmp_path).cells)


@pytest.mark.parametrize("notebook", PAGES, ids=lambda path: path.stem)
def test_what_jupyterlab_folds_the_book_folds(notebook, tmp_path):
    cells = [cell for cell in pages.page(notebook, tmp_path).cells if cell.cell_type == "code"]
    folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert folded and all(cell.metadata.tags.count("hide-input") == 1 for cell in folded)
    said = {cell.metadata["mystnb"]["code_prompt_show"] for cell in folded if cell.source.startswith("# Measure: ")}
    assert said <= {"Guess first, then open: the {type} of the measurement"}  # its source, its outputs


def test_a_guess_ends_in_one_mark():
    ends = [pages.guess_html("00-1", asked).partition("<input")[0][-3:] for asked in ("by what factor?", "in nats")]
    assert ends == ["r? ", "s: "]


def test_every_phrase_with_a_twin_stands_in_a_notebook():
    texts = " ".join(cell.source for path in PAGES for cell in nbformat.read(path, as_version=4).cells)
    texts = " ".join(texts.split())
    assert all(phrase in texts for phrase in (*pages.TWINS, pages.DIAL_CELL, pages.DIAL_HERE))


def test_a_table_of_markdown_says_its_heads():
    rows = ["<td><p>rank</p></td>\n<td><p>8</p></td>", '<td class="text-left"><p>A</p></td>\n<td>m</td>']
    head = '<tr class="row-odd"><th class="head"><p></p></th>\n<th class="head"><p>is</p></th></tr>'
    context = {"body": head + "".join(f'<tr class="row-even">{row}</tr>' for row in rows)}
    conf.accessible(None, "", "", context, None)
    head, *said = re.findall(r"<tr.*?</tr>", context["body"], re.S)
    assert head.startswith('<tr class="row-odd"><td></td>') and head.count('<th scope="col"') == 1
    first, second = (re.findall(r"<t[hd][^>]*>", row) for row in said)
    assert first == ['<th scope="row">', "<td>"] and second == ['<th scope="row" class="text-left">', "<td>"]


def test_a_signature_is_no_list_of_terms():
    line = '<dd><em class="sig-param">a</em>,</dd>\n'
    context = {"body": f"<dt>f(<dl>\n{line}{line}</dl>\n)</dt>"}
    conf.accessible(None, "", "", context, None)
    assert context["body"].count("<div>") == 2 and not re.search("</?d[ld]>", context["body"])


def test_a_formula_in_a_line_fits_a_phone():
    """A browser does not break a formula; 26 letters fit 360 pixels, 31 did not."""
    for path in PAGES:
        text = markdown(nbformat.read(path, as_version=4).cells)
        text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$", "", text, flags=re.S)
        for formula in set(re.findall(r"(?<!\\)\$((?:[^$\n]|\n(?!\n))+?)(?<!\\)\$", text)):
            letters = unescape(re.sub(r"<[^>]*>|\s", "", pages.mathml(formula)))
            assert len(letters) <= 28, f"{path.stem}: ${formula}$ may break at a relation, as $a$ $= b$"


def test_a_formula_is_mathml_with_bars_as_tall_as_a_letter():
    written = pages.mathml(r"\text{o\_proj}(\lVert x\rVert)")
    assert written.startswith("<math") and "<mtext>o_proj</mtext>" in written and written.count('fence="false"') == 2


def test_a_page_says_of_itself_its_claim_or_its_first_paragraph():
    first = "<h1>NF4</h1><p>Of <em>sixteen</em>\nnumbers.</p>"
    assert conf.description(first) == "Of sixteen numbers."
    assert conf.description(f"{first}<p><strong>The claim.</strong> 4 bits &amp; less.</p>") == "4 bits & less."
    assert conf.description("<h1>empty</h1>") == conf.project


def png(width, height):
    picture, content = Image.new("RGB", (width, height), "white"), io.BytesIO()
    picture.paste((0, 114, 178), (20, 30, 180, 90))
    picture.save(content, "PNG")
    return picture, content.getvalue()


def test_a_picture_becomes_smaller_and_loses_nothing():
    picture, content = png(300, 200)
    with Image.open(io.BytesIO(pages.webp(content))) as written:
        assert ImageChops.difference(written.convert("RGB"), picture).getbbox() is None


@pytest.mark.parametrize(("seen", "shown"), [({}, (320, 200)), ({"width": 200}, (160, 100))])
def test_a_sharp_picture_is_shown_at_half_its_pixels(seen, shown):
    data = {"image/png": base64.b64encode(png(320, 200)[1]).decode()}
    output = new_output("display_data", data, metadata={"image/png": {"alt": "words", **seen}})
    assert 'width="{}" height="{}"'.format(*shown) in pages.picture_html("a.webp", output)


def test_rules_of_style_stay_only_for_what_a_page_uses():
    css = (
        '@charset "utf-8";/*! a license */.cell,.gone:hover{color:red}.gone{x:y}@media print{.gone{a:b}.cell>p{c:d}}'
        "@media screen{.gone{e:f}}:is(.cell,.gone) a{g:h}.cell:not(.gone){i:j}@font-face{src:url(k)}"
        "@keyframes turn{from{l:m}to{n:o}}.gone .cell{p:q}"
    )
    kept = slim.used_rules(css, {"cell"})
    assert kept == (
        '@charset "utf-8";/*! a license */.cell{color:red}@media print{.cell>p{c:d}}:is(.cell,.gone) a{g:h}'
        ".cell:not(.gone){i:j}@keyframes turn{from{l:m}to{n:o}}"
    )


def test_the_scripts_of_icons_and_search_are_left_out():
    gone = '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>'
    more = (
        '<link rel="preload" as="script" href="_static/scripts/bootstrap.js?d=1"><script src="searchindex.js"></script>'
    )
    html = f'<i>a</i>\n{gone}<script src="live.js"></script>\n{more}'
    assert slim.without_scripts(html, slim.UNUSED) == '<i>a</i><script src="live.js"></script>'


def test_search_knows_every_section_and_spoils_no_answer():
    link = '<a class="headerlink" href="#a">#</a>'
    html = (
        f'<p>menu</p><article><section id="a"><h1>01 · A page{link}</h1><p>First <em>words</em>\nhere.</p>'
        f'<section id="b"><h2>1. <code>B</code> A{link}</h2><p>&lt;Second&gt;</p><details class="hide below-input">'
        "<summary>Guess</summary>measured<details><summary>In words</summary>it rises</details></details>"
        "<details><summary>In words</summary>A bar.</details><details>\n<summary>Hint</summary>secret</details>"
        "<script>code</script></section></section></article>"
    )
    assert search.sections("01.html", html) == [
        ["01.html#a", "01 · A page", "01 · A page", "First words here."],
        ["01.html#b", "1. B A", "01 · A page", "<Second> In words A bar."],
    ]
    packed = re.search('"(.*)"', search.script([["a", "ü"]]))[1]
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == [["a", "ü"]]


def test_a_photograph_is_told_from_gray_bars():
    """In the dark a figure is turned around, and a face is not."""
    face = np.random.default_rng(0).integers(0, 256, (80, 80, 1), dtype=np.uint8).repeat(3, axis=2)
    bars = np.full((80, 80, 3), 255, np.uint8)
    bars[:40] = 110
    for pixels, photo in ((face.repeat(4, 0).repeat(4, 1), True), (bars, False)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        assert pages.is_photo(buffer.getvalue()) == photo
