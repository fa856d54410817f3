"""The inference path of one image: its words layer by layer, and three of its decision junctions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.path import Path as Outline

from workflows.report.chain_view import JunctionView, PathView, PictureView, StepView
from workflows.report.junction_figure import (
    DETAIL_SIZE,
    HEADING_SIZE,
    LEGEND_SIZE,
    draw_lines,
    junction_title,
    members_text,
)
from workflows.report.junction_panel import CARD_COLOUR, cards_height, draw_cards, draw_picture, thumbnail_for
from workflows.report.legend import draw_head
from workflows.report.lettering import LINE_HEIGHT, fit_pair, fit_text, printable, short_name, text_width, wrap_text
from workflows.report.numbers import log_ratio, percent
from workflows.report.page import Page
from workflows.report.page_sizes import A4_HEIGHT, A4_WIDTH, MARGIN
from workflows.report.palette import GREY, LEAVES
from workflows.report.placement import Box
from workflows.report.scatter import draw_scatter

_WIDTH = A4_WIDTH - 2 * MARGIN
_PICTURE = 60.0
_STEPS_A_ROW, _GAP = 7, 14.0  # steps of the chain in one row; room for an arrow and its letter
_STEP_TITLE, _STEP_SIZE, _STEP_SMALL = 6.5, 6.0, 5.5
_STEP_HEIGHT = _STEP_TITLE * LINE_HEIGHT + 2 * _STEP_SIZE * LINE_HEIGHT + 4 * _STEP_SMALL * LINE_HEIGHT + 6
_PANEL_SPACE, _PANEL_HEAD = 10.0, 7.5 * LINE_HEIGHT + 2 * 6.0 * LINE_HEIGHT + 4
_LARGEST, _SMALLEST = 34.0, 22.0
_LETTERS = "abcdefghij"
_LINE = "#2b2b2b"


def draw_path_figure(path: PathView, junctions: Sequence[JunctionView], png: Path, svg: Path) -> None:
    """Draw the path of an image through some of its junctions and write both files.

    Raises:
        ValueError: a junction that is not on the path, or none at all.
    """
    path_page(path, junctions).save(png, svg)


def path_page(path: PathView, junctions: Sequence[JunctionView]) -> Page:
    """The page, drawn and not yet saved."""
    _refuse_other_junctions(path, junctions)
    legend = wrap_text(" ".join(_legend(path)), _WIDTH, LEGEND_SIZE)
    foot = 8 + len(legend) * LEGEND_SIZE * LINE_HEIGHT + MARGIN
    top = MARGIN + HEADING_SIZE * LINE_HEIGHT + DETAIL_SIZE * LINE_HEIGHT + 10
    panels = top + _chain_height(path) + 10
    width = (_WIDTH - (max(len(junctions), 2) - 1) * _PANEL_SPACE) / max(len(junctions), 2)
    scatter = min(width, 190.0)
    left = A4_HEIGHT - panels - _PANEL_HEAD - scatter - 8 - foot
    thumbnail = thumbnail_for(left, junctions, _SMALLEST, _LARGEST)
    cards = max(cards_height(view, thumbnail) for view in junctions)
    bottom = panels + _PANEL_HEAD + scatter + 8 + cards
    page = Page(A4_WIDTH, bottom + foot)
    _draw_heading(page, path)
    _draw_chain(page, path, top, [view.level for view in junctions])
    for index, view in enumerate(junctions):
        box = Box(MARGIN + index * (width + _PANEL_SPACE), panels, width, scatter)
        _draw_panel(page, box, path, view, f"{_LETTERS[index]}", thumbnail)
    draw_lines(page, Box(MARGIN, bottom + 8, _WIDTH, 0), legend)
    return page


def _refuse_other_junctions(path: PathView, junctions: Sequence[JunctionView]) -> None:
    if not junctions:
        raise ValueError(f"the figure of image {path.image.image} must show a junction of its path; got none")
    for view in junctions:
        on_path = view.level in path.lower_levels and path.step(view.level).word.word == view.word.word
        if not on_path or view.image_point is None:
            raise ValueError(
                f"junctions must lie on the path of image {path.image.image} and show it; got {view.name} at level "
                f"{view.level}"
            )


def _draw_heading(page: Page, path: PathView) -> None:
    image = path.image
    verdict = f"predicted {{}} ({percent(image.probability)}), true label {{}}"
    names = short_name(image.predicted_name), short_name(image.true_name)
    heading = fit_pair(f"Inference path of image {image.image}, {verdict}", names, _WIDTH, HEADING_SIZE, bold=True)
    page.text(MARGIN, MARGIN, heading, HEADING_SIZE, bold=True, kind="heading")
    details = [printable(path.network), f"scope {printable(path.scope)}", f"log P(path) {nats(path.log_probability)}"]
    y = MARGIN + HEADING_SIZE * LINE_HEIGHT + 1
    text = fit_text(" · ".join(details), _WIDTH, DETAIL_SIZE)
    page.text(MARGIN, y, text, DETAIL_SIZE, color=GREY, kind="heading")


def nats(value: float | None) -> str:
    """``2.31 nats``; a dash for none."""
    return "–" if value is None else f"{log_ratio(value)} nats"


def _rows(path: PathView) -> int:
    return -(-len(path.steps) // _STEPS_A_ROW)


def _chain_height(path: PathView) -> float:
    return max(_PICTURE, _rows(path) * (_STEP_HEIGHT + 6) - 6)


def _draw_chain(page: Page, path: PathView, top: float, junctions: Sequence[int]) -> None:
    """The picture, then a card for each step with an arrow from the one before."""
    shown = PictureView(path.image.image, path.image.true_name, path.image.picture)
    draw_picture(page, MARGIN, top + (_STEP_HEIGHT - _PICTURE) / 2, _PICTURE, shown, "image")
    left = MARGIN + _PICTURE
    a_row = min(len(path.steps), _STEPS_A_ROW)
    width = min((_WIDTH - _PICTURE) / a_row - _GAP, 96.0)
    for index, step in enumerate(path.steps):
        x = left + (index % _STEPS_A_ROW) * (width + _GAP) + _GAP
        card = Box(x, top + (index // _STEPS_A_ROW) * (_STEP_HEIGHT + 6), width, _STEP_HEIGHT)
        leaves = path.departure is not None and path.departure.level == step.level
        letter = _LETTERS[junctions.index(step.level - 1)] if step.level - 1 in junctions else ""
        _draw_arrow(page, card, letter, LEAVES if leaves else _LINE)
        _draw_step(page, card, path, step)


def _draw_arrow(page: Page, card: Box, letter: str, color: str) -> None:
    middle = card.y + card.height / 2
    page.curve(Outline([(card.x - _GAP + 1, middle), (card.x - 5, middle)]), color, 1.2)
    draw_head(page, (card.x - 1, middle), (1, 0), color)
    if letter:
        y = middle - _STEP_TITLE * LINE_HEIGHT - 3
        page.text(card.x - _GAP / 2, y, letter, _STEP_TITLE, bold=True, align="center", kind="letter")


def _draw_step(page: Page, card: Box, path: PathView, step: StepView) -> None:
    page.card(card.x, card.y, card.width, card.height, CARD_COLOUR)
    width, y = card.width - 4, card.y + 3
    word = step.word
    behind = percent(word.dominant_share)
    dominant = fit_text(short_name(word.dominant_class), width - text_width(" " + behind, _STEP_SIZE), _STEP_SIZE)
    lines = [
        (printable(word.layer_title), _STEP_SIZE, GREY, False, "layer"),
        (short_name(word.name), _STEP_TITLE, "#1a1a1a", True, "word"),
        (
            f"{dominant} {behind}" if word.dominant_class and not word.is_class else "",
            _STEP_SIZE,
            "#1a1a1a",
            False,
            "dominant",
        ),
        *((text, _STEP_SMALL, GREY, False, "runner-up") for text in _runner_up(step)),
        *((text, _STEP_SMALL, LEAVES, False, "departure") for text in _departure(path, step)),
    ]
    for text, size, color, bold, kind in lines:
        if text:
            fitting = fit_text(text, width, size, bold=bold, middle=kind == "layer")
            page.text(card.middle, y, fitting, size, color=color, bold=bold, align="center", kind=kind)
        y += size * LINE_HEIGHT


def _runner_up(step: StepView) -> tuple[str, str]:
    if step.runner_up is None or step.log_odds is None:
        return ("the prediction", "") if step.word.is_class else ("no other word", "")
    return f"over {step.runner_up.name}", f"by {nats(step.log_odds)}"


def _departure(path: PathView, step: StepView) -> tuple[str, str]:
    found = path.departure
    if found is None or found.level != step.level:
        return "", ""
    true_name = short_name(path.image.true_name)
    if found.expected is None:
        return f"leaves {true_name}", ""
    odds = "" if found.log_odds is None else f": {log_ratio(found.log_odds)}"
    return f"leaves {true_name}", f"not {short_name(found.expected.name)}{odds}"


def _draw_panel(page: Page, box: Box, path: PathView, view: JunctionView, letter: str, thumbnail: float) -> None:
    indent = text_width("m ", DETAIL_SIZE, bold=True)
    page.text(box.x, box.y, letter, DETAIL_SIZE, bold=True, kind="letter")
    title = junction_title(view, box.width - indent, DETAIL_SIZE)
    page.text(box.x + indent, box.y, title, DETAIL_SIZE, bold=True, kind="title")
    y = box.y + DETAIL_SIZE * LINE_HEIGHT
    mostly = f"mostly {short_name(view.word.dominant_class)} {percent(view.word.dominant_share)}"
    for text, color in ((mostly if view.word.dominant_class else "", GREY), _second_line(path, view)):
        page.text(box.x + indent, y, fit_text(text, box.width - indent, 6.0), 6.0, color=color, kind="detail")
        y += 6.0 * LINE_HEIGHT
    top = box.y + _PANEL_HEAD
    draw_scatter(page, Box(box.x, top, box.width, box.height), view)
    cards = Box(box.x, top + box.height + 8, box.width, 0)
    draw_cards(page, cards, view, thumbnail, path.image.true_name)


def _second_line(path: PathView, view: JunctionView) -> tuple[str, str]:
    """How many members; in red that the image leaves its class here."""
    if path.departure is not None and path.departure.level == view.level + 1:
        return f"{members_text(view)} · leaves the paths of {short_name(path.image.true_name)} here", LEAVES
    return members_text(view), GREY


def _legend(path: PathView) -> list[str]:
    said = [
        "Above: the most probable word of each layer given all layers, its most frequent true class, and by how many "
        "nats the best path through the runner-up is less probable.",
        "Below: junctions of the path, marked by letters. Circles: training images with the same word, coloured by the "
        "word that follows, in a plane that shows them apart (linear discriminants or "
        "principal components, as the axes say); full circles go on as the image does. Star: the "
        "image. A card: share and number of the members that go there, their most frequent true class, the three "
        "nearest to the centre with their true labels.",
    ]
    if path.departure is not None:
        name = short_name(path.image.true_name)
        said.append(f"Red: the first layer where the path leaves those of correctly classified {name} images.")
        if path.departure.expected is not None and path.departure.log_odds is not None:
            said.append(
                'With "not": the word they take from the same junction; log-odds in nats of the taken one over it, by '
                "the model and with the prediction open."
            )
    return said
