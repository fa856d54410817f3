"""What metrics select, for the terminal: how stable it is, where it lies, and what a classifier makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.report.selection_figures import METRIC_NAMES

Row = Mapping[str, Any]

UNSTABLE = 0.3
"""Jaccard of two draws below which a selection is shown as noise."""

_CAPTION = (
    "All layers together, 95 % intervals over images. Retest: Jaccard of the selection with that of a second draw, in "
    "brackets with permuted outputs; red: below .3. Touch, overlap: shares of patches and of their area on the object, "
    "less those of random units; green: the interval is above 0, red: below. Classifier: accuracy on patches alone, of "
    "images that it has not seen."
)


def means_table(means: pa.Table, secondary: pa.Table) -> Table:
    """The run's own weights, all classes and layers together: a line a metric, number of units and size of the object.

    Args:
        means: selection_means.parquet.
        secondary: secondary.parquet.
    """
    rows = [row for row in means.to_pylist() if row["checkpoint"] is None]
    of_images = [
        row for row in rows if row["selected_for"] == "image" and row["layer"] is None and row["class"] is None
    ]
    order = list(METRIC_NAMES)
    lines = [*of_images, *_pooled(rows)]
    lines.sort(key=lambda row: (order.index(row["metric"]), row["top"], row["selected_for"]))
    placed = any(row["touch"] is not None for row in of_images)
    told = {(row["metric"], row["top"]): row for row in secondary.to_pylist() if row["checkpoint"] is None}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=_CAPTION)
    table.add_column("metric", min_width=10)
    table.add_column("units", justify="right")
    table.add_column("images", no_wrap=True)
    for heading in ("retest", "chance", *(("touch", "overlap") if placed else ()), "classifier"):
        table.add_column(heading, justify="right", no_wrap=heading in ("retest", "chance"))
    last = ("", 0)
    for row in lines:
        key = (row["metric"], row["top"])
        names = ("", "") if key == last else (METRIC_NAMES[row["metric"]], str(row["top"]))
        own = told.get(key) if row["objects"] == "all" and row["selected_for"] == "image" else None
        table.add_row(*names, *_cells(row, own, placed))
        last = key
    return table


def _pooled(rows: Sequence[Row]) -> Iterator[Row]:
    """Selections for classes, a line a number of units: means over classes and layers."""
    own = [row for row in rows if row["selected_for"] == "class"]
    for metric, top in dict.fromkeys((row["metric"], row["top"]) for row in own):
        some = [row for row in own if (row["metric"], row["top"]) == (metric, top)]
        means = {name: _mean([row[name] for row in some]) for name in ("retest", "retest_null", "chance")}
        images = sum(row["images"] for row in some) // len({row["layer"] for row in some})
        yield {**some[0], **means, "images": images}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cells(row: Row, secondary: Row | None, placed: bool) -> list[Text | str]:
    kind = "by class" if row["selected_for"] == "class" else row["objects"]
    stable = _number(row["retest"]) + ("" if row["retest_null"] is None else f" ({_number(row['retest_null'])})")
    unstable = row["retest"] is not None and row["retest"] < UNSTABLE
    places = [_difference(row, name) for name in ("touch_difference", "overlap_difference")] if placed else []
    return [
        f"{row['images']:,} {kind}",
        Text(stable, style="red" if unstable else ""),
        _number(row["chance"]),
        *places,
        "" if secondary is None else _interval(secondary, "accuracy"),
    ]


def _difference(row: Row, name: str) -> Text:
    if row["metric"] == "random" or row[name] is None:
        return Text("")
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    style = "" if low is None else "green" if low > 0 else "red" if high < 0 else ""
    return Text(_interval(row, name), style=style)


def _interval(row: Row, name: str) -> str:
    mean, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if mean is None:
        return "–"
    return _number(mean) if low is None else f"{_number(mean)} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    text = f"{abs(value):.2f}"
    text = text.removeprefix("0") if text.startswith("0") else text
    return f"−{text}" if value < 0 and float(text) > 0 else text
