"""Words on objects and their parts, for the terminal: one line a layer, class and part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.report.lettering import short_name

Row = dict[str, Any]

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

_SOURCES = ("exemplars", "validation")


def parts_table(rows: pa.Table, class_names: Sequence[str], layer_titles: Mapping[str, str]) -> Table:
    """The chosen words of each layer together: share of their positions inside, against the share of the area.

    Args:
        rows: parts.parquet.
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
        name = short_name(class_names[int(graph.removeprefix("class:"))])
        cells = [cell for source in _SOURCES for cell in _cells(by_source[source])]
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
