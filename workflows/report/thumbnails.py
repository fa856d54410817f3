"""Small pictures in device pixels: exemplars with rectangles, patches, dotted images, heat maps.

Everything here is drawn pixel by pixel at its final size, so that nothing is resampled (and blurred) later.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps
from PIL import Image

from workflows.report.graph_view import ExemplarView

PAPER = (255, 255, 255)
CARD = (243, 244, 246)
RED = (230, 25, 25)
_FRAME = (120, 124, 130)
_NO_PICTURE = (222, 224, 228)
_FADED = 0.45  # how much white covers a repeated exemplar

Picture = UInt8[np.ndarray, "H W 3"]

Shape: TypeAlias = Literal["whole", "rectangle", "patch"]
"""The whole image, the image with the receptive field's rectangle, or the receptive field itself."""


def fitted(picture: Picture, side: int) -> tuple[Picture, float, int, int]:
    """Scale a picture into a square of ``side`` pixels, its shape kept, the rest in the card's colour.

    Enlarging repeats pixels (never interpolates); reducing averages.

    Returns:
        The square, the scale, and the column and row where the picture starts in it.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if scale >= 1:
        rows = np.arange(new_height) * height // new_height
        columns = np.arange(new_width) * width // new_width
        scaled = picture[rows[:, None], columns[None, :]]
    else:
        scaled = np.asarray(Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BOX))
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = CARD
    top, left = (side - new_height) // 2, (side - new_width) // 2
    square[top : top + new_height, left : left + new_width] = scaled
    return square, scale, left, top


def thumbnail(exemplar: ExemplarView, side: int, shape: Shape) -> Picture:
    """One exemplar in a square of ``side`` pixels; repeats are faded."""
    if exemplar.picture is None:
        square = blank(side)
    elif shape == "whole":
        square = fitted(exemplar.picture, side)[0]
    elif shape == "patch":
        square = fitted(cropped(exemplar.picture, exemplar.rectangle), side)[0]
    else:
        square, scale, left, top = fitted(exemplar.picture, side)
        x0, y0, x1, y1 = clipped(exemplar.rectangle, exemplar.picture)
        frame = (left + x0 * scale, top + y0 * scale, left + x1 * scale, top + y1 * scale)
        _draw_rectangle(square, frame)
    if exemplar.repeated:
        square = np.rint(square * (1 - _FADED) + 255 * _FADED).astype(np.uint8)
    return square


def blank(side: int) -> Picture:
    """A grey square where no picture was saved."""
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = _NO_PICTURE
    return square


def clipped(rectangle: tuple[int, int, int, int], picture: Picture) -> tuple[int, int, int, int]:
    """The part of a rectangle inside the picture, at least one pixel: all of it if the rectangle covers it."""
    height, width = picture.shape[:2]
    x0, y0 = min(max(rectangle[0], 0), width - 1), min(max(rectangle[1], 0), height - 1)
    x1, y1 = max(min(rectangle[2], width), x0 + 1), max(min(rectangle[3], height), y0 + 1)
    return x0, y0, x1, y1


def cropped(picture: Picture, rectangle: tuple[int, int, int, int]) -> Picture:
    """The pixels of a receptive field, without what lies outside the picture."""
    x0, y0, x1, y1 = clipped(rectangle, picture)
    return picture[y0:y1, x0:x1]


def dotted(picture: Picture, dots: Float[np.ndarray, "n 2"], side: int) -> Picture:
    """The image with a red dot at each (x, y) position; dots shrink when they lie close together."""
    square, scale, left, top = fitted(picture, side)
    if not len(dots):
        return square
    points = np.asarray(dots, dtype=np.float64) * scale + (left, top)
    radius = float(np.clip(0.3 * _spacing(points), 1.2, side / 22))
    ring = 1.0 if radius > 2.5 else 0.0
    reach = int(np.ceil(radius + ring)) + 1
    inside = np.zeros((side, side), dtype=np.float64)
    halo = np.zeros((side, side), dtype=np.float64)
    for x, y in points:
        x0, x1 = max(int(x) - reach, 0), min(int(x) + reach + 1, side)
        y0, y1 = max(int(y) - reach, 0), min(int(y) + reach + 1, side)
        distance = np.hypot(np.arange(y0, y1)[:, None] + 0.5 - y, np.arange(x0, x1)[None, :] + 0.5 - x)
        inside[y0:y1, x0:x1] = np.maximum(inside[y0:y1, x0:x1], np.clip(radius + 0.5 - distance, 0, 1))
        halo[y0:y1, x0:x1] = np.maximum(halo[y0:y1, x0:x1], np.clip(radius + ring + 0.5 - distance, 0, 1))
    mixed = square * (1 - halo[..., None]) + 255 * halo[..., None] if ring else square.astype(np.float64)
    mixed = mixed * (1 - inside[..., None]) + np.array(RED) * inside[..., None]
    return np.rint(mixed).astype(np.uint8)


def heat_map(heat: Float[np.ndarray, "H W"], side: int) -> UInt8[np.ndarray, "side_rows side_columns 3"]:
    """A framed heat map, its longer side ``side`` pixels: black never, bright as often as anywhere; grey no data."""
    known: Bool[np.ndarray, "H W"] = np.isfinite(heat)
    highest = float(heat[known].max()) if known.any() else 0.0
    level = np.where(known, heat, 0.0) / highest if highest > 0 else np.zeros_like(heat)
    colours = np.rint(colormaps["inferno"](level)[..., :3] * 255).astype(np.uint8)
    colours[~known] = _NO_PICTURE
    height, width = heat.shape
    scale = (side - 2) / max(height, width)
    if scale >= 4:
        scale = float(int(scale))  # equal cells; costs at most a fifth of the size
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    if scale >= 1:
        rows, columns = np.arange(inner[0]) * height // inner[0], np.arange(inner[1]) * width // inner[1]
        scaled = colours[rows[:, None], columns[None, :]]
    else:
        scaled = np.asarray(Image.fromarray(colours).resize((inner[1], inner[0]), Image.Resampling.BOX))
    framed = np.empty((inner[0] + 2, inner[1] + 2, 3), dtype=np.uint8)
    framed[:] = _FRAME
    framed[1:-1, 1:-1] = scaled
    return framed


def _spacing(points: Float[np.ndarray, "n 2"]) -> float:
    """The smallest distance between two different columns or rows of dots (infinite for a single one)."""
    gaps = [np.diff(np.unique(np.round(points[:, axis], 3))) for axis in (0, 1)]
    return float(min((gap.min() for gap in gaps if len(gap)), default=np.inf))


def _draw_rectangle(square: Picture, frame: tuple[float, float, float, float]) -> None:
    """Two pixels of red with one pixel of white outside where it fits."""
    side = square.shape[0]
    x0, y0 = max(round(frame[0]), 0), max(round(frame[1]), 0)
    x1, y1 = min(max(round(frame[2]), x0 + 5), side), min(max(round(frame[3]), y0 + 5), side)
    x0, y0 = max(min(x0, x1 - 5), 0), max(min(y0, y1 - 5), 0)
    _outline(square, (x0 - 1, y0 - 1, x1 + 1, y1 + 1), PAPER)
    _outline(square, (x0, y0, x1, y1), RED)
    _outline(square, (x0 + 1, y0 + 1, x1 - 1, y1 - 1), RED)


def _outline(square: Picture, frame: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    """One-pixel rectangle, half open; sides outside the square are left away."""
    side = square.shape[0]
    x0, y0, x1, y1 = frame
    rows, columns = slice(max(y0, 0), min(y1, side)), slice(max(x0, 0), min(x1, side))
    for y in (y0, y1 - 1):
        if 0 <= y < side:
            square[y, columns] = colour
    for x in (x0, x1 - 1):
        if 0 <= x < side:
            square[rows, x] = colour
