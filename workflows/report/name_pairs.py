"""A line with two names of unknown length: the names give way, the rest of the line stays."""

from __future__ import annotations

from workflows.report.lettering import fit_text, text_width


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
