"""What the paper leads one to expect of a sweep (IG Fig. 4 right), held against the numbers of sweep.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

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
