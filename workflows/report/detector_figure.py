"""Detectors of units and words, layer by layer and category by category (ICQ Fig. 2), as a figure and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.report.lettering import FAMILY, fit_text, font, printable, short_name
from workflows.report.numbers import frequency
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.report.palette import GREY, class_colour
from workflows.storage.atomic import write_bytes

_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM = 8.27, 2.35, 0.68, 0.34  # inches: the width of A4
_LEFT, _RIGHT = 0.075, 0.985

_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
"""Behind numbers, which lines of the grid would cross."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Detectors:
    """Of the units or the words of a network.

    Attributes:
        title: of the panel.
        layers: their shown names, lowest first.
        totals: how many units or words each layer has.
        counts: by layer and category: how many are detectors.
        concepts: how many different concepts those of a layer detect.
        best: of every layer the best concept and its IoU, or None.
    """

    title: str
    layers: tuple[str, ...]
    totals: tuple[int, ...]
    counts: tuple[Mapping[str, int], ...]
    concepts: tuple[int, ...]
    best: tuple[tuple[str, float] | None, ...]


def detectors(title: str, rows: Sequence[Row], titles: Mapping[str, str], totals: Mapping[str, int]) -> Detectors:
    """Count rows of units (of one quantile) or of word_concepts (of rank 0).

    Args:
        title: of the panel.
        rows: with layer, concept, category, iou and detector.
        titles: shown names of layers, lowest first.
        totals: units or words of each layer.
    """
    names = [name for name in titles if name in totals]
    own = [[row for row in rows if row["layer"] == name and row["concept"] is not None] for name in names]
    found = [[row for row in some if row["detector"]] for some in own]
    tops = [max(some, key=lambda row: row["iou"], default=None) for some in own]
    return Detectors(
        title,
        tuple(titles[name] for name in names),
        tuple(totals[name] for name in names),
        tuple(Counter(row["category"] for row in some) for some in found),
        tuple(len({row["concept"] for row in some}) for some in found),
        tuple(None if top is None else (top["concept"], top["iou"]) for top in tops),
    )


def draw_detectors(panels: Sequence[Detectors], png: Path, svg: Path, *, heading: str, below: str) -> None:
    """Draw panels two in a row: bars of detectors, a colour a category.

    Args:
        panels: units and words, of one or of several networks.
        png: written atomically.
        svg: written atomically.
        heading: of the figure.
        below: what counts as a detector.
    """
    rows = -(-len(panels) // 2)
    height = _TOP + rows * _PANEL_HEIGHT + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    figure.text(0.02, 1 - 0.22 / height, printable(heading), fontproperties=font(True), size=10)
    figure.text(0.02, 1 - 0.4 / height, printable(below), fontproperties=font(), size=8)
    categories = list(dict.fromkeys(name for panel in panels for counts in panel.counts for name in sorted(counts)))
    for place, panel in enumerate(panels):
        row, column = divmod(place, 2)
        width = (_RIGHT - _LEFT) / 2
        bottom = height - _TOP - (row + 1) * _PANEL_HEIGHT + 0.3
        axes = figure.add_axes((_LEFT + column * width, bottom / height, width - 0.06, (_PANEL_HEIGHT - 0.52) / height))
        _draw_panel(axes, panel, categories)
        title = fit_text(printable(panel.title), 72 * _WIDTH * (width - 0.06), 7.5)
        axes.set_title(title, fontproperties=font(), fontsize=7.5, loc="left", pad=3)
    if categories:
        figure.legend(
            handles=[Patch(facecolor=class_colour(place, len(categories))) for place in range(len(categories))],
            labels=[short_name(name) for name in categories],
            loc="lower left", ncols=min(len(categories), 8), bbox_to_anchor=(0.01, 0.0), frameon=False,
            prop={"family": FAMILY, "size": 6.5}, handlelength=1.0, handletextpad=0.4, columnspacing=1.2,
        )  # fmt: skip
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _draw_panel(axes: Axes, panel: Detectors, categories: Sequence[str]) -> None:
    places = np.arange(len(panel.layers))
    base = np.zeros(len(places))
    for number, category in enumerate(categories):
        counts = np.array([own.get(category, 0) for own in panel.counts], np.float64)
        axes.bar(places, counts, 0.62, bottom=base, color=class_colour(number, len(categories)), linewidth=0)
        base += counts
    for place, total in enumerate(panel.totals):
        text = f"{base[place]:.0f} of {total:,}"
        axes.text(
            place, base[place], text, ha="center", va="bottom", fontproperties=font(), size=6, color=GREY, bbox=_PAPER
        )
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_ylim(0, max(1.0, 1.15 * base.max(initial=0)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks(places.tolist(), [printable(name) for name in panel.layers])
    axes.tick_params(labelsize=6, length=2)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def detector_table(panels: Sequence[Detectors]) -> Table:
    """The same numbers for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "layer", "detectors", "of", "concepts", "best", "IoU"):
        table.add_column(name, justify="left" if name in ("", "layer", "best") else "right")
    for panel in panels:
        rows = zip(panel.layers, panel.totals, panel.counts, panel.concepts, panel.best, strict=True)
        for place, (layer, total, counts, concepts, best) in enumerate(rows):
            named = ("–", "–") if best is None else (short_name(best[0]), frequency(best[1]))
            numbers = (f"{sum(counts.values()):,}", f"{total:,}", f"{concepts:,}")
            row = ("" if place else printable(panel.title), printable(layer), *numbers, *named)
            table.add_row(*map(Text, row))  # names are no markup, whatever they hold
        table.add_section()
    return table
