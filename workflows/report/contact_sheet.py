"""A contact sheet: the units and words that detect a concept, each on the images that show it most, masks outlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from workflows.report.lettering import LINE_HEIGHT, fit_text, printable
from workflows.report.page import Page, pixels
from workflows.report.palette import ARROWS, GREY, LEAVES, rgb
from workflows.report.thumbnails import fitted

_WIDTH, _MARGIN, _GAP = 595.0, 22.0, 4.0  # points: the width of A4
_HEAD, _TEXT = 11.0, 7.5
_LINE = 1.2
"""Width of outlines in points."""


@dataclass(frozen=True, eq=False)
class SheetPicture:
    """An image with what is outlined on it, all in pixels of the network's input."""

    picture: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    concept: Bool[np.ndarray, "H W"]


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A unit or a word: what it is, its IoU, and its images."""

    title: str
    details: str
    pictures: tuple[SheetPicture, ...]


def draw_contact_sheet(
    heading: str, rows: Sequence[SheetRow], png: Path, svg: Path, *, concept: str, columns: int
) -> None:
    """Draw rows of pictures, each as wide as ``columns`` of them fit.

    Args:
        heading: of the page.
        rows: units, then words.
        png: written atomically.
        svg: written atomically.
        concept: its name, for the key.
        columns: pictures of a row at most.
    """
    side = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    line = _TEXT * LINE_HEIGHT
    top = _MARGIN + _HEAD * LINE_HEIGHT + 2 * line
    page = Page(_WIDTH, top + len(rows) * (side + line + 2 * _GAP) + _MARGIN)
    wide = _WIDTH - 2 * _MARGIN
    page.text(_MARGIN, _MARGIN, fit_text(printable(heading), wide, _HEAD, bold=True), _HEAD, bold=True, kind="heading")
    key = f"green: the mask of the unit or word; red: {concept} as annotated; strongest images first"
    page.text(_MARGIN, _MARGIN + _HEAD * LINE_HEIGHT + 2, fit_text(printable(key), wide, _TEXT), _TEXT, color=GREY)
    for place, row in enumerate(rows):
        y = top + place * (side + line + 2 * _GAP)
        title = fit_text(f"{printable(row.title)}   {printable(row.details)}", wide, _TEXT)
        page.text(_MARGIN, y, title, _TEXT, kind="title")
        for column, picture in enumerate(row.pictures[:columns]):
            shown = outlined(picture, pixels(side))
            page.picture(_MARGIN + column * (side + _GAP), y + line + 1, shown)
    page.save(png, svg)


def outlined(shown: SheetPicture, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The picture in a square of ``side`` pixels with both outlines; where they meet, the mask's lies above."""
    square, scale, left, top = fitted(shown.picture, side)
    width = max(1, pixels(_LINE))
    for mask, colour in ((shown.concept, LEAVES), (shown.mask, ARROWS["strong"])):
        line = _outline(_enlarged(mask, scale), width)
        height, long = line.shape
        square[top : top + height, left : left + long][line] = rgb(colour)
    return square


def _enlarged(mask: Bool[np.ndarray, "H W"], scale: float) -> Bool[np.ndarray, "h w"]:
    """As ``fitted`` scales its picture, by the nearest pixel."""
    rows, columns = (
        (2 * np.arange(max(1, round(length * scale))) + 1) * length // (2 * max(1, round(length * scale)))
        for length in mask.shape
    )
    return mask[rows[:, None], columns]


def _outline(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels of a mask within ``width`` of one outside it; the picture's edge is no border."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
