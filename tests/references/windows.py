"""Slow twin of gmm_ops.graphs.windows: follow every single tap of every op, on axes without ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Op(NamedTuple):
    """One op on one axis."""

    kernel: int
    stride: int
    dilation: int
    padding: int


def tapped_positions(ops_from_above: Sequence[Op], position: int) -> set[int]:
    """Every lower position that upper ``position`` reads through the chain of ops, upper op first."""
    reached = {position}
    for op in ops_from_above:
        reached = {op.stride * place - op.padding + op.dilation * tap for place in reached for tap in range(op.kernel)}
    return reached


def cropped_hull(positions: set[int], extent: int) -> tuple[int, int] | None:
    """Smallest (start, stop) over the positions, cropped to [0, extent); None when nothing is left."""
    start, stop = max(min(positions), 0), min(max(positions) + 1, extent)
    return (start, stop) if start < stop else None
