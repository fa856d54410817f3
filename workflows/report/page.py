"""A page on which things are drawn in points from its top left corner, saved as PNG and SVG.

No pyplot and no axes: a page belongs to the thread that made it. Pictures go to their device pixels unresampled.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox
from PIL import Image

from workflows.report.lettering import ASCENT, font
from workflows.storage.atomic import write_bytes

DPI = 200
"""Device pixels per inch: A4 is 1654 x 2339 pixels."""

_DASHES = (0, (4.0, 2.5))
"""Of a dashed line, in widths of the line."""

_SVG_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and is escaped
    "svg.hashsalt": "inference-graphs",  # else ids are random and no two files are equal
    "svg.image_inline": True,
    "savefig.bbox": None,
}
_SVG_LOCK = threading.Lock()  # the SVG settings are global in matplotlib


def pixels(points: float) -> int:
    """Device pixels of a length in points."""
    return round(points * DPI / 72)


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG at its own resolution; the same figure gives the same bytes."""
    _take_literally(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    picture.save(buffer, "PNG", dpi=(figure.dpi, figure.dpi), compress_level=4)
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """A figure as SVG with text as text and without a date; the same figure gives the same bytes."""
    _take_literally(figure)
    buffer = io.BytesIO()
    with _SVG_LOCK, matplotlib.rc_context(_SVG_SETTINGS):
        figure.savefig(buffer, format="svg", dpi=figure.dpi, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _take_literally(figure: Figure) -> None:
    """Names of classes, parts, layers and runs come from users: two dollar signs in them are no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


class Raster(Artist):
    """A picture at fixed device pixels; ``x, y`` is its top left corner in device pixels of the page."""

    def __init__(self, picture: UInt8[np.ndarray, "H W 3"], x: int, y: int, page_height: int) -> None:
        super().__init__()
        height, width = picture.shape[:2]
        opaque = np.full((height, width, 4), 255, dtype=np.uint8)
        opaque[..., :3] = picture
        self._upwards = np.ascontiguousarray(opaque[::-1])  # renderers count rows from the bottom
        self._box = (x, page_height - y - height, width, height)

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """Bounding box in device pixels, from the page's bottom left corner."""
        x, y, width, height = self._box
        return Bbox.from_bounds(x, y, width, height)

    def draw(self, renderer: Any) -> None:
        """Hand the pixels to the renderer."""
        x, y, width, height = self._box
        context = renderer.new_gc()
        if renderer.option_scale_image():  # SVG: 72 units an inch, edges kept crisp when zoomed
            unit = 72 / DPI
            scale = Affine2D().scale(width * unit, height * unit)
            renderer.draw_image(context, x * unit, y * unit, self._upwards, scale)
        else:
            renderer.draw_image(context, x, y, self._upwards)
        context.restore()


class Page:
    """An empty white page of a size in points."""

    def __init__(self, width: float, height: float) -> None:
        # Whole device pixels, so that pictures meet the pixel grid.
        self.width_pixels, self.height_pixels = pixels(width), pixels(height)
        self.figure = Figure(figsize=(self.width_pixels / DPI, self.height_pixels / DPI), dpi=DPI, facecolor="white")
        inch = Affine2D().scale(1 / 72, -1 / 72).translate(0, self.height_pixels / DPI)
        self._points = inch + self.figure.dpi_scale_trans

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        align: str = "left",
        bold: bool = False,
        color: str = "#1a1a1a",
        kind: str = "text",
    ) -> None:
        """A line of text whose top is at ``y``; ``kind`` says what it is (read by tests)."""
        written = Text(
            x,
            y + ASCENT * size,
            text,
            fontproperties=font(bold),
            size=size,
            color=color,
            ha=align,
            va="baseline",
            transform=self._points,
            parse_math=False,
            usetex=False,
        )
        self._add(written, kind, 4)

    def picture(self, x: float, y: float, picture: UInt8[np.ndarray, "H W 3"], kind: str = "picture") -> None:
        """A picture at device resolution, its top left corner at the pixel nearest to (x, y)."""
        self._add(Raster(picture, pixels(x), pixels(y), self.height_pixels), kind, 3)

    def card(self, x: float, y: float, width: float, height: float, color: str, edge: str = "none") -> None:
        """A filled rectangle with slightly rounded corners; ``edge``: colour of a dashed frame."""
        patch = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=2.5")
        patch.set(facecolor=color, edgecolor=edge, linestyle=_DASHES, linewidth=0.8, transform=self._points)
        self._add(patch, "card", 1)

    def curve(self, outline: Outline, color: str, width: float, kind: str = "arrow", dashed: bool = False) -> None:
        """An open line with a white border that keeps crossing lines apart."""
        for colour, line, style in (("white", width + 1.8, "-"), (color, width, _DASHES if dashed else "-")):
            patch = PathPatch(outline, facecolor="none", edgecolor=colour, linewidth=line, transform=self._points)
            patch.set_linestyle(style)
            patch.set_capstyle("butt")
            self._add(patch, kind, 2)

    def polygon(self, points: Sequence[tuple[float, float]], color: str, kind: str = "head") -> None:
        """A filled polygon."""
        outline = Outline([*points, points[0]], closed=True)
        self._add(PathPatch(outline, facecolor=color, edgecolor="none", transform=self._points), kind, 2)

    def save(self, png: Path, svg: Path) -> None:
        """Write both files, each atomically; the same page gives the same bytes."""
        write_bytes(png, self.png())
        write_bytes(svg, self.svg())

    def png(self) -> bytes:
        """The page as PNG at ``DPI``."""
        return png_bytes(self.figure)

    def svg(self) -> bytes:
        """The page as SVG, without a date."""
        return svg_bytes(self.figure)

    def boxes(self) -> list[tuple[str, str, Bbox]]:
        """Kind, text and bounding box in device pixels (from the bottom left) of every text and picture."""
        renderer = FigureCanvasAgg(self.figure).get_renderer()
        return [
            (str(artist.get_label()), getattr(artist, "get_text", str)(), artist.get_window_extent(renderer))
            for artist in self.figure.get_children()
            if isinstance(artist, Text | Raster)
        ]

    def _add(self, artist: Artist, kind: str, order: int) -> None:
        artist.set_label(kind)
        artist.set_zorder(order)
        self.figure.add_artist(artist)
