"""Sums beside the overlaps: which units make a word, and which images show a unit or a word most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums

_FRACTION = 2.0**24
"""Every float16 is a whole number of 2^-24."""

_MOST_POSITIONS = 8_192
"""In float64 so many whole numbers of at most 2^40 add up without rounding."""


@dataclass(frozen=True)
class WordSums(Sums):
    """Activations of the columns of each word, as whole numbers of 2^-24, so that any split gives the same bits.

    Attributes:
        columns: (K,) how many each word has.
        sums: (K, D) of their float16 activations, times 2^24.
    """

    columns: Int[np.ndarray, " K"]
    sums: Int[np.ndarray, "K D"]

    @classmethod
    def zero(cls, words: int, units: int) -> Self:
        """The neutral element."""
        return cls(np.zeros(words, np.int64), np.zeros((words, units), np.int64))

    def add(self, columns: Float[np.ndarray, "n D"], words: Int[np.ndarray, " n"]) -> None:
        """Add finite float16 columns, in place; words below 0 take no part."""
        for first in range(0, len(words), _MOST_POSITIONS):
            some, own = columns[first : first + _MOST_POSITIONS], words[first : first + _MOST_POSITIONS]
            here, place = np.unique(own[own >= 0], return_inverse=True)
            one_hot = np.zeros((len(here), len(place)))
            one_hot[place, np.arange(len(place))] = 1
            self.sums[here] += (one_hot @ (some[own >= 0].astype(np.float64) * _FRACTION)).astype(np.int64)
            self.columns[here] += np.bincount(place, minlength=len(here))

    def z_scores(self, mean: Float[np.ndarray, " D"], spread: Float[np.ndarray, " D"]) -> Float[np.ndarray, "K D"]:
        """How many standard deviations of the layer the mean of a word lies above the layer's.

        NaN for words without a column; 0 for units that do not vary.
        """
        counts = np.where(self.columns > 0, self.columns, np.nan)[:, None]
        away = self.sums / _FRACTION / counts - mean
        return np.asarray(np.divide(away, spread, out=np.where(np.isnan(away), np.nan, 0.0), where=spread > 0))


@dataclass(frozen=True)
class StrongestImages(Sums):
    """The images that show each of M units or words most; ties go to the lower image.

    Attributes:
        values: (M, k) descending; -inf where there is no further image.
        images: (M, k) their ids, -1 where there is none.
    """

    values: Float[np.ndarray, "M k"]
    images: Int[np.ndarray, "M k"]

    @classmethod
    def zero(cls, masks: int, kept: int) -> Self:
        """The neutral element: of a number of units or words, and of images kept for each."""
        return cls(np.full((masks, kept), -np.inf), np.full((masks, kept), -1, np.int64))

    @classmethod
    def from_batch(cls, values: Float[np.ndarray, "n M"], images: Sequence[int], kept: int) -> Self:
        """Of a value for each image and unit; -inf: not shown at all."""
        found = cls.zero(values.shape[1], 0)
        numbers = np.where(np.isneginf(values.T), -1, np.asarray(images, np.int64))
        return found._best(values.T.astype(np.float64), numbers, kept)

    def merge(self, other: Self) -> Self:
        """The strongest of both. Raises RefusedInput where the masks differ."""
        if self.values.shape != other.values.shape:
            raise RefusedInput(
                f"merge: both must be of the same masks and images kept, got {self.values.shape} and "
                f"{other.values.shape}; merge those of one layer"
            )
        values = np.concatenate([self.values, other.values], axis=1)
        return self._best(values, np.concatenate([self.images, other.images], axis=1), self.values.shape[1])

    def _best(self, values: Float[np.ndarray, "M n"], images: Int[np.ndarray, "M n"], kept: int) -> Self:
        short = max(0, kept - values.shape[1])
        values = np.pad(values, ((0, 0), (0, short)), constant_values=-np.inf)
        images = np.pad(images, ((0, 0), (0, short)), constant_values=-1)
        order = np.lexsort((images, -values), axis=1)[:, :kept]
        return replace(self, values=np.take_along_axis(values, order, 1), images=np.take_along_axis(images, order, 1))
