"""A sweep for the terminal: one line a cell, and what the paper leads one to expect (IG Fig. 4 right) beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.report.numbers import MINUS

BELOW_FROM = 25
"""From so many words on, discriminative words should beat generative ones."""

NEAR_FROM = 50
"""From so many words on, the last layer should be near the network's own error."""

NEAR = 0.01
"""How near, as a difference of error shares."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A statement, whether every point of it holds, and the numbers. ``holds`` is None where nothing was measured."""

    statement: str
    holds: bool | None
    numbers: tuple[str, ...]


def sweep_verdicts(rows: pa.Table) -> list[Verdict]:
    """The statements about soft histograms; none for a sweep of likelihoods alone.

    A difference is a tie where its paired 95 % interval holds 0.
    """
    soft = [row for row in rows.to_pylist() if row["histogram"] == "soft"]
    layers = list(dict.fromkeys(row["given"] for row in soft))
    if not layers:
        return []
    trained = [row for row in soft if row["loss"] == "discriminative"]
    return [
        _below(layers, trained),
        _near(layers[-1], trained),
        _more_words(layers[:-1], soft, "in every layer but the last, more words are never clearly worse"),
        _more_words(layers[-1:], soft, f"in the last layer, {layers[-1]}, more words are never clearly worse"),
    ]


def _below(layers: Sequence[str], trained: Sequence[Row]) -> Verdict:
    asked = [row for row in trained if row["words"] >= BELOW_FROM]
    above = [row for row in asked if row["difference"] >= 0]
    clearly = [row for row in asked if row["difference_high"] < 0]
    worse = [row for row in asked if row["difference_low"] > 0]
    statement = f"discriminative words are below generative ones at every layer for K >= {BELOW_FROM}"
    if not asked:
        return Verdict(statement, None, ())
    numbers = [
        f"{len(asked) - len(above)} of {len(asked)} below, {len(clearly)} of them clearly; "
        f"{sum(row['tie'] for row in asked)} ties; {len(worse)} clearly above"
    ]
    for layer in layers:
        here = [row for row in asked if row["given"] == layer]
        if here:
            numbers.append(f"{layer}: " + ", ".join(_difference(row, "") for row in here))
    return Verdict(statement, not above, tuple(numbers))


def _near(last: str, trained: Sequence[Row]) -> Verdict:
    asked = [row for row in trained if row["given"] == last and row["words"] >= NEAR_FROM]
    statement = (
        f"last layer, {last}, K >= {NEAR_FROM}: discriminative words are within {NEAR:g} of the network's own error"
    )
    # Whole images decide: 0.095 - 0.085 is above 0.01 in floating point.
    holds = all(row["errors"] - row["network_errors"] <= NEAR * row["images"] + 1e-6 for row in asked)
    numbers = [f"K={row['words']} {row['error']:.3f} against {row['network_error']:.3f}, {_gap(row)}" for row in asked]
    return Verdict(statement, holds if asked else None, tuple(numbers))


def _gap(row: Row) -> str:
    return f"{_signed(row['network_difference'])} {_interval(row, 'network_')}"


def _more_words(layers: Sequence[str], soft: Sequence[Row], statement: str) -> Verdict:
    steps = [row for row in soft if row["given"] in layers and row["fewer_words"] is not None]
    if not steps:
        return Verdict(statement, None, ())
    worse = [row for row in steps if row["fewer_difference_low"] > 0]
    better = [row for row in steps if row["fewer_difference_high"] < 0]
    numbers = [
        f"{len(steps)} steps from one K to the next: {len(better)} clearly better, "
        f"{len(steps) - len(better) - len(worse)} ties, {len(worse)} clearly worse "
        f"(of as many true ties, chance alone calls {0.025 * len(steps):.1f} worse)"
    ]
    numbers += [
        f"{row['given']} {row['loss']}, K={row['fewer_words']} to {row['words']}: {_difference(row, 'fewer_')}"
        for row in worse
    ]
    return Verdict(statement, not worse, tuple(numbers))


def _difference(row: Row, prefix: str) -> str:
    low, high = row[f"{prefix}difference_low"], row[f"{prefix}difference_high"]
    tie = " tie" if low <= 0 <= high else ""
    return f"K={row['words']} {_signed(row[f'{prefix}difference'])} {_interval(row, prefix)}{tie}"


def _interval(row: Row, prefix: str) -> str:
    return f"[{_signed(row[f'{prefix}difference_low'])}, {_signed(row[f'{prefix}difference_high'])}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


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
    difference = Text("–") if trained is None else _gain(trained)
    return [*errors, difference, likelihood, f"{per_column:.2f}".replace("-", MINUS)]


def _gain(row: Row) -> Text:
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
