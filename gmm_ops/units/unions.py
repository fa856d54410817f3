"""Several units, or several words, taken together for one concept: chosen on some images, judged on others.

Masks of units overlap, so a union is counted from patterns: how many pixels, inside the concept and outside, show each
set of units at once. Words share the pixels out, so each word is a pattern of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from gmm_ops.errors import RefusedInput

RESAMPLES = 2_000
"""Of a percentile bootstrap."""


@dataclass(frozen=True)
class Union:
    """Masks taken one after the other.

    Attributes:
        members: places of the masks, in the order in which they were taken.
        iou: of the first 1, 2, ... of them on the images that they were chosen on.
    """

    members: tuple[int, ...]
    iou: tuple[float, ...]


def greedy_union(
    shown: Bool[np.ndarray, "n M"],
    inside: Int[np.ndarray, " n"],
    area: Int[np.ndarray, " n"],
    label_area: int,
    most: int,
) -> Union:
    """Take the mask that raises the IoU most, until none does.

    Args:
        shown: which of M masks each of n patterns shows; a pixel has one pattern.
        inside: pixels of each pattern inside the concept.
        area: pixels of each pattern, inside and outside.
        label_area: pixels of the concept.
        most: members at most.
    """
    if len(shown) != len(inside) or len(shown) != len(area):
        raise RefusedInput(
            f"shown: must have a row for each of {len(inside)} patterns and {len(area)} areas, got {len(shown)}"
        )
    left = np.ones(len(shown), bool)
    both = total = 0
    members: list[int] = []
    ious: list[float] = []
    while len(members) < most and shown.shape[1]:
        more = np.stack([inside * left, area * left]) @ shown
        union = total + more[1] + label_area - both - more[0]
        iou = np.divide(both + more[0], union, out=np.zeros(len(union)), where=union > 0)
        best = int(np.argmax(iou))
        if iou[best] <= (ious[-1] if ious else 0.0):
            break
        members.append(best)
        ious.append(float(iou[best]))
        both, total = both + int(more[0, best]), total + int(more[1, best])
        left &= ~shown[:, best]
    return Union(tuple(members), tuple(ious))


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap_weights(images: int, seed: int) -> Int[np.ndarray, "resamples images"]:
    """How often each image is drawn in each resample."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)


def pooled_iou(
    both: Int[np.ndarray, "images C"],
    union: Int[np.ndarray, "images C"],
    weights: Int[np.ndarray, "resamples images"] | None = None,
) -> Float[np.ndarray, "resamples C"]:
    """IoU of sums over images, for each resample; of all images once where there are no weights.

    Where a resample has no pixel of either it is NaN.
    """
    drawn = np.ones((1, len(both)), np.int64) if weights is None else weights
    # Floating-point products are exact here, below 2^53, and many times as fast as those of integers.
    above, below = drawn.astype(np.float64) @ both, drawn.astype(np.float64) @ union
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def interval(whole: float, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """Percentile interval; NaN resamples are left out."""
    kept = resampled[np.isfinite(resampled)]
    low, high = np.percentile(kept, [2.5, 97.5]) if len(kept) else (np.nan, np.nan)
    return Interval(whole, float(low), float(high))


def strongest(iou: Float[np.ndarray, "D Q"], most: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The masks with the largest IoU, each at its best threshold: places and thresholds, best first, none at 0."""
    best = iou.argmax(axis=1)
    value = iou[np.arange(len(iou)), best]
    order = np.argsort(-value, kind="stable")[:most]
    order = order[value[order] > 0]
    return order, best[order]


def pattern_sets(patterns: Sequence[int] | np.ndarray, masks: int) -> Bool[np.ndarray, "n M"]:
    """Which masks the bits of each pattern name."""
    return (np.asarray(patterns, np.uint32)[:, None] >> np.arange(masks, dtype=np.uint32)) & np.uint32(1) > 0
