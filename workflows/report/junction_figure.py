"""The figure of a decision junction (IG Fig. 3): where the training images of one word go next, and what errs there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workflows.report.chain_view import ErrorView, Explained, JunctionView
from workflows.report.junction_members import ERROR_PICTURES
from workflows.report.junction_panel import cards_height, draw_cards, draw_picture, thumbnail_for
from workflows.report.lettering import LINE_HEIGHT, fit_pair, fit_text, printable, short_name, wrap_text
from workflows.report.numbers import percent
from workflows.report.page import Page
from workflows.report.page_sizes import A4_WIDTH, MARGIN
from workflows.report.palette import GREY
from workflows.report.placement import Box
from workflows.report.projection import COMPONENT
from workflows.report.scatter import draw_scatter

HEADING_SIZE, DETAIL_SIZE, LEGEND_SIZE = 12.0, 7.5, 6.5
_LEFT, _SPACE = 320.0, 12.0  # width of the scatter; between it and the cards
_SCATTER = 270.0
_LARGEST, _SMALLEST = 44.0, 26.0  # thumbnails of the cards
_CARDS_HEIGHT = 480.0
_ERRORS_A_ROW, _ERROR_LABEL = 6, 5.0
_ERROR_SPACE = 4.0


def draw_junction_figure(view: JunctionView, network: str, png: Path, svg: Path) -> None:
    """Draw a junction and write both files.

    Raises:
        ValueError: the view explains one image: its place is in that image's path figure.
    """
    if view.image_point is not None:
        raise ValueError(f"junction {view.name} explains one image: draw it with draw_path_figure")
    junction_page(view, network).save(png, svg)


def junction_page(view: JunctionView, network: str) -> Page:
    """The page, drawn and not yet saved."""
    width = A4_WIDTH - 2 * MARGIN
    thumbnail = thumbnail_for(_CARDS_HEIGHT, [view], _SMALLEST, _LARGEST)
    legend = wrap_text(" ".join(_legend(view)), width, LEGEND_SIZE)
    top = MARGIN + HEADING_SIZE * LINE_HEIGHT + 2 * DETAIL_SIZE * LINE_HEIGHT + 10
    left = _SCATTER + _errors_height(view)
    body = max(left, cards_height(view, thumbnail))
    page = Page(A4_WIDTH, top + body + 8 + len(legend) * LEGEND_SIZE * LINE_HEIGHT + MARGIN)
    _draw_heading(page, view, network, width)
    _draw_body(page, view, top, thumbnail)
    draw_lines(page, Box(MARGIN, top + body + 8, width, 0), legend)
    return page


def draw_lines(page: Page, box: Box, lines: Sequence[str]) -> None:
    """The sentences below a figure."""
    for index, text in enumerate(lines):
        page.text(box.x, box.y + index * LEGEND_SIZE * LINE_HEIGHT, text, LEGEND_SIZE, color=GREY, kind="legend")


def junction_title(view: JunctionView, width: float, size: float, before: str = "") -> str:
    """``dense2 · word 17 → dense3`` in bold; long names of layers are shortened, the word stays."""
    template = f"{before}{{}} · {short_name(view.word.name)} → {{}}"
    layers = printable(view.word.layer_title), printable(view.upper_title)
    return fit_pair(template, layers, width, size, bold=True, middle=True)


def members_text(view: JunctionView) -> str:
    """How many training images the word has, and how many of them are shown."""
    if view.shown == view.members:
        return f"{view.members:,} member{'' if view.members == 1 else 's'}"
    return f"{view.shown:,} of {view.members:,} members"


def _draw_heading(page: Page, view: JunctionView, network: str, width: float) -> None:
    line = DETAIL_SIZE * LINE_HEIGHT
    heading = junction_title(view, width, HEADING_SIZE, "Decision junction ")
    page.text(MARGIN, MARGIN, heading, HEADING_SIZE, bold=True, kind="heading")
    y = MARGIN + HEADING_SIZE * LINE_HEIGHT + 1
    mostly = f"mostly {short_name(view.word.dominant_class)} {percent(view.word.dominant_share)}"
    details = [printable(network), *([mostly] if view.word.dominant_class else []), members_text(view)]
    page.text(MARGIN, y, fit_text(" · ".join(details), width, DETAIL_SIZE), DETAIL_SIZE, color=GREY, kind="heading")
    if view.explained is not None:
        text = _explained(view.explained, width)
        page.text(MARGIN, y + line, text, DETAIL_SIZE, color=GREY, kind="explained")


def _explained(found: Explained, width: float) -> str:
    errors = f"{found.errors:,} error{'' if found.errors == 1 else 's'}"
    text = f"{errors} of the validation images decided here, {percent(found.share)} of all"
    if found.confusions < 2:
        return fit_text(text, width, DETAIL_SIZE)
    names = short_name(found.true_name), short_name(found.predicted_name)
    return fit_pair(f"{text} · most often {{}} taken for {{}} ({found.confusions:,})", names, width, DETAIL_SIZE)


def _draw_body(page: Page, view: JunctionView, top: float, thumbnail: float) -> None:
    draw_scatter(page, Box(MARGIN, top, _LEFT, _SCATTER), view)
    cards = Box(MARGIN + _LEFT + _SPACE, top, A4_WIDTH - 2 * MARGIN - _LEFT - _SPACE, 0)
    draw_cards(page, cards, view, thumbnail)
    _draw_errors(page, Box(MARGIN, top + _SCATTER + 8, _LEFT, 0), view)


def _error_side() -> float:
    return (_LEFT - (_ERRORS_A_ROW - 1) * _ERROR_SPACE) / _ERRORS_A_ROW


def _error_row() -> float:
    return _error_side() + 2 * _ERROR_LABEL * LINE_HEIGHT + _ERROR_SPACE


def _errors_height(view: JunctionView) -> float:
    rows = -(-len(view.errors[:ERROR_PICTURES]) // _ERRORS_A_ROW)
    return 8 + DETAIL_SIZE * LINE_HEIGHT + 2 + rows * _error_row() if rows else 0.0


def _draw_errors(page: Page, box: Box, view: JunctionView) -> None:
    shown = view.errors[:ERROR_PICTURES]
    if not shown:
        return
    total = view.explained.errors if view.explained is not None else len(view.errors)
    title = "Errors decided here" + (f", {len(shown)} of {total:,}" if len(shown) < total else "")
    page.text(box.x, box.y, title, DETAIL_SIZE, bold=True, kind="title")
    top, side = box.y + DETAIL_SIZE * LINE_HEIGHT + 2, _error_side()
    for index, error in enumerate(shown):
        x = box.x + (index % _ERRORS_A_ROW) * (side + _ERROR_SPACE)
        _draw_error(page, x, top + (index // _ERRORS_A_ROW) * _error_row(), side, error)


def _draw_error(page: Page, x: float, y: float, side: float, error: ErrorView) -> None:
    draw_picture(page, x, y, side, error.image, "error")
    for line, text in enumerate((short_name(error.image.label), f"→ {short_name(error.predicted)}")):
        text = fit_text(text, side, _ERROR_LABEL)
        below = y + side + line * _ERROR_LABEL * LINE_HEIGHT
        page.text(x + side / 2, below, text, _ERROR_LABEL, align="center", kind="error label")


def _legend(view: JunctionView) -> list[str]:
    next_ = "the class the network predicts" if _into_output(view) else "the word that their path takes next"
    plane = (
        "in a plane of the layer's activity that shows them apart (linear discriminants or principal components, as "
        "the axes say)"
    )
    if all(name.startswith(COMPONENT) for name in view.axes):
        plane = "in the plane of the first principal components of the layer's activity"
    said = [
        f"Circles: training images whose path has this word, coloured by {next_}, {plane}.",
        "A card: share and number of the members that go there, their most frequent true class, and the three nearest "
        "to the sub-cluster's centre with their true labels.",
    ]
    if view.errors:
        total = view.explained.errors if view.explained is not None else len(view.errors)
        first = f"the first {len(view.errors):,} " if len(view.errors) < total else ""
        said.append(
            f"Crosses: {first}misclassified validation images that leave the paths of their true class here; below a "
            "picture the true class and the predicted one."
        )
    return said


def _into_output(view: JunctionView) -> bool:
    return bool(view.subclusters) and view.subclusters[0].word.is_class
