"""What patterns see of the layer above, and which of its patterns they move with: greedy choice among candidates.

Source: EG, Eq. 7 (the parents that maximise the likelihood). With responsibilities held, the likelihood rises as the
variance over images of a pattern's place minus its shift falls, each image weighted by the pattern's mass in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.pattern_layer import NO_PARENT, PatternLayer, Rows
from gmm_ops.explanatory.pattern_loops import take_parents
from gmm_ops.inputs import as_count

BLOCK = 256
"""Images whose sums are one product: always the same ones, so that rounding does not depend on who adds them up."""


@dataclass(frozen=True)
class UpperPlaces:
    """How far the candidates for parents lie from their mean places in every image.

    Attributes:
        candidates: (C,) patterns of the layer above, ascending.
        precisions: (C,) 1 / variance of each: its weight in the mean (footnote 4).
        displacements: (n, 2, C) place - mean, rows and columns; 0 where a candidate has no place.
    """

    candidates: Int[Tensor, " C"]
    precisions: Float[Tensor, " C"]
    displacements: Rows

    @classmethod
    def of(cls, layer: PatternLayer, candidates: Int[Tensor, " C"], displacements: Rows) -> UpperPlaces:
        """From the layer above; ``displacements`` as the function of this name gives them."""
        return cls(candidates, layer.deviations.reshape(-1)[candidates].double().pow(-2), displacements)

    def columns(self, parents: Int[Tensor, "D N M"]) -> tuple[Int[np.ndarray, "D N M"], Float[np.ndarray, "D N M"]]:
        """Columns of ``displacements`` of parents, and their shares in the mean. Raises RefusedInput for others."""
        found = torch.searchsorted(self.candidates, parents.clamp(min=0).contiguous())
        found = found.clamp(max=len(self.candidates) - 1)
        known = parents >= 0
        if bool((known & (self.candidates[found] != parents)).any()):
            raise RefusedInput("parents: must be among the candidates, got others; give the displacements of all")
        weights = torch.where(known, self.precisions[found], 0.0)
        shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        return torch.where(known, found, NO_PARENT).numpy(), shares.numpy()


def best_candidates(totals: Float[Tensor, " V"], count: int = 600) -> Int[Tensor, " C"]:
    """The patterns of largest total score over all objects, ascending; of equals the lower."""
    order = torch.sort(totals, descending=True, stable=True).indices
    return order[: as_count("count", count)].sort().values


def displacements(
    places: Float[Tensor, "b V 2"], layer: PatternLayer, candidates: Int[Tensor, " C"]
) -> Float[Tensor, "b 2 C"]:
    """place - mean of the candidates in some images, float32; 0 where a pattern has no place."""
    means = layer.means.reshape(-1, 2)[candidates].to(places.device)
    away = places[:, candidates.to(places.device)].double() - means
    return away.nan_to_num(nan=0.0).transpose(1, 2).float().contiguous()


def no_upper(images: int) -> UpperPlaces:
    """What a top layer sees: nothing above, so no shift."""
    empty = torch.zeros(0, dtype=torch.int64)
    # Rows of length 0 take no memory, however many.
    return UpperPlaces(empty, torch.zeros(0, dtype=torch.float64), torch.zeros((images, 2, 0)))


class ParentSearch:
    """The search of one unit's N patterns; products of a block in float32, sums over blocks in float64.

    Args:
        masses: (n, N) of each pattern in every image.
        places: (n, N, 2) mean place of its responsibilities there.
        means: (N, 2) near the places: what is subtracted, so that sums of squares lose little.
        upper: candidates.
    """

    def __init__(
        self,
        masses: Float[np.ndarray, "n N"],
        places: Float[np.ndarray, "n N 2"],
        means: Float[np.ndarray, "N 2"],
        upper: UpperPlaces,
    ) -> None:
        self._upper = upper
        away = (places - means).transpose(0, 2, 1)
        weighted = masses[:, None] * away
        total = np.maximum(masses.sum(axis=0), np.finfo(np.float64).tiny)
        self._place = (total, weighted.sum(axis=0).T.copy(), (weighted * away).sum(axis=(0, 1)))
        # Copies in torch's own alignment: products of equal numbers at other addresses may differ in the last bit.
        self._masses = torch.tensor(masses, dtype=torch.float32)
        self._candidate_sums = self._gathered(torch.tensor(weighted, dtype=torch.float32))

    def _gathered(self, weighted: Float[Tensor, "n 2 N"]) -> tuple[Float[np.ndarray, "..."], ...]:
        """Sums over images of mass times d (2, N, C), |d|^2 and d place (N, C each)."""
        count, candidates = self._masses.shape[1], len(self._upper.candidates)
        shifts = torch.zeros((2, count, candidates), dtype=torch.float64)
        squares, along = torch.zeros((2, count, candidates), dtype=torch.float64)
        for rows, block in self._blocks():
            own = self._masses[rows].T
            shifts += torch.stack([own @ block[:, axis] for axis in (0, 1)])
            squares += own @ block.square().sum(dim=1)
            along += weighted[rows].reshape(-1, count).T @ block.reshape(-1, candidates)
        return shifts.numpy(), squares.numpy(), along.numpy()

    def choose(self, parents: int) -> Int[np.ndarray, "N M"]:
        """Columns of the candidates, in the order in which they were chosen; of equals the lower."""
        squares = self._candidate_sums[1]
        count, candidates = squares.shape
        weights = self._upper.precisions.numpy()
        state, cross = np.zeros((count, 6)), np.zeros(squares.shape)
        products, chosen = np.zeros(squares.shape), np.full((count, min(parents, candidates)), -1)
        for step in range(chosen.shape[1]):
            take_parents(*self._place, *self._candidate_sums, weights, products, cross, state, chosen, step)
            if step + 1 < chosen.shape[1]:
                products = self._products(torch.from_numpy(chosen[:, step])).numpy()
        return chosen

    def _products(self, best: Int[Tensor, " N"]) -> Float[Tensor, "N C"]:
        """Sum over images of mass times the displacement of each pattern's chosen one times those of all."""
        found = torch.zeros((len(best), len(self._upper.candidates)), dtype=torch.float64)
        for rows, block in self._blocks():
            mine = block.index_select(2, best) * self._masses[rows][:, None]
            found += mine.reshape(-1, len(best)).T @ block.reshape(-1, block.shape[2])
        return found

    def _blocks(self) -> Iterator[tuple[slice, Float[Tensor, "b 2 C"]]]:
        for first in range(0, len(self._masses), BLOCK):
            rows = slice(first, first + BLOCK)
            yield rows, torch.as_tensor(self._upper.displacements[rows]).float()
