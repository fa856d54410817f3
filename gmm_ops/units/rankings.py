"""Order among the units of a layer: which are taken, by chance too, and how far two orders agree.

Source: ICQ section on relevance (Table I, whose "error" is left undefined: overlap@k and Spearman's rho stand for it).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Record

Selection = Literal["top", "bottom", "random"]
Scores = Float[np.ndarray, " D"]


def units_taken(share: float, units: int) -> int:
    """max(1, round(share * units)): how many units a share of a layer is. Raises RefusedInput outside of (0, 1]."""
    if not 0 < share <= 1:
        raise RefusedInput(f"share: must be above 0 and at most 1, got {share:g}; 0.03 is 3 %")
    return max(1, round(share * units))


def best_first(scores: Scores) -> Int[np.ndarray, " D"]:
    """Units from the highest score down; of equal ones the lower number first. Raises RefusedInput on NaN."""
    if np.isnan(scores).any():
        raise RefusedInput("scores: must not hold NaN, got one; leave out the layer that has no score")
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def select_units(scores: Scores, share: float, selection: Literal["top", "bottom"]) -> Int[np.ndarray, " k"]:
    """The best or the worst share of a layer's units, ascending numbers. Raises RefusedInput, see ``units_taken``."""
    count = units_taken(share, len(scores))
    order = best_first(scores)
    return np.sort(order[:count] if selection == "top" else order[::-1][:count])


def random_units(layer: str, units: int, share: float, draw: int, seed: int) -> Int[np.ndarray, " k"]:
    """A share of a layer's units by chance; of one draw, a larger share holds the smaller ones.

    Depends on nothing but its arguments: every actor and every share draws alike.
    """
    order = np.random.default_rng([seed, draw, zlib.crc32(layer.encode())]).permutation(units)
    return np.sort(order[: units_taken(share, units)])


def rank_correlation(left: Scores, right: Scores) -> float:
    """Spearman's rho, with mean ranks where scores are equal; NaN where one side has one value only."""
    ranks = [_mean_ranks(np.asarray(side, np.float64)) for side in (left, right)]
    centred = [rank - rank.mean() for rank in ranks]
    spread = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float(centred[0] @ centred[1]) / spread if spread > 0 else float("nan")


def _mean_ranks(scores: Scores) -> Float[np.ndarray, " D"]:
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


@dataclass(frozen=True)
class Agreement(Record):
    """How an order of units agrees with the detectors of a class in a layer.

    Attributes:
        detectors: k, units that detect the class.
        overlap: share of the k best units that are detectors; NaN for k = 0.
        chance: the same for k units drawn by chance, k / D.
        correlation: Spearman's rho of the scores with the detectors' IoU, over all units.
    """

    detectors: int
    overlap: float
    chance: float
    correlation: float


def agreement(scores: Scores, iou: Scores, detects: Bool[np.ndarray, " D"]) -> Agreement:
    """Compare scores of a layer's units with their IoU. Raises RefusedInput unless all have one value a unit."""
    if not len(scores) == len(iou) == len(detects):
        raise RefusedInput(
            f"iou: must have a value for each of the {len(scores)} units, got {len(iou)} and {len(detects)}; take both "
            "from one layer"
        )
    count = int(detects.sum())
    overlap = float(detects[best_first(scores)[:count]].mean()) if count else float("nan")
    return Agreement(count, overlap, count / len(scores), rank_correlation(scores, iou))
