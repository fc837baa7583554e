"""The moving picture of the README: `python -m book.film` turns the dot of try.html, and takes pictures.

What is written comes from the model, with the page's own dice. It is a GIF, because the sites that show a README let a
reader pause one. It needs an installed Chromium and the extra `bench`.
"""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "try.html"
TARGET = ROOT / "notebooks" / "figures" / "three_voices.gif"
RIGHT = [(step / 5, 0) for step in (0, 0, 0, 1, 2, 3, 4, 5, 5, 5)]  # from the frozen model to the playwright,
LEFT = [(1 - step / 5, step / 5) for step in (1, 2, 3, 4, 5, 5, 5)]  # from there to the prophet,
PLACES = RIGHT + LEFT + [(0.5, 1), (1, 1), (1, 1), (1.5, 1.5), (2, 2), (2, 2)]  # to both, and to the babble
FRAME_MS, LAST_MS = 800, 2500
WIDTH, HEIGHT, SHOWN, COLORS = 1240, 590, (820, 390), 64  # pixels; so that the file stays small

TURN = """strengths => ["playwright", "prophet"].forEach((voice, i) => {
    const input = document.getElementById(voice);
    input.value = strengths[i];
    for (const event of ["input", "change"]) input.dispatchEvent(new Event(event));
})"""


def frames() -> list[Image.Image]:
    """The page at each of PLACES."""
    pictures = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light", reduced_motion="reduce")
        page.goto(PAGE.as_uri())
        page.wait_for_function("/Checksum/.test(document.body.textContent)", timeout=60_000)
        top = page.locator(".stage").bounding_box()["y"]
        for place in PLACES:
            page.evaluate(TURN, place)
            clip = {"x": 0, "y": top - 8, "width": WIDTH, "height": HEIGHT}
            pictures.append(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").resize(SHOWN))
        browser.close()
    return pictures


def main() -> None:
    taken = frames()
    palette = taken[-4].quantize(COLORS, Image.Quantize.MAXCOVERAGE)  # of a frame in which all three voices speak
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in taken]
    times = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    pictures[0].save(TARGET, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    print(f"{TARGET}: {len(pictures)} frames, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
