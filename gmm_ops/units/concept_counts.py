"""How much of every concept lies where a unit is strong, or a word is: intersections, areas, IoU.

Source: IoU of ICQ Eq. 1 and of network dissection (Bau et al. 2017). A unit's map is upsampled to the labels
bilinearly, half-pixel centres, as a + t (b - a) in float64, rows first; its mask is what exceeds its threshold. A word
map is upsampled by the nearest position, half-pixel centres, so that the words of a dictionary share every pixel out
among them. Integers throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16, UInt32

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums
from gmm_ops.units import tally_loops

Denominator = Literal["paper", "lite"]
"""paper: a mask's area counts in images that carry any label of the concept's category; lite (NetDissect-Lite): only
in those where the mask itself touches one."""

PATTERN_BITS = 32


@dataclass(frozen=True)
class LabelCounts(Sums):
    """What the labels of some images hold.

    Attributes:
        areas: (C,) pixels of every concept.
        images: (G,) how many images carry a label of every category.
        pixels: (G,) of these images.
    """

    areas: Int[np.ndarray, " C"]
    images: Int[np.ndarray, " G"]
    pixels: Int[np.ndarray, " G"]

    @classmethod
    def zero(cls, concepts: int, categories: int) -> Self:
        """The neutral element."""
        return cls(*(np.zeros(size, np.int64) for size in (concepts, categories, categories)))


@dataclass(frozen=True)
class OverlapCounts(Sums):
    """Masks of units at Q thresholds each, or of words (Q = 1), against concepts.

    Attributes:
        intersections: (D, Q, C) pixels of mask and concept.
        areas: (D, Q, G) pixels of the mask in images that carry any label of the category.
        lite_areas: (D, Q, G) the same in images where the mask touches one.
    """

    intersections: Int[np.ndarray, "D Q C"]
    areas: Int[np.ndarray, "D Q G"]
    lite_areas: Int[np.ndarray, "D Q G"]

    @classmethod
    def zero(cls, masks: int, shares: int, concepts: int, categories: int) -> Self:
        """The neutral element."""
        sizes = (concepts, categories, categories)
        return cls(*(np.zeros((masks, shares, size), np.int64) for size in sizes))

    def iou(
        self, labels: LabelCounts, categories: Int[np.ndarray, " C"], denominator: Denominator = "paper"
    ) -> Float[np.ndarray, "D Q C"]:
        """Intersection over union; 0 where neither has a pixel.

        Args:
            labels: of the same images.
            categories: of every concept.
            denominator: in which images a mask's area counts.
        """
        areas = self.areas if denominator == "paper" else self.lite_areas
        union = areas[:, :, categories] + labels.areas - self.intersections
        return np.asarray(np.divide(self.intersections, union, out=np.zeros(union.shape), where=union > 0))


class ConceptTally:
    """Adds up images: their labels, units and words. Everything it holds is a sum of integers.

    Args:
        categories: (C,) category of every concept, from 0.
        labels: (L, H, W) of one image: 0 none, c + 1 concept c.

    Raises:
        RefusedInput: a label beyond the concepts.
    """

    def __init__(self, categories: Sequence[int] | Int[np.ndarray, " C"], labels: UInt16[np.ndarray, "L H W"]) -> None:
        self._category = np.asarray(categories, np.int64)
        self._groups = int(self._category.max(initial=-1)) + 1
        highest = int(labels.max(initial=0))
        if labels.ndim != 3 or highest > len(self._category):
            raise RefusedInput(
                f"labels: must have the axes (layers, rows, columns) and hold 0 to {len(self._category)}, got shape "
                f"{labels.shape} and {highest}; label c + 1 is concept c"
            )
        self._shape = labels.shape[1:]
        areas = np.bincount(labels.ravel(), minlength=len(self._category) + 1)[1:]
        self._present = np.flatnonzero(areas)
        local = np.zeros(len(self._category) + 1, np.uint16)
        local[self._present + 1] = np.arange(1, len(self._present) + 1)
        self._labels = np.ascontiguousarray(local[labels])
        self._carried = np.unique(self._category[self._present])
        self._areas = areas.astype(np.int64)

    @property
    def is_empty(self) -> bool:
        """No label: such an image adds nothing."""
        return not len(self._present)

    def labels(self, into: LabelCounts) -> None:
        """Add the labels, in place."""
        into.areas[:] += self._areas
        into.images[self._carried] += 1
        into.pixels[self._carried] += int(np.prod(self._shape))

    def units(
        self, into: OverlapCounts, maps: Float[np.ndarray, "D h w"], thresholds: Float[np.ndarray, "D Q"]
    ) -> None:
        """Add the masks of units, in place.

        Args:
            into: of D masks and Q shares.
            maps: activations of the image.
            thresholds: descending in Q; a pixel is in the mask where the upsampled map exceeds it.
        """
        if self.is_empty:
            return
        rows, columns = (_axis(low, high) for low, high in zip(maps.shape[1:], self._shape, strict=True))
        tally_loops.tally_units(
            np.ascontiguousarray(maps, np.float64),
            np.ascontiguousarray(thresholds, np.float64),
            self._labels,
            rows,
            columns,
            *self._places(),
            into.intersections,
            into.areas,
            into.lite_areas,
        )

    def words(self, into: OverlapCounts, words: Int[np.ndarray, "h w"]) -> None:
        """Add the masks of words, in place; words below 0 take no part."""
        if self.is_empty:
            return
        rows, columns = (nearest_positions(low, high) for low, high in zip(words.shape, self._shape, strict=True))
        tally_loops.tally_words(
            np.ascontiguousarray(words, np.int64),
            self._labels,
            rows,
            columns,
            *self._places(),
            into.intersections,
            into.areas,
            into.lite_areas,
        )

    def _places(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"], Int[np.ndarray, " g"]]:
        return self._present, self._category[self._present], self._carried


Axis = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]


def axis_weights(low: int, high: int) -> Axis:
    """Of ``high`` pixels over ``low`` positions: the position before, the one behind, and the weight of that one.

    Half-pixel centres, as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
    """
    place = np.maximum((np.arange(high) + 0.5) * low / high - 0.5, 0.0)
    first = np.minimum(place.astype(np.int64), low - 1)
    return first, np.minimum(first + 1, low - 1), place - first


def nearest_positions(low: int, high: int) -> Int[np.ndarray, " high"]:
    """Of ``high`` pixels over ``low`` positions: in which position the centre of each pixel lies."""
    return (2 * np.arange(high) + 1) * low // (2 * high)


def _axis(low: int, high: int) -> tuple[Int[np.ndarray, " n"], ...]:
    """Weights, and where pixels begin that lie between another pair of positions, with their number at the end."""
    first, second, weight = axis_weights(low, high)
    change = np.flatnonzero((np.diff(first) != 0) | (np.diff(second) != 0)) + 1
    return first, second, weight, np.concatenate([[0], change, [high]])


def mask_patterns(
    maps: Float[np.ndarray, "D h w"],
    units: Int[np.ndarray, " m"],
    thresholds: Float[np.ndarray, " m"],
    size: tuple[int, int],
) -> UInt32[np.ndarray, "H W"]:
    """At every pixel, as bits, which of at most 32 units exceed their thresholds. Raises RefusedInput for more."""
    if len(units) > PATTERN_BITS:
        raise RefusedInput(f"units: must be at most {PATTERN_BITS}, got {len(units)}; leave out the weakest")
    found = np.zeros(size, np.uint32)
    rows, columns = (_axis(*pair) for pair in zip(maps.shape[1:], size, strict=True))
    wide = np.ascontiguousarray(maps[units], np.float64)
    limits = np.ascontiguousarray(thresholds, np.float64)
    tally_loops.mark_masks(wide, np.arange(len(units)), limits, rows, columns, found)
    return found


def word_mask(words: Int[np.ndarray, "h w"], word: int, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Where a word lies, upsampled."""
    rows, columns = (nearest_positions(*pair) for pair in zip(words.shape, size, strict=True))
    return np.asarray((words == word)[rows[:, None], columns])


def iou_cap(q: Float[np.ndarray, "*shape"], share: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """What no IoU exceeds: min(q / share, share / q) of a mask that covers q and a concept that covers ``share``."""
    low, high = np.minimum(q, share), np.maximum(q, share)
    return np.asarray(np.divide(low, high, out=np.zeros(np.broadcast(q, share).shape), where=high > 0))
