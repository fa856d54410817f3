"""What patterns are worth: do they stay at their part, do they move with it, is it one part that they show.

Source: EG, "location instability" and "part interpretability". Stability alone rewards standing still, so it is told
beside what stands still on the same images, and beside ``follow``. Lengths are shares of the diagonal of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite, nan, sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.inputs import as_count, as_float64
from gmm_ops.records import Record

_Z = 1.959964
"""Of a normal interval of 95 %."""


@dataclass(frozen=True)
class Stability(Record):
    """Square roots of mean variances of the distance to a part, over pairs of pattern and part; NaN without any.

    Attributes:
        patterns: of where the patterns sit.
        constant: of each pattern's mean place on the same images.
        centre: of the middle of the object on the same images.
        follow: var(part - place) / var(part) in sides of the object, both summed over pairs: 1 for what stands still,
            below 1 for what moves with the part.
        pairs: how many pairs of pattern and part have at least two images.
    """

    patterns: float
    constant: float
    centre: float
    follow: float
    pairs: int


def top_images(scores: Float[Tensor, "n V"], images: int = 20) -> Int[Tensor, "V k"]:
    """The images of highest score of each pattern, best first, -1 where no further image has a place.

    Of equals the lower image.
    """
    values, order = torch.sort(scores.T, dim=1, descending=True, stable=True)
    kept = min(as_count("images", images), len(scores))
    return torch.where(values > 0, order, -1)[:, :kept]


def location_stability(
    found: PatternPlaces,
    parts: Float[Tensor, "n P 2"],
    sizes: Float[Tensor, "n 2"] | None = None,
    best: int = 500,
    images: int = 20,
) -> Stability:
    """How steadily the best patterns keep their distance to annotated parts, in each pattern's best images.

    Args:
        found: where patterns sit, or raw peaks.
        parts: middle of each part, row and column on the object; NaN where an object has none.
        sizes: height and width of the objects, for lengths as in the photo; None: squares.
        best: patterns of largest total score that are looked at.
        images: of each pattern and part, among those that show the part.

    Raises:
        RefusedInput: other objects in ``parts`` or ``sizes``.
    """
    count = len(found.scores)
    scale = _scale(sizes, count)
    if parts.ndim != 3 or parts.shape[::2] != (count, 2):
        raise RefusedInput(f"parts: must have shape ({count}, P, 2), got {tuple(parts.shape)}; NaN for absent parts")
    chosen = found.scores.double().sum(dim=0).sort(descending=True, stable=True).indices[: as_count("best", best)]
    sums = torch.zeros(5, dtype=torch.float64)
    pairs = 0
    for part in range(parts.shape[1]):
        there = parts[:, part].double()
        shown = ~there.isnan().any(dim=1)
        scores = torch.where(shown[:, None], found.scores[:, chosen], 0.0)
        for pattern, rows in zip(chosen.tolist(), top_images(scores, images), strict=True):
            rows = rows[rows >= 0]
            if len(rows) > 1:
                sums += _variances(found.places[rows, pattern].double(), there[rows], scale[rows])
                pairs += 1
    if not pairs:
        return Stability(nan, nan, nan, nan, pairs)
    patterns, constant, centre = (sums[:3] / pairs).sqrt().tolist()
    return Stability(patterns, constant, centre, float(sums[3] / sums[4]), pairs)


def _variances(places: Tensor, part: Tensor, scale: Tensor) -> Float[Tensor, "5"]:
    """Of the distance from the places, their mean and the centre to a part; of part - place; of the part."""
    standing = (places, places.mean(dim=0), torch.full((2,), 0.5, dtype=torch.float64))
    distances = [torch.linalg.vector_norm((part - one) * scale, dim=1).var(correction=0) for one in standing]
    # Not in diagonals: objects of other shapes would let what stands still in them move.
    moved = [one.var(dim=0, correction=0).sum() for one in (part - places, part)]
    return torch.stack([*distances, *moved])


def _scale(sizes: Float[Tensor, "n 2"] | None, count: int) -> Float[Tensor, "n 2"]:
    """Rows and columns of an object in diagonals of it."""
    if sizes is None:
        return torch.full((count, 2), 0.5**0.5, dtype=torch.float64)
    exact = as_float64("sizes", sizes, (count, 2))
    scale: Tensor = exact / torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return scale


def normalised_errors(
    found: Float[Tensor, "n 2"], parts: Float[Tensor, "n 2"], sizes: Float[Tensor, "n 2"] | None = None
) -> Float[Tensor, " n"]:
    """Distance from where a part was found to where it is, over the object's diagonal; NaN where either is unknown.

    Controls are found places like others: the middle (0.5, 0.5), and the mean of the annotated parts.

    Args:
        found: row and column on the object.
        parts: the true middle.
        sizes: height and width of the objects; None: squares.
    """
    away = (found.double() - parts.double()) * _scale(sizes, len(found))
    errors: Tensor = torch.linalg.vector_norm(away, dim=1)
    return errors


def jackknife_interval(middle: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a measure, from the same without each group of images in turn; NaN where it cannot be told."""
    known = [value for value in without if isfinite(value)]
    if len(known) < 2 or not isfinite(middle):
        return nan, nan
    mean = fsum(known) / len(known)
    spread = _Z * sqrt((len(known) - 1) / len(known) * fsum((value - mean) ** 2 for value in known))
    return middle - spread, middle + spread


def energy_regions(maps: Float[Tensor, "*batch H W"], share: float = 0.3) -> Bool[Tensor, "*batch H W"]:
    """The fewest positions that hold this share of a map's sum, strongest first; none where the map is 0.

    Of equals the first in order of rows. Raises RefusedInput for a share outside 0 to 1.
    """
    if not 0 < share <= 1:
        raise RefusedInput(f"share: must lie above 0 and up to 1, got {share}; 0.3 is the method's")
    flat = maps.double().flatten(-2)
    values, order = torch.sort(flat, dim=-1, descending=True, stable=True)
    before = values.cumsum(dim=-1) - values
    inside = (before < share * values.sum(dim=-1, keepdim=True)) & (values > 0)
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, order, inside).reshape(maps.shape)


def covered_parts(
    regions: Bool[Tensor, "b H W"], grid: PositionGrid, boxes: Float[Tensor, "b P 4"]
) -> Int[Tensor, " b"]:
    """The part whose box holds most positions of a region; -1 where no box holds one. Of equals the first part.

    Args:
        regions: of ``energy_regions``.
        grid: of the map.
        boxes: top, left, bottom, right on the object; NaN where it lacks the part.
    """
    places = grid.positions()[None, None]
    low, high = boxes.double()[:, :, None, None, :2], boxes.double()[:, :, None, None, 2:]
    inside = ((places >= low) & (places <= high)).all(dim=-1)
    held = (inside & regions[:, None]).sum(dim=(2, 3))
    most, part = held.max(dim=1)
    return torch.where(most > 0, part, -1)


def purity(parts: Int[Tensor, "V K"]) -> Float[Tensor, " V"]:
    """Share of a pattern's K regions that cover the part that most of them cover; 0 where none covers a part."""
    names = torch.arange(max(int(parts.max()) + 1, 1)) if parts.numel() else torch.zeros(1).long()
    counts = (parts[:, :, None] == names).sum(dim=1)
    return counts.max(dim=1).values.double() / max(parts.shape[1], 1)
