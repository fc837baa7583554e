"""A matplotlib renderer that writes small SVG: one fragment an artist, text as text, lengths in tenths of a pixel.

matplotlib's own SVG backend writes whole files, with a style sheet and an outline of every letter. A slider of the book
needs many pictures that differ in a few artists: fragments that can be stored once and put together in the browser.
"""

import base64
import functools
import io
from collections.abc import Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, BboxBase
from PIL import Image

LETTERS = {Path.MOVETO: "M", Path.LINETO: "l", Path.CURVE3: "q", Path.CURVE4: "c"}
UNIT = 10  # of them are a pixel: whole numbers are short
ANCHORS = {"left": ("start", 0.0), "center": ("middle", 0.5), "right": ("end", 1.0)}
PHOTOGRAPH = 10_000  # an image of more numbers, in many shades, may lose what nobody sees
HATCH_SIZE = 96  # pixels, the side of the tile that a hatch repeats: as many as the views have in an inch


class SVGRenderer(RendererBase):
    """Collects what artists draw. `definitions` are shared by all fragments: clipping rectangles and hatches.

    name: starts the ids in `definitions`, so that two pictures can stand in one page.
    """

    def __init__(self, figure: Figure, name: str):
        super().__init__()
        self.dpi, self.name = figure.dpi, name
        self.width, self.height = (int(side) for side in figure.bbox.size)
        self.flip = Affine2D().scale(UNIT, -UNIT).translate(0, UNIT * self.height)  # SVG counts downward
        self.definitions: dict[str, str] = {}
        self._elements: list[tuple[str, str]] = []  # (attributes, path data), or (whole element, "")
        self._groups: list[str | None] = []  # the ids of artists that are being drawn
        self._image = ""

    def fragment(self, artists: Iterable[Artist], image: str = "") -> str:
        """What these artists draw now. Paths that look the same become one element.

        image: attributes for an image whose pixels are made in the browser: a canvas with them takes its place.
        """
        self._elements, self._image = [], image
        for artist in artists:
            artist.draw(self)
        written, last = [], ""
        for attributes, data in self._elements:
            if data and attributes == last:
                written[-1] = written[-1].removesuffix('"/>') + data + '"/>'
            else:
                written.append(f'<path {attributes} d="{data}"/>' if data else attributes)
            last = attributes if data else ""
        return "".join(written)

    # --- what matplotlib calls ---

    def draw_path(self, gc, path, transform, rgbFace=None) -> None:
        data = _path_data(path, transform + self.flip)
        if not data:
            return
        face = "none" if rgbFace is None else to_hex(rgbFace[:3])
        attributes = f'fill="{face}"'
        opacity = gc.get_alpha() if gc.get_forced_alpha() else (rgbFace[3] if rgbFace is not None else 1)
        if rgbFace is not None and len(rgbFace) == 4 and opacity < 1:
            attributes += f' fill-opacity="{opacity:.2g}"'
        if gc.get_linewidth() > 0 and gc.get_rgb()[3] > 0:
            attributes += self._stroke(gc)
        attributes += self._clip(gc)
        self._elements.append((attributes, data))
        if gc.get_hatch():
            self._elements.append((f'fill="url(#{self._hatch(gc)})"{self._clip(gc)}', data))

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None) -> None:
        if ismath:
            self._draw_text_as_path(gc, x, y, s, prop, angle, ismath)
            return
        anchor, share = ANCHORS[mtext.get_horizontalalignment() if mtext and not angle else "center"]
        along = share * self.get_text_width_height_descent(s, prop, False)[0]  # a browser's letters differ in width
        x, y = x + along * np.cos(np.radians(angle)), self.height - y - along * np.sin(np.radians(angle))
        size = self.points_to_pixels(prop.get_size_in_points())
        attributes = f'x="{_short(x)}" y="{_short(y)}" font-size="{_short(size)}" fill="{to_hex(gc.get_rgb()[:3])}"'
        attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
        attributes += ' font-weight="bold"' if prop.get_weight() in ("bold", 700) else ""
        attributes += ' font-family="monospace"' if "monospace" in prop.get_family() else ""
        attributes += f' transform="rotate({-angle:g} {_short(x)} {_short(y)})"' if angle else ""
        text = s.replace("&", "&amp;").replace("<", "&lt;")
        self._elements.append((f'<text {attributes} xml:space="preserve">{text}</text>', ""))

    def draw_image(self, gc, x, y, im, transform=None) -> None:
        """transform: from the unit square; with it come the numbers' own pixels, which a browser makes larger."""
        (height, width), pixels = im.shape[:2], im[::-1, :, :3]  # without one, its first row is the lowest
        if transform is not None:
            (left, first), (right, last) = (transform + Affine2D().translate(x, y)).transform([(0, 0), (1, 1)])
            (x, y, width, height), pixels = (left, min(first, last), right - left, abs(first - last)), im[..., :3]
            pixels = pixels if first > last else pixels[::-1]
        place = f'x="{_short(x)}" y="{_short(self.height - y - height)}" '
        place += f'width="{_short(width)}" height="{_short(height)}"'
        if self._image:
            self._elements.append((f"<foreignObject {place}><canvas {self._image}></canvas></foreignObject>", ""))
            return
        buffer = io.BytesIO()
        photograph = pixels.size > PHOTOGRAPH and len(np.unique(pixels)) > 128
        how = {"quality": 60} if photograph and transform is None else {"lossless": True}
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="webp", **how)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        place += ' preserveAspectRatio="none" image-rendering="pixelated"' if transform is not None else ""
        self._elements.append((f'<image {place}{self._clip(gc)} href="data:image/webp;base64,{data}"/>', ""))

    def open_group(self, s, gid=None) -> None:
        """gid: "here" for what a narrow screen must not lose sight of."""
        if gid:
            self._elements.append((f'<g class="{gid}">', ""))
        self._groups.append(gid)

    def close_group(self, s) -> None:
        if self._groups.pop():
            self._elements.append(("</g>", ""))

    def option_scale_image(self) -> bool:
        return True  # for an image with interpolation="none"

    def points_to_pixels(self, points):
        return points * self.dpi / 72

    def get_canvas_width_height(self):
        return self.width, self.height

    def flipy(self) -> bool:
        return False

    # --- parts of an element ---

    def _stroke(self, gc) -> str:
        color, width = gc.get_rgb(), self.points_to_pixels(gc.get_linewidth())
        attributes = f' stroke="{to_hex(color[:3])}" stroke-width="{_short(width)}"'
        attributes += f' stroke-opacity="{color[3]:.2g}"' if color[3] < 1 else ""
        dashes = gc.get_dashes()[1]
        if dashes is not None:
            attributes += f' stroke-dasharray="{" ".join(_short(self.points_to_pixels(dash)) for dash in dashes)}"'
        return attributes

    def _clip(self, gc) -> str:
        rectangle = gc.get_clip_rectangle()
        if rectangle is None:
            return ""
        return f' clip-path="url(#{self._define("c", _clip_path, rectangle.transformed(self.flip))})"'

    def _hatch(self, gc) -> str:
        color, width = to_hex(gc.get_hatch_color()[:3]), self.points_to_pixels(gc.get_hatch_linewidth())
        return self._define("h", _pattern, gc.get_hatch(), color, width)

    def _define(self, letter: str, write, *what) -> str:
        """The id of a definition, which is written once."""
        inner = write(*what)
        if inner not in self.definitions:
            self.definitions[inner] = f"{self.name}-{letter}{len(self.definitions)}"
        return self.definitions[inner]

    def written_definitions(self) -> str:
        return "".join(inner.replace("ID", name, 1) for inner, name in self.definitions.items())


def _clip_path(box: BboxBase) -> str:
    """box: in units already."""
    rectangle = f'x="{box.xmin:.0f}" y="{box.ymin:.0f}" width="{abs(box.width):.0f}" height="{abs(box.height):.0f}"'
    return f'<clipPath id="ID"><rect {rectangle}/></clipPath>'


@functools.cache
def _pattern(hatch: str, color: str, width: float) -> str:
    tile = Affine2D().scale(UNIT * HATCH_SIZE, -UNIT * HATCH_SIZE).translate(0, UNIT * HATCH_SIZE)
    data = _path_data(Path.hatch(hatch), tile)
    size = f'width="{_short(HATCH_SIZE)}" height="{_short(HATCH_SIZE)}"'
    look = f'fill="{color}" stroke="{color}" stroke-width="{_short(width)}"'
    return f'<pattern id="ID" patternUnits="userSpaceOnUse" {size}><path {look} d="{data}"/></pattern>'


def _path_data(path: Path, transform) -> str:
    """The path, each point told from the one before it; transform: to units."""
    clean = path.cleaned(transform, remove_nans=True, simplify=True, curves=True)
    points, codes = np.rint(clean.vertices).astype(int).tolist(), clean.codes.tolist()
    parts, here, place = [], [0, 0], 0
    while (code := codes[place]) != Path.STOP:
        count = Path.NUM_VERTICES_FOR_CODE[code]
        if code == Path.CLOSEPOLY:
            parts.append("Z")
        else:
            x, y = (0, 0) if code == Path.MOVETO else here
            numbers = " ".join([f"{point[0] - x} {point[1] - y}" for point in points[place : place + count]])
            parts.append(LETTERS[code] + numbers.replace(" -", "-"))
            here = points[place + count - 1]
        place += count
    return "".join(parts) if len(parts) > 1 else ""


def _short(number: float) -> str:
    """A number of pixels in units."""
    return str(round(UNIT * number))
