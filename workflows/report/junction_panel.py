"""One decision junction inside a figure: its scatter, and a card with three examples for each sub-cluster."""

from __future__ import annotations

from collections.abc import Sequence

from workflows.report.chain_view import JunctionView, OthersView, PictureView, SubclusterView
from workflows.report.lettering import LINE_HEIGHT, fit_text, short_name, text_width
from workflows.report.numbers import percent
from workflows.report.page import Page, pixels
from workflows.report.palette import GREY, LEAVES
from workflows.report.placement import Box
from workflows.report.scatter import OTHERS, colour_of
from workflows.report.thumbnails import CARD, blank, fitted

CARD_COLOUR = "#" + "".join(f"{channel:02x}" for channel in CARD)
EXAMPLES = 3
_NAME_SIZE, _TEXT_SIZE, _LABEL_SIZE = 7.0, 6.0, 5.0
_PADDING, _SPACE = 3.0, 3.0  # inside a card; between cards and between thumbnails
_FULL, _EMPTY, _STAR, _CROSS = "●", "○", "★", "×"


def cards_height(view: JunctionView, thumbnail: float) -> float:
    """Height in points of all cards of a junction."""
    others = _others_height() if view.others is not None else 0.0
    return len(view.subclusters) * (card_height(thumbnail) + _SPACE) + others


def card_height(thumbnail: float) -> float:
    """Height in points of one sub-cluster's card."""
    text = _NAME_SIZE * LINE_HEIGHT + 3 * _TEXT_SIZE * LINE_HEIGHT
    return max(text, thumbnail + _LABEL_SIZE * LINE_HEIGHT) + 2 * _PADDING


def thumbnail_for(height: float, views: Sequence[JunctionView], smallest: float, largest: float) -> float:
    """The largest thumbnail with which the tallest stack of cards is at most ``height`` high."""
    beside = _LABEL_SIZE * LINE_HEIGHT + 2 * _PADDING + _SPACE
    fits = [
        (height - (_others_height() if view.others is not None else 0.0)) / len(view.subclusters) - beside
        for view in views
        if view.subclusters
    ]
    return max(smallest, min([largest, *fits]))


def draw_cards(page: Page, box: Box, view: JunctionView, thumbnail: float, expected_name: str = "") -> None:
    """One card below the other; ``expected_name`` is the true class of the explained image."""
    y, height = box.y, card_height(thumbnail)
    for index, part in enumerate(view.subclusters):
        place = Box(box.x, y, box.width, height)
        page.card(place.x, place.y, place.width, place.height, CARD_COLOUR)
        full = view.image_point is None or part.taken
        _draw_words(page, place, part, colour_of(index), thumbnail, (full, _mark(view, part, expected_name)))
        _draw_examples(page, place, part.examples, thumbnail)
        y = place.bottom + _SPACE
    if view.others is not None:
        _draw_others(page, Box(box.x, y, box.width, _others_height()), view.others, view)


def draw_picture(page: Page, x: float, y: float, side: float, view: PictureView, kind: str) -> None:
    """A whole picture in a square."""
    shown = blank(pixels(side)) if view.picture is None else fitted(view.picture, pixels(side))[0]
    page.picture(x, y, shown, kind=kind)


def _draw_words(
    page: Page, card: Box, part: SubclusterView, colour: str, thumbnail: float, marks: tuple[bool, str]
) -> None:
    full, mark = marks
    x, y = card.x + _PADDING, card.y + _PADDING
    width = card.width - 3 * _PADDING - EXAMPLES * thumbnail - (EXAMPLES - 1) * _SPACE
    dot = text_width(_FULL, _NAME_SIZE) + 2
    page.text(x, y, _FULL if full else _EMPTY, _NAME_SIZE, color=colour, kind="key")
    name = fit_text(short_name(part.word.name), width - dot, _NAME_SIZE, bold=True)
    page.text(x + dot, y, name, _NAME_SIZE, bold=True, kind="sub-cluster")
    y += _NAME_SIZE * LINE_HEIGHT
    behind = percent(part.word.dominant_share)
    dominant = fit_text(short_name(part.word.dominant_class), width - text_width(" " + behind, _TEXT_SIZE), _TEXT_SIZE)
    lines = [
        (f"{percent(part.share)} · {part.members:,}", GREY, "share"),
        (f"{dominant} {behind}" if part.members else "no training image", "#1a1a1a", "dominant"),
        (_fitting_mark(mark, width), LEAVES if part.expected and not part.taken else "#1a1a1a", "mark"),
    ]
    for text, color, kind in lines:
        if text:
            page.text(x, y, fit_text(text, width, _TEXT_SIZE), _TEXT_SIZE, color=color, kind=kind)
        y += _TEXT_SIZE * LINE_HEIGHT


def _mark(view: JunctionView, part: SubclusterView, expected_name: str) -> str:
    errors = sum(error.word == part.word.word for error in view.errors)
    if errors:
        return f"{_CROSS} {errors} error{'' if errors == 1 else 's'}"
    if part.taken:
        return f"{_STAR} this image"
    return f"expected of {short_name(expected_name)}" if part.expected else ""


def _fitting_mark(mark: str, width: float) -> str:
    """Where the class's name does not fit, it is left out: the figure's heading has it."""
    shorter = mark.partition(" of ")[0] if mark.startswith("expected of ") else mark
    return mark if text_width(mark, _TEXT_SIZE) <= width else shorter


def _draw_examples(page: Page, card: Box, examples: Sequence[PictureView], side: float) -> None:
    first = card.right - _PADDING - EXAMPLES * side - (EXAMPLES - 1) * _SPACE
    for place, example in enumerate(examples):
        x, y = first + place * (side + _SPACE), card.y + _PADDING
        draw_picture(page, x, y, side, example, "example")
        label = fit_text(short_name(example.label), side, _LABEL_SIZE)
        page.text(x + side / 2, y + side, label, _LABEL_SIZE, align="center", kind="label")


def _others_height() -> float:
    return _TEXT_SIZE * LINE_HEIGHT + 2


def _draw_others(page: Page, box: Box, others: OthersView, view: JunctionView) -> None:
    kind = "classes" if view.subclusters and view.subclusters[0].word.is_class else "words"
    kind = kind if others.words != 1 else {"classes": "class", "words": "word"}[kind]
    text = f"{others.words} other {kind}, {percent(others.share)} of members"
    dot = text_width(_FULL, _TEXT_SIZE) + 2
    page.text(box.x + _PADDING, box.y, _FULL, _TEXT_SIZE, color=OTHERS, kind="key")
    text = fit_text(text, box.width - dot - 2 * _PADDING, _TEXT_SIZE)
    page.text(box.x + _PADDING + dot, box.y, text, _TEXT_SIZE, color=GREY, kind="others")
