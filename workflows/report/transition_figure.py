"""The figure of a class's transition graph: words of all layers, and the steps that the class's images take."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workflows.report.lettering import LINE_HEIGHT, fit_text, printable, short_name, text_width, wrap_text
from workflows.report.numbers import percent
from workflows.report.page import Page, pixels
from workflows.report.page_sizes import A4_WIDTH, MARGIN, PADDING
from workflows.report.palette import GREY, class_colour
from workflows.report.placement import Box
from workflows.report.thumbnails import CARD, fitted
from workflows.report.transition_places import (
    GUTTER,
    TEXT_SIZE,
    StepPlace,
    TransitionPlan,
    WordPlace,
    plan_transitions,
)
from workflows.report.transition_view import LEAST_ALONE, LEAST_SHARE, TransitionView

TAKEN, PARTLY_WRONG, ONLY_WRONG = "#aab2bc", "#e2746d", "#c40d0d"
"""Colours of a step, of the part of it that misclassified images take, and of a step that no other image takes."""

_CARD_COLOUR = "#" + "".join(f"{channel:02x}" for channel in CARD)
_HEADING_SIZE, _DETAIL_SIZE, _LEGEND_SIZE = 12.0, 7.5, 6.5
_HEADER = _HEADING_SIZE * LINE_HEIGHT + _DETAIL_SIZE * LINE_HEIGHT + 12
_LINE = _LEGEND_SIZE * LINE_HEIGHT
_BORDER = 0.9  # white on both sides, which keeps crossing steps apart
_POINTS = 24  # of each side of a step
_LEANING = 7.0  # points that a leaning step may be wider, sideways


def draw_transition_graph(view: TransitionView, png: Path, svg: Path) -> None:
    """Draw the transition graph of a class and write both files."""
    transition_page(view).save(png, svg)


def transition_page(view: TransitionView) -> Page:
    """The page, drawn and not yet saved."""
    lines = _explanation(view)
    plan = plan_transitions(view, _HEADER, (len(lines) + 1) * _LINE + 12)
    page = Page(plan.width, plan.height)
    _draw_header(page, plan, view)
    _draw_steps(page, plan)
    for level, row in enumerate(plan.rows):
        _draw_gutter(page, view, level, row[0].card)
        for place in row:
            _draw_word(page, view, place, is_output=level == len(plan.rows) - 1)
    _draw_legend(page, plan, lines)
    return page


def _draw_header(page: Page, plan: TransitionPlan, view: TransitionView) -> None:
    width, name = plan.width - 2 * MARGIN, short_name(view.class_names[view.label])
    heading = fit_text(f"Transition graph of class {name}", width, _HEADING_SIZE, bold=True)
    page.text(MARGIN, MARGIN, heading, _HEADING_SIZE, bold=True, kind="heading")
    counts = f"{view.images} validation images of the class: {view.images - view.wrong} classified as {name}, "
    details = f"{printable(view.network)} · scope {printable(view.scope)} · {counts}{view.wrong} not"
    top = MARGIN + _HEADING_SIZE * LINE_HEIGHT + 1
    page.text(MARGIN, top, fit_text(details, width, _DETAIL_SIZE), _DETAIL_SIZE, color=GREY, kind="heading")


def _draw_gutter(page: Page, view: TransitionView, level: int, card: Box) -> None:
    """Name of the layer, and what is not drawn of it."""
    layer = view.layers[level]
    title = fit_text(printable(layer.title), GUTTER - 4, TEXT_SIZE + 1, bold=True, middle=True)
    page.text(MARGIN, card.y + 2, title, TEXT_SIZE + 1, bold=True, kind="layer")
    kind = "classes" if level == len(view.layers) - 1 else "words"
    lines = [f"{len(layer.words)} of {len(layer.words) + layer.other_words} {kind}"]
    if layer.other_words:
        lines.append(f"{percent(layer.other_images / view.images)} in others")
    for index, line in enumerate(lines):
        top = card.y + 2 + (TEXT_SIZE + 1) * LINE_HEIGHT + index * (TEXT_SIZE - 0.5) * LINE_HEIGHT
        page.text(MARGIN, top, fit_text(line, GUTTER - 4, TEXT_SIZE - 0.5), TEXT_SIZE - 0.5, color=GREY, kind="layer")


def _draw_word(page: Page, view: TransitionView, place: WordPlace, *, is_output: bool) -> None:
    word, card = place.word, place.card
    page.card(card.x, card.y, card.width, card.height, _CARD_COLOUR)
    label = word.word if is_output else word.dominant_class
    bar = place.bar
    corners = [(bar.x, bar.y), (bar.right, bar.y), (bar.right, bar.bottom), (bar.x, bar.bottom)]
    page.polygon(corners, class_colour(label, len(view.class_names)), kind="bar")
    share = percent(word.images / view.images)
    if is_output:
        colour = "#1a1a1a" if word.word == view.label else ONLY_WRONG
        lines = [(short_name(view.class_names[word.word]), True, colour), (share, False, "#1a1a1a")]
    else:
        dominant = "–" if label is None else short_name(view.class_names[label])
        lines = [(f"word {word.word}", True, "#1a1a1a"), (share, False, "#1a1a1a"), (dominant, False, GREY)]
        lines.append((percent(word.dominant_share), False, GREY))
    top = bar.bottom + 2
    for index, (text, bold, colour) in enumerate(lines):
        shown = fit_text(text, card.width - PADDING, TEXT_SIZE, bold)
        y = top + index * TEXT_SIZE * LINE_HEIGHT
        page.text(card.middle, y, shown, TEXT_SIZE, align="center", bold=bold, color=colour, kind="title")
    for box, picture in zip(place.thumbnails, word.pictures, strict=False):
        page.picture(box.x, box.y, fitted(picture, pixels(box.width))[0], kind="thumbnail")


def _draw_steps(page: Page, plan: TransitionPlan) -> None:
    """Wide ones first; those that only errors take on top."""
    order = sorted(plan.steps, key=lambda place: (place.step.wrong == place.step.images, -place.width))
    for place in order:
        step = place.step
        page.polygon(_ribbon(place, place.width + 2 * _BORDER), "white", kind="border")
        only = step.wrong == step.images
        page.polygon(_ribbon(place, place.width), ONLY_WRONG if only else TAKEN, kind="step")
        if step.wrong and not only:
            page.polygon(_ribbon(place, place.width * step.wrong / step.images), PARTLY_WRONG, kind="wrong part")


def _ribbon(place: StepPlace, width: float) -> list[tuple[float, float]]:
    """Outline of a curve that is ``width`` wide and upright at both ends.

    Its sides are moved sideways, so that it meets the cards in a straight edge, and further apart where it leans, so
    that it does not grow thin; but by no more than keeps it off its neighbours.
    """
    t = np.linspace(0.0, 1.0, _POINTS)
    middle = (place.start + place.end) / 2
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x = weights.T @ np.array([place.x, place.x, place.end_x, place.end_x])
    y = weights.T @ np.array([place.start, middle, middle, place.end])
    slopes = np.stack([np.gradient(x), np.gradient(y)])
    slopes[0, [0, -1]] = 0.0
    wider = width * (np.hypot(*slopes) / np.abs(slopes[1]) - 1)
    half = (width + _LEANING * np.tanh(wider / _LEANING)) / 2
    left, right = zip(x - half, y, strict=True), zip((x + half)[::-1], y[::-1], strict=True)
    return [(float(a), float(b)) for a, b in (*left, *right)]


def _draw_legend(page: Page, plan: TransitionPlan, lines: list[str]) -> None:
    """Sample steps in the first line, sentences below."""
    x, y = MARGIN, plan.legend_top + 10
    samples = (
        (TAKEN, None, "taken by rightly classified images"),
        (TAKEN, PARTLY_WRONG, "red inside: part of its images that are misclassified"),
        (ONLY_WRONG, None, "taken by misclassified images only"),
    )
    for outer, inner, text in samples:
        for colour, height in ((outer, 6.0), (inner, 2.4)):
            if colour is not None:
                top = y + (_LINE - height) / 2
                page.polygon([(x, top), (x + 18, top), (x + 18, top + height), (x, top + height)], colour, "sample")
        page.text(x + 22, y, text, _LEGEND_SIZE, kind="legend")
        x += 22 + text_width(text, _LEGEND_SIZE) + 14
    for index, line in enumerate(lines, start=1):
        page.text(MARGIN, y + index * _LINE + 2, line, _LEGEND_SIZE, color=GREY, kind="legend")


def _explanation(view: TransitionView) -> list[str]:
    name = short_name(view.class_names[view.label])
    every = view.images * max(len(view.steps), 1)
    text = (
        f"Most probable paths of the images of class {name}, from the lowest layer at the bottom to the prediction. "
        "On a card: the word, the share of the class's images that pass it (also the length of the bar), and the most "
        "frequent class of its training images (also the bar's colour) with its share. Pictures: its most typical "
        "training images. Width of a step: share of the class's images. "
        f"Not drawn: steps of under {percent(LEAST_SHARE)} of the images, in all {percent(view.other_steps / every)} "
        f"of the steps, and words of under {percent(LEAST_ALONE)} where no drawn step begins or ends."
    )
    return wrap_text(text, A4_WIDTH - 2 * MARGIN, _LEGEND_SIZE)
