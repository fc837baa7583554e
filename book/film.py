"""The moving picture of the README: `python -m book.film` draws the first slider of notebook 01, rank after rank.

The frames are those of the notebook's own view. It is a GIF, because the sites that show a README let a reader pause
one.
"""

import io
from pathlib import Path

from PIL import Image

from book import live

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "01_low_rank.ipynb"
TARGET = ROOT / "notebooks" / "figures" / "rank_slider.gif"
LAST_RANK = 40  # a face long before it
FRAME_MS, LAST_MS = 450, 2500
WIDTH, COLORS = 645, 16  # pixels; so that the file stays small


def frames() -> list[Image.Image]:
    """What the slider shows up to LAST_RANK."""
    hero = live.hero(NOTEBOOK)
    settings = [setting for setting in hero.settings() if setting["rank"] <= LAST_RANK]
    pictures = [Image.open(io.BytesIO(hero.view.render(**setting)[0])) for setting in settings]
    height = round(WIDTH * pictures[0].height / pictures[0].width)
    return [picture.resize((WIDTH, height), Image.Resampling.LANCZOS) for picture in pictures]


def main() -> None:
    pictures = [picture.quantize(COLORS, dither=Image.Dither.NONE) for picture in frames()]
    times = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    pictures[0].save(TARGET, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    print(f"{TARGET}: {len(pictures)} frames, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
