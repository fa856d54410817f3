"""A sweep for the terminal: one line a cell, and what became of the expectations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.report.numbers import MINUS
from workflows.report.sweep_verdicts import Verdict

Row = dict[str, Any]

_COLUMNS = {
    "\nlayer": 0,
    "\nK": 3,
    "gen\nsoft": 4,
    "gen\nhard": 4,
    "disc\nsoft": 4,
    "disc\nhard": 4,
    "disc − gen, soft:\npaired 95 %": 24,
    "held\nout": 7,
    "\nBIC/n": 6,
}
"""Headings and least widths; the layer takes what is left."""


def sweep_table(rows: pa.Table) -> Table:
    """One line a layer and number of words; errors in percent, differences in points with their paired interval."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=_caption(rows))
    for heading, width in _COLUMNS.items():
        # Where the terminal is too narrow rich takes width from the names, never from the numbers.
        justify: Literal["left", "right"] = "right" if width else "left"
        table.add_column(heading, justify=justify, no_wrap=True, min_width=width or None)
    cells: dict[tuple[str, int], dict[tuple[str, str | None], Row]] = {}
    for row in rows.to_pylist():
        cells.setdefault((row["given"], row["words"]), {})[row["loss"], row["histogram"]] = row
    last = ""
    for (layer, words), ways in cells.items():
        if last and layer != last:
            table.add_section()
        table.add_row(Text(layer if layer != last else ""), str(words), *_numbers(ways))
        last = layer
    return table


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[Text]:
    """Each statement with true or false, then its numbers."""
    words = {True: ("true ", "green"), False: ("false", "red"), None: ("–    ", "dim")}
    for verdict in verdicts:
        yield Text.assemble(words[verdict.holds], f" {verdict.statement}")
        yield from (Text(f"      {line}", style="dim") for line in verdict.numbers)


def _numbers(ways: dict[tuple[str, str | None], Row]) -> list[Text | str]:
    order = [(loss, histogram) for loss in ("generative", "discriminative") for histogram in ("soft", "hard")]
    errors = [f"{100 * ways[way]['error']:.1f}" if way in ways else "–" for way in order]
    generative = next(row for (loss, _), row in ways.items() if loss == "generative")
    per_column = generative["bic"] / generative["columns"]
    likelihood = f"{generative['held_out_log_likelihood']:.2f}".replace("-", MINUS)
    trained = ways.get(("discriminative", "soft"))
    difference = Text("–") if trained is None else _difference(trained)
    return [*errors, difference, likelihood, f"{per_column:.2f}".replace("-", MINUS)]


def _difference(row: Row) -> Text:
    values = [100 * row[name] for name in ("difference", "difference_low", "difference_high")]
    point, low, high = (f"{value:+.1f}".replace("-", MINUS) for value in values)
    style = "" if row["tie"] else "green" if row["difference"] < 0 else "red"
    return Text(f"{point} [{low}, {high}]{' tie' if row['tie'] else '    '}", style=style)


def _caption(rows: pa.Table) -> str:
    known = [row for row in rows.to_pylist() if row["images"] is not None]
    if not known:
        return "held-out: mean log-likelihood of the generative words, nats a column"
    row = known[0]
    return (
        f"errors in % of {row['images']} validation images; the network's own is {100 * row['network_error']:.1f} %. "
        "Held-out: nats a column, generative words"
    )
