"""Responses of units on crops of objects, and where their positions lie on the object.

Source: EG, Eq. 2 and 3 (F = beta max(f, 0)). An object is its box, resized to a square; a position is the middle of its
receptive field, over the side of the crop, so the maps of all layers lie in the same unit square.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.inputs import as_count, as_float64
from gmm_ops.records import Record, Sums


@dataclass(frozen=True)
class UnitMoments(Sums):
    """Sums over objects and positions that give each unit's standard deviation, float64.

    Attributes:
        values: how many a unit has.
        total: (D,) sum of its activations.
        square: (D,) of their squares.
    """

    values: int
    total: Float[Tensor, " D"]
    square: Float[Tensor, " D"]

    @classmethod
    def zero(cls, units: int) -> UnitMoments:
        """Of no object."""
        empty = torch.zeros(units, dtype=torch.float64)
        return cls(0, empty, empty)

    @classmethod
    def from_batch(cls, maps: Float[Tensor, "b D H W"]) -> UnitMoments:
        """Of the activations of some objects. Raises NonFiniteActivations, RefusedInput for another shape."""
        exact = _finite(maps).double()
        return cls(maps[:, 0].numel(), exact.sum(dim=(0, 2, 3)), exact.square().sum(dim=(0, 2, 3)))

    def deviations(self) -> Float[Tensor, " D"]:
        """Standard deviations, 0 for a unit that varies within rounding only. Raises RefusedInput without objects."""
        if not self.values:
            raise RefusedInput("objects: must be at least 1, got none; add from_batch of some")
        level = self.square / self.values
        variance = level - (self.total / self.values).square()
        return torch.where(variance > 1e-12 * level, variance.clamp(min=0).sqrt(), 0.0)


def responses(maps: Float[Tensor, "b D H W"], deviations: Float[Tensor, " D"]) -> Float[Tensor, "b D H W"]:
    """F = max(f, 0) / standard deviation of the unit, float32; a unit that does not vary responds nowhere.

    Args:
        maps: activations f, after batch norm where there is one, before the nonlinearity or after it.
        deviations: of the units, over all objects.

    Raises:
        NonFiniteActivations: NaN or infinity.
        RefusedInput: shapes that do not fit.
    """
    spread = as_float64("deviations", deviations, (_finite(maps).shape[1],))
    scale = torch.where(spread > 0, 1 / spread, 0.0).to(maps.device, torch.float32)
    return maps.float().clamp(min=0) * scale[:, None, None]


def _finite(maps: Tensor) -> Tensor:
    if maps.ndim != 4 or not maps.is_floating_point():
        raise RefusedInput(
            f"maps: must be floating and have shape (b, D, H, W), got {maps.dtype} {tuple(maps.shape)}; give the "
            "activations of one layer"
        )
    if not bool(torch.isfinite(maps).all()):
        place = tuple((~torch.isfinite(maps)).nonzero()[0].tolist())
        raise NonFiniteActivations(f"maps: must be finite, got {maps[place]} at {place}; leave that object out")
    return maps


@dataclass(frozen=True)
class PositionGrid(Record):
    """Where the positions of a layer lie on the object, in units of its side.

    Attributes:
        height, width: of the map.
        first: middle of the receptive field of position (0, 0), row and column.
        stride: from a position to the next, by row and by column.
    """

    height: int
    width: int
    first: tuple[float, float]
    stride: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            object.__setattr__(self, name, as_count(name, getattr(self, name)))
        if not all(math.isfinite(value) for value in self.first):
            raise RefusedInput(f"first: must be finite, got {self.first}; give the traced middle over the side")
        if not all(math.isfinite(value) and value > 0 for value in self.stride):
            raise RefusedInput(
                f"stride: must be above 0, got {self.stride}; place the positions of a layer that sees the whole image "
                "everywhere evenly, with 1 over their number"
            )

    @classmethod
    def from_field(
        cls, shape: tuple[int, int], offset: tuple[float, float], stride: tuple[float, float], side: float
    ) -> PositionGrid:
        """From a traced receptive field in pixels of the crop.

        Args:
            shape: (H, W) of the map.
            offset: middle of the field of position (0, 0): the first pixel's own middle is 0.5.
            stride: pixels from a position to the next.
            side: of the crop in pixels.
        """
        if not side > 0:
            raise RefusedInput(f"side: must be above 0, got {side}; give the side of the crop in pixels")
        return cls(*shape, (offset[0] / side, offset[1] / side), (float(stride[0]) / side, float(stride[1]) / side))

    @property
    def axes(self) -> tuple[float, float, float, float]:
        """First and stride of the rows, then of the columns."""
        return self.first[0], self.stride[0], self.first[1], self.stride[1]

    def positions(self) -> Float[Tensor, "H W 2"]:
        """(row, column) of every position, float64."""
        rows, columns = (
            first + stride * torch.arange(count, dtype=torch.float64)
            for first, stride, count in zip(self.first, self.stride, (self.height, self.width), strict=True)
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def check_coarsening(grids: Sequence[PositionGrid]) -> None:
    """Layers from the bottom to the top must not get finer: a pattern's parents are larger parts.

    Raises:
        RefusedInput: no layer, or one with a smaller stride than the layer below.
    """
    if not grids:
        raise RefusedInput("layers: must be at least 1, got none; name a convolutional layer")
    for place, (lower, upper) in enumerate(itertools.pairwise(grids)):
        if any(fine > coarse * (1 + 1e-9) for fine, coarse in zip(lower.stride, upper.stride, strict=True)):
            raise RefusedInput(
                f"layers: must get coarser upwards, got {lower.height} x {lower.width} at layer {place} below "
                f"{upper.height} x {upper.width}; order them from the input to the output, or leave one out"
            )


def check_object_sizes(sizes: Float[Tensor, "n 2"], grid: PositionGrid) -> None:
    """A box must have a pixel of the photo for each position of the finest map, or its positions show nothing apart.

    Args:
        sizes: height and width of every box, pixels of the photo.
        grid: of the lowest layer.

    Raises:
        RefusedInput: the first box that is smaller.
    """
    exact = as_float64("sizes", sizes, (None, 2))
    cell = exact * exact.new_tensor(grid.stride)
    small = (cell < 1).any(dim=1)
    if bool(small.any()):
        first = int(small.nonzero()[0])
        height, width = exact[first].tolist()
        raise RefusedInput(
            f"sizes: each object must have at least one pixel a cell, got {height:g} x {width:g} pixels for "
            f"{grid.height} x {grid.width} cells in object {first}; leave out {int(small.sum())} such objects"
        )
