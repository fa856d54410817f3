"""Words on objects and their parts: shares of positions inside boxes, as a figure and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.errors import RunFolderError
from workflows.report.lettering import FAMILY, fit_text, font, printable, short_name
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.storage.atomic import write_bytes
from workflows.storage.names import GraphId

Row = dict[str, Any]

_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM = 8.27, 2.0, 0.68, 0.28  # inches: the width of A4
_LEFT, _RIGHT = 0.085, 0.985
_COLORS = ("#1f5fa8", "#c7803a", "#5b8f5b", "#8f4bab", "#b0455a", "#4a8f9c")
_AREA = "#8a9099"
_MOST_PARTS = 4
_SOURCES = {
    "exemplars": "Exemplars: most typical training columns",
    "validation": "All columns of the words in the class's validation photos",
}


def draw_parts_figure(
    rows: pa.Table,
    png: Path,
    svg: Path,
    *,
    network: str,
    class_names: Sequence[str],
    layer_titles: Mapping[str, str],
) -> None:
    """Draw boxes.parquet of one scope as PNG and SVG: six classes and four parts at most.

    Args:
        rows: the table, rows of one scope.
        png: written atomically.
        svg: written atomically.
        network: name of the run.
        class_names: name of every class id.
        layer_titles: shorter names of layers.

    Raises:
        RunFolderError: the table has no rows.
    """
    if not rows.num_rows:
        raise RunFolderError("the table of parts is empty: ask for class graphs with mine.classes")
    figure = _figure(rows.to_pylist(), network, class_names, layer_titles)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _figure(rows: list[Row], network: str, class_names: Sequence[str], layer_titles: Mapping[str, str]) -> Figure:
    parts, graphs = (list(dict.fromkeys(row[key] for row in rows)) for key in ("part", "graph"))
    left_out = [f"the first {most} of {len(all_of)} {what}" for most, all_of, what in (
        (_MOST_PARTS, parts, "parts"), (len(_COLORS), graphs, "classes")) if len(all_of) > most]  # fmt: skip
    parts, graphs = parts[:_MOST_PARTS], graphs[: len(_COLORS)]
    height = _TOP + len(_SOURCES) * _PANEL_HEIGHT + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    heading = f"{printable(network)}: do the words of the class graphs sit on the object?"
    figure.text(0.02, 1 - 0.22 / height, heading, fontproperties=font(True), size=10)
    text = "Share of a word's positions in the boxes, against the share of the visible photos that they cover"
    figure.text(0.02, 1 - 0.4 / height, "; ".join([text, *left_out]), fontproperties=font(), size=8)
    for line, source in enumerate(_SOURCES):
        edge = height - _TOP - line * _PANEL_HEIGHT
        figure.text(0.02, edge / height, _SOURCES[source], fontproperties=font(True), size=7.5)
        for column, part in enumerate(parts):
            width = (_RIGHT - _LEFT) / len(parts)
            bottom, tall = (edge - _PANEL_HEIGHT + 0.36) / height, (_PANEL_HEIGHT - 0.64) / height
            panel = figure.add_axes((_LEFT + column * width, bottom, width - 0.04, tall))
            kept = [row for row in rows if row["part"] == part and row["source"] == source]
            _draw_panel(panel, kept, graphs, layer_titles)
            title = fit_text(printable(part), 72 * _WIDTH * (width - 0.04), 7.5)
            panel.set_title(title, fontproperties=font(), fontsize=7.5, loc="left", pad=3)
            panel.tick_params(labelleft=column == 0)
    names = [short_name(class_names[GraphId.parse(graph).number]) for graph in graphs]
    figure.legend(
        handles=_marks(names), loc="lower left", ncols=len(names) + 3, bbox_to_anchor=(0.01, 0.0), frameon=False,
        prop={"family": FAMILY, "size": 6.5}, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
    return figure


def _draw_panel(panel: Axes, rows: list[Row], graphs: list[str], layer_titles: Mapping[str, str]) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in rows))[::-1]
    step = 0.7 / len(graphs)
    for place, graph in enumerate(graphs):
        color, shift = _COLORS[place], (place - (len(graphs) - 1) / 2) * step
        for x, layer in enumerate(layers):
            own = [row for row in rows if (row["graph"], row["layer"]) == (graph, layer) and row["share"] is not None]
            _draw_words(panel, own, x + shift, step, color)
    panel.set_ylim(-0.03, 1.05)
    panel.set_xlim(-0.5, len(layers) - 0.5)
    panel.set_xticks(range(len(layers)), [printable(layer_titles.get(layer, layer)) for layer in layers])
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panel.tick_params(labelsize=6, length=2)
    panel.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_words(panel: Axes, rows: list[Row], x: float, step: float, color: str) -> None:
    """Words as small open marks beside what they are together, and the area as a line through both."""
    words = [row["share"] for row in rows if row["word"] is not None]
    spread = x + step * (0.12 + 0.2 * np.linspace(0, 1, max(len(words), 2))[: len(words)])
    panel.plot(spread, words, "o", color=color, markerfacecolor="white", markersize=2.6, markeredgewidth=0.7)
    for row in rows:
        if row["word"] is None:
            half = 0.42 * step
            panel.hlines(row["area"], x - half, x + half, color=_AREA, linewidth=1.4, zorder=1.8)
            panel.vlines(x - 0.15 * step, row["share_low"], row["share_high"], color=color, linewidth=1)
            panel.plot(x - 0.15 * step, row["share"], "o", color=color, markersize=4)


def _marks(names: Sequence[str]) -> list[Line2D]:
    classes = [
        Line2D([], [], color=color, marker="o", markersize=4, linestyle="none", label=name)
        for name, color in zip(names, _COLORS, strict=False)
    ]
    word = Line2D([], [], color="#444444", marker="o", markerfacecolor="white", markersize=2.6, linestyle="none")
    word.set_label("one word")
    whole = Line2D([], [], color="#444444", marker="o", markersize=4, linewidth=1)
    whole.set_label("words together, 95 %")
    area = Line2D([], [], color=_AREA, linewidth=1.4, label="share of the area")
    return [*classes, whole, word, area]


_NAMES = ("\nclass", "\ninside")
_NUMBERS = (
    ("exemplars\nshare, 95 %", 13),
    ("\narea", 4),
    ("\nphotos", 7),
    ("validation\nshare, 95 %", 13),
    ("\narea", 4),
    ("\nphotos", 7),
)
"""Headings and least widths; where the terminal is too narrow rich takes width from the names."""

_CAPTION = (
    "in %; green: the whole 95 % interval is above the area, red: below. "
    "In brackets: photos without such a box, which are not counted."
)

_SOURCE_NAMES = ("exemplars", "validation")


def parts_table(rows: pa.Table, class_names: Sequence[str], layer_titles: Mapping[str, str]) -> Table:
    """The chosen words of each layer together: share of their positions inside, against the share of the area.

    Args:
        rows: boxes.parquet.
        class_names: name of every class id.
        layer_titles: shorter names of layers.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=_CAPTION)
    for heading in _NAMES:
        # Titles of layers stand in the first column too: they are folded before anything else is cut.
        table.add_column(heading, no_wrap=heading != _NAMES[0], overflow="fold")
    for heading, width in _NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    several = len(set(rows["scope"].to_pylist())) > 1
    last = ("", "", "")
    for (scope, layer, graph, part), by_source in _lines(rows).items():
        if last[:2] != (scope, layer):
            if last[1]:
                table.add_section()
            title = layer_titles.get(layer, layer)
            table.add_row(Text(title, style="bold"), Text(scope if several else ""))
        name = short_name(class_names[GraphId.parse(graph).number])
        cells = [cell for source in _SOURCE_NAMES for cell in _cells(by_source[source])]
        table.add_row(Text("" if last == (scope, layer, graph) else name), Text(part), *cells)
        last = (scope, layer, graph)
    return table


def _lines(rows: pa.Table) -> dict[tuple[str, str, str, str], dict[str, Row]]:
    """Rows of whole layers by scope, layer, graph and part, then by source; layers in the order of the table."""
    kept = [row for row in rows.to_pylist() if row["word"] is None]
    places = {layer: place for place, layer in enumerate(dict.fromkeys(row["layer"] for row in kept))}
    lines: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in sorted(kept, key=lambda row: (row["scope"], places[row["layer"]])):
        lines.setdefault((row["scope"], row["layer"], row["graph"], row["part"]), {})[row["source"]] = row
    return lines


def _cells(row: Row) -> list[Text | str]:
    photos = f"{row['images']} ({row['images_without']})"
    if row["share"] is None:
        return ["–", "–", photos]
    share, low, high, area = (100 * row[name] for name in ("share", "share_low", "share_high", "area"))
    style = "green" if low > area else "red" if high < area else ""
    return [Text(f"{share:.0f} [{low:.0f}, {high:.0f}]", style=style), f"{area:.0f}", photos]
