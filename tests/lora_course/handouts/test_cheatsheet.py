"""The cheat sheet fits one page, needs nothing from elsewhere, and its numbers are computed."""

import re
import shutil
import subprocess

import pytest

from lora_course.handouts import cheatsheet
from lora_edu.memory.calculator import GIB, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES
from lora_edu.rounding import total_bits

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MEASURE = """<script>const main = document.querySelector("main"), text = document.querySelector(".columns");
document.title = [main.scrollHeight <= main.clientHeight, text.scrollWidth <= text.clientWidth].join()</script>"""


@pytest.fixture(scope="module")
def page():
    return cheatsheet.cheat_sheet()


def test_the_numbers_are_those_of_the_course(page):
    assert f"= {total_bits(64, 8, 256):.3f}" in page
    seven = training_bytes(ARCHITECTURES["LLaMA 7B"], rank=64, bits=4, checkpointing=True)
    assert f"<b>{sum(seven.values()) / GIB:.1f}</b>" in page
    assert len(cheatsheet.quality_rows()) == 3 and len(cheatsheet.format_rows()) == 4


def test_nothing_comes_from_elsewhere(page):
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import", page)
    assert all(len(alt) > 40 for alt in re.findall(r'alt="([^"]*)"', page)) and page.count("<img") == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("more", [0, 40])
def test_a_browser_finds_one_page(page, tmp_path, more):
    """With forty more lines it must not fit: the measurement can fail."""
    path = tmp_path / "page.html"
    text = page.replace("</ul>", "<li>one line more</li>" * more + "</ul>")
    path.write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1300"]
    dom = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert re.search(r"<title>(.*?)</title>", dom)[1] == ("true,true" if more == 0 else "true,false")
    if more == 0:
        subprocess.run([*command, f"--print-to-pdf={tmp_path / 'page.pdf'}", path.as_uri()], timeout=120, check=True)
        assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 1
