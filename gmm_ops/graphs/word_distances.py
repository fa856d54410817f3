"""How far the centres of a layer's words lie apart, within and between dominant classes (IG Fig. 4, top left)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.gaussian import refuse_non_finite


@dataclass(frozen=True)
class ClassDistances:
    """Mean Euclidean distance between the centres of two different words, layer units.

    within: over pairs with the same dominant class; None without such a pair. between: over pairs with different
    ones; None likewise. within_pairs, between_pairs: how many unordered pairs each is the mean of.
    """

    within: float | None
    between: float | None
    within_pairs: int
    between_pairs: int

    @property
    def ratio(self) -> float | None:
        """within / between: below 1, words of a class lie together. None where either is unknown or between is 0."""
        return self.within / self.between if self.within is not None and self.between else None


@torch.no_grad()
def centre_distances(mean: WordStatistics) -> Float[Tensor, "K K"]:
    """Euclidean distance between every two centres, layer units, float64: symmetric, 0 on the diagonal.

    mean: (K, D), any float type. By differences, never |a|^2 + |b|^2 - 2ab, which cancels where centres lie far from
    0 and close together. Source: IG Fig. 4. Raises NonFiniteActivations, RefusedInput.
    """
    if mean.ndim != 2:
        raise RefusedInput(f"mean must have shape (K, D), a centre a row; got {tuple(mean.shape)}")
    refuse_non_finite(mean)
    exact = mean.double().contiguous()
    return torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def class_distances(
    distances: Float[Tensor, "K K"], dominant: Int[Tensor, " K"], columns: Int[Tensor, " K"] | None = None
) -> ClassDistances:
    """Mean distance within the same dominant class and between different ones, over unordered pairs of words.

    distances: of ``centre_distances``. dominant: (K,) dominant class of each word; a value below 0 leaves the word
    out. columns: (K,) 0 or more; a pair of words weighs as many pairs of their columns as there are, so that a word of
    a single column, far from all others and pure by definition, says little. None: pairs weigh the same.
    Raises RefusedInput where the shapes disagree.
    """
    words = distances.shape[0]
    if distances.shape != (words, words) or dominant.shape != (words,):
        raise RefusedInput(
            f"distances must have shape (K, K) and dominant (K,), of the same words; got {tuple(distances.shape)} and "
            f"{tuple(dominant.shape)}. Pass the dominant class of every word, -1 for a word without columns."
        )
    used = dominant >= 0
    order = torch.arange(words, device=distances.device)
    pairs = (order[:, None] < order) & used[:, None] & used
    if columns is not None:
        pairs &= (columns[:, None] > 0) & (columns > 0)
    weights = torch.ones_like(distances) if columns is None else columns.double()[:, None] * columns.double()
    same = pairs & (dominant[:, None] == dominant)
    other = pairs & (dominant[:, None] != dominant)
    within, between = (_mean(distances[chosen], weights[chosen]) for chosen in (same, other))
    return ClassDistances(within, between, int(same.sum()), int(other.sum()))


def _mean(values: Float[Tensor, " P"], weights: Float[Tensor, " P"]) -> float | None:
    return float((values.double() * weights).sum() / weights.double().sum()) if values.numel() else None
