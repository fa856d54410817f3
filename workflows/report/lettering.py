"""Text that is known to fit: widths from the font, shortening, wrapping, two names on a line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import LoadFlags

from workflows.report.numbers import frequency

FAMILY = "DejaVu Sans"  # shipped inside matplotlib: the same widths on every machine
LINE_HEIGHT = 1.2
"""Line height over font size; matplotlib's own text boxes are 1.16 high."""

ASCENT = 0.93
"""From the top of a line to its baseline, over font size."""

_ELLIPSIS = "…"
_UNKNOWN = "\ufffd"


@lru_cache(maxsize=2)
def font(bold: bool = False) -> FontProperties:
    """The one family that figures use."""
    return FontProperties(family=FAMILY, weight="bold" if bold else "normal")


@lru_cache(maxsize=8192)
def _advance(character: str, bold: bool) -> float | None:
    """Width of a character in em; None where the font has no such glyph."""
    face = get_font(findfont(font(bold)))
    if not face.get_char_index(ord(character)):
        return None
    face.set_size(100.0, 72.0)
    return float(face.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 100


def printable(text: str) -> str:
    """One line, with a replacement mark for every character that the font lacks (else matplotlib warns)."""
    return "".join(
        character if _advance(character, False) is not None and _advance(character, True) is not None else _UNKNOWN
        for character in " ".join(text.split())
    )


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width in points of a printable text at a font size in points."""
    return size * sum(_advance(character, bold) or 0.6 for character in text)


def short_name(name: str) -> str:
    """A class name without its synonyms: "sports car, sport car" is "sports car"."""
    first = name.partition(",")[0].strip()
    return printable(first or name)


def named_concept(concept: str | None, iou: float) -> str:
    """A concept with its IoU, never without: ``wheel .35``."""
    return "" if not concept else f"{short_name(concept)} {frequency(iou, long=False)}"


def fit_text(text: str, width: float, size: float, bold: bool = False, middle: bool = False) -> str:
    """Shorten a printable text with an ellipsis, at its end or in its middle, until it is at most ``width`` points."""
    if text_width(text, size, bold) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = kept // 2 if middle else kept
        tail = text[len(text) - (kept - head) :] if kept > head else ""
        shorter = text[:head].rstrip() + _ELLIPSIS + tail.lstrip()
        if text_width(shorter, size, bold) <= width:
            return shorter
    return _ELLIPSIS if text_width(_ELLIPSIS, size, bold) <= width else ""


def wrap_text(text: str, width: float, size: float) -> list[str]:
    """Break a printable text at spaces into lines of at most ``width`` points."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def longest(texts: Sequence[str], size: float, bold: bool = False) -> float:
    """Width in points of the widest text; 0 for none."""
    return max((text_width(text, size, bold) for text in texts), default=0.0)


def fit_pair(
    template: str, names: tuple[str, str], width: float, size: float, *, bold: bool = False, middle: bool = False
) -> str:
    """Fill a template's two ``{}`` with names that are shortened until the whole line is at most ``width`` points.

    Args:
        template: printable text with two ``{}``.
        names: printable; where one leaves room to the other, that one may be longer than half.
        width: in points.
        size: of the font, in points.
        bold: weight of the font.
        middle: shorten names in their middle, not at their end.
    """
    before, between, behind = template.split("{}")
    room = max(0.0, width - sum(text_width(part, size, bold) for part in (before, between, behind)))
    wanted = [text_width(name, size, bold) for name in names]
    first = room - wanted[1] if wanted[1] < room / 2 else min(wanted[0], room / 2)
    first = min(wanted[0], max(first, 0.0))
    shortened = [
        fit_text(name, share + 1e-6, size, bold, middle)
        for name, share in zip(names, (first, room - first), strict=True)
    ]
    return fit_text(f"{before}{shortened[0]}{between}{shortened[1]}{behind}", width, size, bold)
