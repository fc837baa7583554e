"""The moving picture of the README: `python -m book.film` turns the dial of the built front page, and takes pictures.

What is written comes from the model, with the page's own dice, seeded. It is a GIF, because the sites that show a
README let a reader pause one. It needs an installed Chromium and the extra `bench`, after `make book`.
"""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "build" / "book" / "index.html"
TARGET = ROOT / "notebooks" / "figures" / "dial.gif"
STRENGTHS = [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1.25, 1.5, 1.75, 2, 2, 2]
FRAME_MS, LAST_MS = 900, 2500  # it is as fast as the page
WIDTH, HEIGHT, COLORS = 720, 590, 24  # pixels; so that the file stays small

SEEDED = "let state = 12; Math.random = () => (state = (16807 * state) % 2147483647) / 2147483647;"
TURN = """strength => {
    const dial = document.querySelector(".alive-dial input");
    dial.value = strength;
    dial.dispatchEvent(new Event("input"));
}"""


def frames() -> list[Image.Image]:
    """The dial at each of STRENGTHS."""
    pictures = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.add_init_script(SEEDED)
        page.goto(PAGE.as_uri())
        page.wait_for_function("window.aliveReady", timeout=60_000)
        corner = page.locator("#alive").bounding_box()
        for strength in STRENGTHS:
            page.evaluate(TURN, strength)
            page.wait_for_timeout(FRAME_MS)
            clip = {"x": 0, "y": corner["y"] - 8, "width": WIDTH, "height": HEIGHT}
            pictures.append(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"))
        browser.close()
    return pictures


def main() -> None:
    pictures = [picture.quantize(COLORS, dither=Image.Dither.NONE) for picture in frames()]
    times = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    pictures[0].save(TARGET, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    print(f"{TARGET}: {len(pictures)} frames, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
