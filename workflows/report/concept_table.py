"""One unit or one word for the terminal: the concepts it covers, and the words or units that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workflows.report.lettering import short_name
from workflows.report.numbers import MINUS, frequency, percent

Row = dict[str, Any]


def unit_table(title: str, thresholds: Sequence[Row], concepts: Sequence[Row], words: Sequence[Row]) -> RenderableType:
    """A unit.

    Args:
        title: heading.
        thresholds: its rows of units, by quantile.
        concepts: its rows of unit_concepts.
        words: the rows of word_units in which it stands out, with the name of the word as `concept`.
    """
    table = _table(("q", "threshold", "covers", "", "IoU", "cap"))
    for row in thresholds:
        own = [one for one in concepts if one["quantile"] == row["quantile"]]
        head = (f"{row['quantile']:g}", f"{row['threshold']:.3g}")
        _add_concepts(table, head, own)
    return Group(_heading(title, _spread(thresholds)), table, *_others("words it stands out in", "word", words))


def word_table(title: str, share: float | None, concepts: Sequence[Row], units: Sequence[Row]) -> RenderableType:
    """A word.

    Args:
        title: heading.
        share: of the training columns.
        concepts: its rows of word_concepts.
        units: its first rows of word_units, with what the unit covers as `concept`.
    """
    table = _table(("covers", "", "IoU", "cap"))
    _add_concepts(table, (), concepts)
    known = "" if share is None else f", {percent(share)} of the training columns"
    return Group(_heading(title, known), table, *_others("units that make it", "unit", units))


def _heading(title: str, more: str) -> Text:
    return Text(title, style="bold").append(more, style="not bold")


def _spread(rows: Sequence[Row]) -> str:
    return f", mean {rows[0]['mean']:.3g}, sd {rows[0]['sd']:.3g}" if rows else ""


def _table(names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, justify="left" if name in ("covers", "") else "right")
    return table


def _add_concepts(table: Table, head: Sequence[str], rows: Sequence[Row]) -> None:
    """A line for each concept; the head only in the first."""
    if not rows:
        table.add_row(*head, "–", "", "–", "–")
    for place, row in enumerate(sorted(rows, key=lambda one: one["rank"])):
        shown = head if not place else [""] * len(head)
        numbers = (frequency(row["iou"]), frequency(row["cap"]))
        table.add_row(*shown, Text(short_name(row["concept"])), Text(row["category"]), *numbers)


def _others(title: str, kind: str, rows: Sequence[Row]) -> list[RenderableType]:
    if not rows:
        return []
    table = _table((kind, "z", "covers"))
    for row in rows:
        z = f"{abs(row['z']):.1f}"
        named = Text(row["concept"] or "–")
        table.add_row(str(row[kind]), MINUS + z if row["z"] < 0 else z, named)
    return [Text(title), table]
