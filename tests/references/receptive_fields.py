"""R(p) without window arithmetic: sets of positions, and NaN put into one lower column after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AxisOp:
    """A convolution or pooling on one axis: the positions it reads, straight from its definition."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    def reads(self, position: int) -> set[int]:
        return {self.stride * position - self.padding + self.dilation * tap for tap in range(self.kernel)}


def positions_read(position: int, ops: Sequence[AxisOp]) -> set[int]:
    """Lower positions, uncropped, that an upper position reads through ops listed from the upper layer downwards."""
    positions = {position}
    for op in ops:
        positions = {lower for upper in positions for lower in op.reads(upper)}
    return positions


def columns_fed(resume: Callable[[Tensor], Tensor], lower: Tensor, sample: Sequence[tuple[int, int]]) -> list[Tensor]:
    """For each lower position (y, x): which upper columns become NaN, a bool map (H, W).

    ``resume`` is the part of the network above the lower layer, ``lower`` its maps (1, D, H, W) in float64.
    """
    found = []
    for y, x in sample:
        poisoned = lower.clone()
        for unit in range(lower.shape[1]):
            poisoned[0, unit, y, x] = float("nan")
        upper = resume(poisoned)
        rows = []
        for row in range(upper.shape[2]):
            rows.append([bool(torch.isnan(upper[0, :, row, column]).any()) for column in range(upper.shape[3])])
        found.append(torch.tensor(rows))
    return found
