"""How large everything on a graph page is, so that the whole graph fits A4 and stays readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workflows.report.graph_view import GraphView, NodeKey
from workflows.report.lettering import LINE_HEIGHT, longest

A4_WIDTH, A4_HEIGHT = 595.0, 842.0
MARGIN = 16.0
PADDING = 3.0  # inside a card and between thumbnails
TITLE_SIZE = 7.0
CARD_SPACE = 7.0  # between neighbouring cards
CHIP_SPACE = 4.0  # between a chip and the card below it
LEGEND_SPACE = 8.0  # above the legend
CLASS_TITLE_HEIGHT = 2 * TITLE_SIZE * LINE_HEIGHT + 4

_LARGEST_THUMBNAIL, _ENOUGH_THUMBNAIL, _SMALLEST_THUMBNAIL = 62.0, 22.0, 14.0
_CLASS_SCALE = 1.3  # thumbnails of the class node against the others
_CLASS_WIDTH = 470.0  # that they may take together
_CURVE, _LARGEST_CURVE = 34.0, 64.0  # height in which arrows bend and cross
_TIGHT_CURVE, _TIGHT_HEAT = 24.0, 16.0  # where thumbnails would be less than enough
_CHIP_FONTS = (6.5, 6.0, 5.5, 5.25, 5.0, 4.75, 4.5)  # of numbers below a heat map
_CHIP_GAP = 3.2  # between those numbers: the stem passes here
_NARROWEST_SLOT = 100.0  # more words than fit make the page wider


@dataclass(frozen=True)
class ChipStyle:
    """What stands on a stem.

    ``inline``: number, heat map, number in one line; else the numbers below the heat map. ``size`` is the font's.
    """

    inline: bool
    size: float
    heat: float
    width: float

    @property
    def height(self) -> float:
        """Height in points."""
        line = self.size * LINE_HEIGHT
        return max(self.heat, line) if self.inline else self.heat + (2 if self.heat else 0) + line


@dataclass(frozen=True)
class Sizes:
    """Measures in points shared by the whole page."""

    width: float
    slot: float
    thumbnail: float
    class_thumbnail: float
    curve: float
    label: float
    title_lines: int
    rows: int
    columns: int
    chip: ChipStyle

    @property
    def label_height(self) -> float:
        """Height of a class name under a thumbnail."""
        return self.label * LINE_HEIGHT

    @property
    def title_height(self) -> float:
        """Height of a word's title."""
        return self.title_lines * TITLE_SIZE * LINE_HEIGHT + 1


def page_sizes(view: GraphView, chip_texts: Mapping[bool, Sequence[str]], title_width: float, around: float) -> Sizes:
    """The largest thumbnails and the widest curves that one A4 page holds.

    Args:
        view: the graph.
        chip_texts: the numbers on all chips, in their long (True, chips in one line) and short (False) writing.
        title_width: of the longest title in points; if it is too long for a slot all titles take two lines.
        around: height in points of heading and legend together.
    """
    widest = max(len(layer) for layer in view.layers)
    shown = max((len(node.exemplars) for layer in view.layers for node in layer), default=0)
    rows = 1 if shown <= 3 else 2 if shown <= 8 else 3
    slot = max((A4_WIDTH - 2 * MARGIN) / widest, _NARROWEST_SLOT, _slot_for_chips(view, chip_texts[False]))
    one_line = title_width <= slot - CARD_SPACE - 2 * PADDING
    chip = _chip_style(view, chip_texts, slot)
    sizes = Sizes(
        width=widest * slot + 2 * MARGIN,
        slot=slot,
        thumbnail=_LARGEST_THUMBNAIL,
        class_thumbnail=0.0,
        curve=_CURVE,
        label=6.0 if widest <= 3 else 5.5,
        title_lines=1 if one_line else 2,
        rows=rows,
        columns=max(1, -(-shown // rows)),
        chip=chip,
    )
    sizes = replace(sizes, thumbnail=min(_LARGEST_THUMBNAIL, _thumbnail_by_width(view, sizes)))
    words, units = len(view.layers) - 1, (len(view.layers) - 1) * rows + _CLASS_SCALE
    lacks = -_left(view, sizes, around) - (sizes.thumbnail - _ENOUGH_THUMBNAIL) * units
    if lacks > 0:  # thumbnails would be too small: first flatten the curves, then shrink the heat maps
        sizes = replace(sizes, curve=max(_CURVE - lacks / words, _TIGHT_CURVE))
    if lacks > words * (_CURVE - _TIGHT_CURVE):
        sizes = replace(sizes, chip=replace(chip, heat=min(chip.heat, _TIGHT_HEAT)))
    left = _left(view, sizes, around)
    if left < 0:
        sizes = replace(sizes, thumbnail=max(sizes.thumbnail + left / units, _SMALLEST_THUMBNAIL))
    elif words:
        sizes = replace(sizes, curve=min(sizes.curve + left / words, _LARGEST_CURVE))
    return replace(sizes, class_thumbnail=min(sizes.thumbnail * _CLASS_SCALE, _CLASS_WIDTH / (max(shown, 1) + 1)))


def _thumbnail_by_width(view: GraphView, sizes: Sizes) -> float:
    """The thumbnail whose grid (and dotted image, as high as the grid) fills a card."""
    room = sizes.slot - CARD_SPACE - 4 * PADDING - (sizes.columns - 1) * PADDING
    if view.image is None:
        return room / sizes.columns
    beyond = sizes.rows * (sizes.label_height + PADDING) + PADDING
    return (room - beyond) / (sizes.columns + sizes.rows)


def _left(view: GraphView, sizes: Sizes, around: float) -> float:
    """Height that the page has left (below 0: lacks) with these sizes."""
    words = len(view.layers) - 1
    line = sizes.thumbnail + sizes.label_height + PADDING
    card = sizes.title_height + sizes.rows * line + PADDING
    gap = sizes.chip.height + sizes.curve + CHIP_SPACE
    class_card = CLASS_TITLE_HEIGHT + sizes.thumbnail * _CLASS_SCALE + sizes.label_height + 2 * PADDING
    return A4_HEIGHT - 2 * MARGIN - LEGEND_SPACE - around - class_card - words * (card + gap)


def _stems(view: GraphView) -> int:
    """How many arrows leave the busiest word."""
    stems: dict[NodeKey, int] = {}
    for edge in view.drawn_edges():
        stems[edge.lower] = stems.get(edge.lower, 0) + 1
    return max(stems.values(), default=1)


def _slot_for_chips(view: GraphView, short_texts: Sequence[str]) -> float:
    """Width in which the busiest word's chips just stand side by side."""
    return _stems(view) * (2 * longest(short_texts, _CHIP_FONTS[-1]) + _CHIP_GAP + 2)


def _chip_style(view: GraphView, texts: Mapping[bool, Sequence[str]], slot: float) -> ChipStyle:
    """The largest chip that as many stems as the busiest word has can carry side by side."""
    room = slot / _stems(view) - 2 + 1e-9
    with_heat = any(edge.heat is not None for edge in view.drawn_edges())
    for size, heat in ((7.0, 24.0), (6.5, 20.0), (6.0, 18.0)):
        heat = heat if with_heat else 0.0
        width = 2 * longest(texts[True], size) + heat + 6
        if width <= room:
            return ChipStyle(True, size, heat, width)
    for size in _CHIP_FONTS:
        heat = min(22.0, room - 3) if with_heat else 0.0
        width = max(2 * longest(texts[False], size) + _CHIP_GAP, heat)
        if width <= room:
            break
    return ChipStyle(False, size, heat, width)
