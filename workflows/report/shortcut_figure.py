"""The words of each class that look most like a shortcut: a row a class, each word on images that the class has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from workflows.report.lettering import LINE_HEIGHT, fit_text, printable, short_name
from workflows.report.page import Page, pixels
from workflows.report.palette import GREY
from workflows.report.thumbnails import dotted

_WIDTH, _MARGIN, _GAP, _APART = 595.0, 22.0, 3.0, 10.0  # points: the width of A4
_HEAD, _TITLE, _TEXT = 11.0, 8.0, 6.5
_USED, _NOT_USED = "#c0241c", GREY


@dataclass(frozen=True, eq=False)
class SuspectPicture:
    """An image, and the middles (x, y) of the word's columns on it, in its pixels."""

    picture: UInt8[np.ndarray, "H W 3"]
    dots: Float[np.ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class Suspect:
    """A word. used: None where nothing is usual. details: a line below its name."""

    title: str
    used: bool | None
    details: str
    pictures: tuple[SuspectPicture, ...]


@dataclass(frozen=True, eq=False)
class ClassSuspects:
    """A class with its first words."""

    class_name: str
    words: tuple[Suspect, ...]


def draw_shortcut_figure(
    classes: Sequence[ClassSuspects],
    png: Path,
    svg: Path,
    *,
    network: str,
    words: int,
    pictures: int,
    left_out: int = 0,
) -> None:
    """Draw the classes below each other.

    Args:
        classes: in the order to show them.
        png: written atomically.
        svg: written atomically.
        network: name of the run.
        words: a class, at most.
        pictures: a word, at most.
        left_out: classes that there is no room for.
    """
    wide = (_WIDTH - 2 * _MARGIN - (words - 1) * _APART) / words
    side = (wide - (pictures - 1) * _GAP) / pictures
    line = _TEXT * LINE_HEIGHT
    each = _TITLE * LINE_HEIGHT + 2 * line + side + 2 + _APART
    top = _MARGIN + _HEAD * LINE_HEIGHT + 2 * line + 6
    page = Page(_WIDTH, top + len(classes) * each + _MARGIN - _APART)
    _headings(page, network, left_out)
    for place, one in enumerate(classes):
        y = top + place * each
        name = fit_text(short_name(one.class_name), _WIDTH - 2 * _MARGIN, _TITLE, bold=True)
        page.text(_MARGIN, y, name, _TITLE, bold=True, kind="class")
        for column, word in enumerate(one.words[:words]):
            _draw_word(page, word, _MARGIN + column * (wide + _APART), y + _TITLE * LINE_HEIGHT, wide, side, pictures)
    page.save(png, svg)


def _headings(page: Page, network: str, left_out: int) -> None:
    room = _WIDTH - 2 * _MARGIN
    heading = f"{printable(network)}: words that look like shortcuts"
    page.text(_MARGIN, _MARGIN, fit_text(heading, room, _HEAD, bold=True), _HEAD, bold=True, kind="heading")
    under = "Images predicted as the class that have most of the word; dots: its columns. Below: images of the class"
    more = f"; {left_out} more classes in the table" if left_out else ""
    second = f"that have it, and others; how fixed its place is (0 fixed, 1 anywhere); drop without it, control{more}"
    y = _MARGIN + _HEAD * LINE_HEIGHT + 2
    for place, text in enumerate((under, second)):
        page.text(_MARGIN, y + place * _TEXT * LINE_HEIGHT, fit_text(text, room, _TEXT), _TEXT, color=GREY)


def _draw_word(page: Page, word: Suspect, x: float, y: float, wide: float, side: float, pictures: int) -> None:
    verdict = "" if word.used is None else " · used" if word.used else " · not used"
    title = fit_text(f"{printable(word.title)}{verdict}", wide, _TEXT, bold=True)
    page.text(x, y, title, _TEXT, bold=True, color=_USED if word.used else _NOT_USED, kind="title")
    line = _TEXT * LINE_HEIGHT
    page.text(x, y + line, fit_text(printable(word.details), wide, _TEXT), _TEXT)
    for column, one in enumerate(word.pictures[:pictures]):
        page.picture(x + column * (side + _GAP), y + 2 * line + 1, dotted(one.picture, one.dots, pixels(side)))
