"""How often words sit on an object or a part of it, against chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmm_ops.units.ablation import wilson


@dataclass(frozen=True)
class Sighting:
    """Positions of a word in one photo.

    Attributes:
        image: row of the images table.
        positions: how many there are.
        inside: how many of them lie in the boxes; None where the photo has no such box.
        area: share of the visible photo that the boxes cover.
    """

    image: int
    positions: int
    inside: int | None
    area: float = 0.0


def share_row(sightings: Iterable[Sighting]) -> dict[str, Any]:
    """Columns ``images`` to ``area`` of a row of boxes.parquet.

    The area weighs every photo by its positions, so it is the share that positions would have that fall anywhere in
    their photos. Positions of one photo are not independent; the interval (Wilson 1927) takes Kish's effective number
    of photos, (sum n)^2 / sum n^2, for the number of trials, as if all positions of a photo agreed: wide, never narrow.
    """
    kept = list(sightings)
    photos = _by_photo(sighting for sighting in kept if sighting.inside is not None)
    row: dict[str, Any] = {
        "images": len(photos),
        "images_without": len({sighting.image for sighting in kept if sighting.inside is None}),
        "positions": int(photos[:, 0].sum()),
        "inside": int(photos[:, 1].sum()),
    }
    if not len(photos):
        return row
    positions, inside, area = photos.T
    share, trials = inside.sum() / positions.sum(), positions.sum() ** 2 / (positions**2).sum()
    low, high = wilson(share, trials)
    row |= {"share": share, "share_low": low, "share_high": high}
    return row | {"area": float((positions * area).sum() / positions.sum())}


def _by_photo(sightings: Iterable[Sighting]) -> np.ndarray:
    """(photos, 3): positions, positions inside, area. A photo may be seen by several words."""
    photos: dict[int, list[float]] = {}
    for sighting in sightings:
        seen = photos.setdefault(sighting.image, [0, 0, sighting.area])
        seen[0] += sighting.positions
        seen[1] += sighting.inside or 0
    return np.array(list(photos.values()), np.float64).reshape(-1, 3)


def pooled(words: Sequence[Sequence[Sighting]]) -> list[Sighting]:
    """The sightings of several words of a layer together."""
    return [sighting for word in words for sighting in word]
