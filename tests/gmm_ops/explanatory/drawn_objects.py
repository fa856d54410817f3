"""Objects with parts that move rigidly, drawn as responses of units: a head and legs, each with a shift of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_ops.explanatory.parents import UpperPlaces, best_candidates, displacements
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid

HEAD, LEGS = (0.32, 0.3), (0.68, 0.62)


def square_grid(side: int) -> PositionGrid:
    return PositionGrid(side, side, (0.5 / side, 0.5 / side), (1 / side, 1 / side))


def bumps(grid: PositionGrid, centres: Tensor, width: float) -> Tensor:
    """(n, H, W) of centres (n, 2): positive near them alone, as behind a ReLU."""
    away = (grid.positions() - centres[:, None, None]).square().sum(dim=-1)
    return (torch.exp(-away / (2 * width**2)) - 0.3).clamp(min=0).float()


@dataclass(frozen=True)
class Scene:
    """upper, lower: F (n, D, H, W); head, legs: (n, 2). Unit 0 of the lower layer mixes both parts."""

    upper: Tensor
    lower: Tensor
    head: Tensor
    legs: Tensor


def drawn_scene(objects: int, seed: int, upper_side: int = 14, lower_side: int = 28) -> Scene:
    noise = torch.Generator().manual_seed(seed)

    def moved(part: tuple[float, float]) -> Tensor:
        return torch.tensor(part) + 0.07 * torch.randn(objects, 2, generator=noise, dtype=torch.float64)

    def speckled(maps: Tensor) -> Tensor:
        rare = torch.rand(maps.shape, generator=noise)
        return maps + 0.2 * torch.where(rare > 0.98, torch.rand(maps.shape, generator=noise), 0.0)

    head, legs = moved(HEAD), moved(LEGS)
    above, below = square_grid(upper_side), square_grid(lower_side)
    apart = torch.tensor([[0.05, 0.0], [-0.04, 0.03], [0.0, -0.05]], dtype=torch.float64)
    upper = [bumps(above, part + one, 0.08) for part in (head, legs) for one in apart]
    lower = [bumps(below, head, 0.05) + bumps(below, legs, 0.05), bumps(below, head + apart[0], 0.05)]
    return Scene(*(speckled(torch.stack(maps, dim=1)) for maps in (upper, lower)), head, legs)


def seen_from_below(layer: PatternLayer, found: PatternPlaces, count: int = 600) -> UpperPlaces:
    candidates = best_candidates(found.scores.double().sum(dim=0), count)
    return UpperPlaces.of(layer, candidates, displacements(found.places, layer, candidates))
