"""Where everything of a transition graph goes: boxes in points from the page's top left corner, nothing drawn yet.

One row for each layer, the prediction on top. A word has a card whose width grows with its share of the images; a
step is as wide as its share, on the same scale, and the steps of a word stand side by side on its card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflows.report.lettering import LINE_HEIGHT
from workflows.report.ordering import order_layers
from workflows.report.page_sizes import A4_HEIGHT, A4_WIDTH, MARGIN, PADDING
from workflows.report.placement import Box
from workflows.report.transition_view import MOST_PICTURES, PassedWord, Step, TransitionView

GUTTER = 62.0
"""Left of the words: the layer's name."""

THUMBNAIL = 26.0
TEXT_SIZE = 6.0
BAR = 5.0
"""Height of the coloured bar on top of a card."""

_NARROWEST = THUMBNAIL + 2 * PADDING + 2
_CARD_SPACE = 4.0
_LEAST_SCALE, _LARGEST_SCALE = 150.0, 300.0  # points for all images; the page widens sooner
_LEAST_GAP, _LARGEST_GAP = 40.0, 92.0  # height in which steps bend and cross
_THINNEST = 0.7  # points


@dataclass(frozen=True)
class WordPlace:
    """A card, the bar on top whose length is the word's share, and a box for each thumbnail."""

    word: PassedWord
    card: Box
    bar: Box
    thumbnails: tuple[Box, ...]


@dataclass(frozen=True)
class StepPlace:
    """A step from (x, start), the top of the lower card, to (end_x, end), the bottom of the upper one."""

    step: Step
    x: float
    start: float
    end_x: float
    end: float
    width: float


@dataclass(frozen=True)
class TransitionPlan:
    """A whole page; ``rows[l]`` are the cards of layer l, lowest first, from left to right."""

    width: float
    height: float
    rows: tuple[tuple[WordPlace, ...], ...]
    steps: tuple[StepPlace, ...]
    legend_top: float


def text_lines(is_output: bool) -> int:
    """Lines of text on a card: word, share of the images, dominant class and its share; or class and share."""
    return 2 if is_output else 4


def plan_transitions(view: TransitionView, header: float, legend: float) -> TransitionPlan:
    """Place a transition graph on a page: A4, or wider where the words need it.

    Args:
        view: the graph.
        header: height of the heading in points.
        legend: height of the legend in points.
    """
    orders = _orders(view)
    scale, width = _scale(view)
    heights = [_card_height(level == len(view.layers) - 1) for level in range(len(view.layers))]
    left = A4_HEIGHT - 2 * MARGIN - header - legend - sum(heights)
    gap = min(max(left / max(len(heights) - 1, 1), _LEAST_GAP), _LARGEST_GAP)
    rows: list[tuple[WordPlace, ...]] = []
    y = MARGIN + header
    for level in reversed(range(len(view.layers))):
        rows.append(_row(view, orders[level], Box(MARGIN + GUTTER, y, width, heights[level]), scale))
        y += heights[level] + gap
    rows.reverse()
    bottom = y - gap
    steps = tuple(place for level in range(len(rows) - 1) for place in _steps(view, rows, level, scale))
    return TransitionPlan(GUTTER + width + 2 * MARGIN, bottom + legend + MARGIN, tuple(rows), steps, bottom)


def _orders(view: TransitionView) -> list[list[PassedWord]]:
    """Words of each layer from left to right, so that few steps cross."""
    downwards = [[word.word for word in layer.words] for layer in reversed(view.layers)]
    drawn: list[list[tuple[int, int]]] = []
    for level in reversed(range(len(view.steps))):
        drawn.append([(step.upper, step.lower) for step in view.steps[level]])
    found = order_layers(downwards, drawn)
    by_number = [{word.word: word for word in layer.words} for layer in view.layers]
    return [[words[word] for word in order] for words, order in zip(by_number, reversed(found), strict=True)]


def _scale(view: TransitionView) -> tuple[float, float]:
    """Points for all images of the class, the largest that fits A4; and the width of the rows."""
    room = A4_WIDTH - 2 * MARGIN - GUTTER
    low, high = _LEAST_SCALE, _LARGEST_SCALE
    if _widest(view, low) > room:
        return low, _widest(view, low)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _widest(view, middle) <= room else (low, middle)
    return low, room


def _widest(view: TransitionView, scale: float) -> float:
    rows = ([_card_width(word, view.images, scale) for word in layer.words] for layer in view.layers)
    return max(sum(widths) + _CARD_SPACE * (len(widths) - 1) for widths in rows)


def _card_width(word: PassedWord, images: int, scale: float) -> float:
    return max(_NARROWEST, word.images / images * scale + 2 * PADDING)


def _card_height(is_output: bool) -> float:
    return BAR + 2 + text_lines(is_output) * TEXT_SIZE * LINE_HEIGHT + THUMBNAIL + 2 * PADDING


def _row(view: TransitionView, words: Sequence[PassedWord], box: Box, scale: float) -> tuple[WordPlace, ...]:
    widths = [_card_width(word, view.images, scale) for word in words]
    # What is left goes between the cards, but not so much that a row of two stands at both ends of the page.
    space = min((box.width - sum(widths)) / len(words), 34.0) if words else 0.0
    x = box.x + (box.width - sum(widths) - space * (len(words) - 1)) / 2
    places = []
    for word, width in zip(words, widths, strict=True):
        card = Box(x, box.y, width, box.height)
        length = word.images / view.images * scale
        bar = Box(card.middle - length / 2, card.y, length, BAR)
        places.append(WordPlace(word, card, bar, _thumbnails(word, card)))
        x += width + space
    return tuple(places)


def _thumbnails(word: PassedWord, card: Box) -> tuple[Box, ...]:
    """As many as stand side by side at the card's lower end."""
    room = int((card.width - 2 * PADDING + PADDING) // (THUMBNAIL + PADDING))
    count = min(len(word.pictures), max(1, room), MOST_PICTURES)
    left = card.middle - (count * THUMBNAIL + (count - 1) * PADDING) / 2
    top = card.bottom - PADDING - THUMBNAIL
    return tuple(Box(left + i * (THUMBNAIL + PADDING), top, THUMBNAIL, THUMBNAIL) for i in range(count))


def _steps(view: TransitionView, rows: Sequence[Sequence[WordPlace]], level: int, scale: float) -> list[StepPlace]:
    """Steps from one row to the row above it; on every card in the order of their other ends."""
    below, above = _by_word(rows[level]), _by_word(rows[level + 1])
    steps = view.steps[level]
    widths = [max(step.images / view.images * scale, _THINNEST) for step in steps]
    starts = _ports([(step.lower, step.upper) for step in steps], widths, below, above)
    ends = _ports([(step.upper, step.lower) for step in steps], widths, above, below)
    return [
        StepPlace(step, x, below[step.lower].card.y, end_x, above[step.upper].card.bottom, width)
        for step, x, end_x, width in zip(steps, starts, ends, widths, strict=True)
    ]


def _by_word(row: Sequence[WordPlace]) -> dict[int, WordPlace]:
    return {place.word.word: place for place in row}


def _ports(
    ends: Sequence[tuple[int, int]],
    widths: Sequence[float],
    own: Mapping[int, WordPlace],
    other: Mapping[int, WordPlace],
) -> list[float]:
    """Middle of each step on the card of its first end."""
    places = [0.0] * len(ends)
    for word, place in own.items():
        mine = sorted((i for i, end in enumerate(ends) if end[0] == word), key=lambda i: other[ends[i][1]].card.middle)
        x = place.card.middle - sum(widths[i] for i in mine) / 2
        for i in mine:
            places[i] = x + widths[i] / 2
            x += widths[i]
    return places
