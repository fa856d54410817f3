"""Which patterns of the layer above a pattern moves with: greedy choice among candidates.

Source: EG, Eq. 7 (the parents that maximise the likelihood). With responsibilities held, the likelihood rises as the
variance over images of a pattern's place minus its shift falls, each image weighted by the pattern's mass in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_layer import UpperPlaces

BLOCK = 64
"""Images whose sums are one product: always the same ones, so that rounding does not depend on who adds them up."""


class ParentSearch:
    """The search of one unit's N patterns.

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
        # Copies in torch's own alignment: products of equal numbers at other addresses may differ in the last bit.
        self._masses, self._upper = torch.tensor(masses), upper
        self._away = torch.tensor(places - means)
        self._weights = upper.precisions
        count, candidates = masses.shape[1], len(upper.candidates)
        self._total = self._masses.sum(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
        weighted = self._masses[:, :, None] * self._away
        self._first = weighted.sum(dim=0)
        self._square = (weighted * self._away).sum(dim=(0, 2))
        self._shifts = torch.zeros((count, 2, candidates), dtype=torch.float64)
        self._squares, self._along = torch.zeros((2, count, candidates), dtype=torch.float64)
        for rows, block in self._blocks():
            flat = block.reshape(-1, candidates)
            self._shifts += torch.stack([self._masses[rows].T @ block[:, axis] for axis in (0, 1)], dim=1)
            self._squares += self._masses[rows].T @ block.square().sum(dim=1)
            self._along += weighted[rows].transpose(1, 2).reshape(-1, count).T @ flat

    def choose(self, parents: int) -> Int[np.ndarray, "N M"]:
        """Columns of the candidates, in the order in which they were chosen; of equals the lower."""
        count, candidates = self._squares.shape
        weight = torch.zeros(count, 1, dtype=torch.float64)
        shift = torch.zeros(count, 2, 1, dtype=torch.float64)  # sums over images of mass times the weighted sum so far
        square, along = torch.zeros((2, count, 1), dtype=torch.float64)
        cross = torch.zeros_like(self._squares)
        taken = torch.zeros(count, candidates, dtype=torch.bool)
        chosen = []
        every, w = torch.arange(count), self._weights
        for step in range(min(parents, candidates)):
            all_weights = weight + w
            middle = self._first[:, :, None] - (shift + w * self._shifts) / all_weights[:, None]
            spread = self._square[:, None] - 2 * (along + w * self._along) / all_weights
            spread = spread + (square + 2 * w * cross + w * w * self._squares) / all_weights.square()
            variance = spread / self._total[:, None] - (middle / self._total[:, None, None]).square().sum(dim=1)
            best = variance.masked_fill(taken, torch.inf).argmin(dim=1)
            chosen.append(best)
            if step + 1 == min(parents, candidates):
                break
            taken[every, best] = True
            own = w[best][:, None]
            square = square + 2 * own * cross.gather(1, best[:, None])
            square = square + own * own * self._squares.gather(1, best[:, None])
            along = along + own * self._along.gather(1, best[:, None])
            shift = shift + own[:, None] * self._shifts[every, :, best][:, :, None]
            weight = weight + own
            cross = cross + own * self._products(best)
        return torch.stack(chosen, dim=1).numpy()

    def _products(self, best: Tensor) -> Float[Tensor, "N C"]:
        """Sum over images of mass times the displacement of each pattern's chosen one times those of all."""
        found = torch.zeros_like(self._squares)
        for rows, block in self._blocks():
            mine = block[:, :, best] * self._masses[rows][:, None]
            found += mine.reshape(-1, len(best)).T @ block.reshape(-1, block.shape[2])
        return found

    def _blocks(self) -> Iterator[tuple[slice, Float[Tensor, "b 2 C"]]]:
        for first in range(0, len(self._masses), BLOCK):
            rows = slice(first, first + BLOCK)
            yield rows, torch.as_tensor(self._upper.displacements[rows]).to(torch.float64, copy=True)
