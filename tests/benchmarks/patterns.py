"""Patterns of ResNet-50's three layers: the E-step beside the plain (N, HW) product, and a whole fit.

One thread, processor time, in turns. Responses are rectified noise of which a third is positive, as on photos of
tigers; the plain version is torch in float64 and computes the same moments.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmm_ops.explanatory.parents import UpperPlaces
from gmm_ops.explanatory.pattern_fitting import fit_patterns
from gmm_ops.explanatory.pattern_layer import PatternLayer, PatternSettings
from gmm_ops.explanatory.pattern_places import infer_places
from gmm_ops.explanatory.responses import PositionGrid

TARGET = 10.0
CASES = {
    "28x28, N 40, 128 units": (28, 40, 128),
    "14x14, N 20, 256 units": (14, 20, 256),
    "7x7, N 10, 512 units": (7, 10, 512),
}
"""Side, patterns a unit, units."""
CANDIDATES = 600


@dataclass(frozen=True)
class PatternsRow:
    """Medians; seconds are those of all units of the layer on one object, ``ratio`` is plain over ours in an E-step."""

    case: str
    fit_seconds: float
    place_seconds: float
    e_step_seconds: float
    plain_e_step_seconds: float
    ratio: float
    target: float = TARGET


def measure(repeats: int = 3, tiny: bool = False) -> list[PatternsRow]:
    """One row a layer; their sums over the layers are an object's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_row(case, *sizes, 4 if tiny else 128, 1 if tiny else repeats) for case, sizes in CASES.items()]
    finally:
        torch.set_num_threads(threads)


def _row(case: str, side: int, patterns: int, units: int, objects: int, repeats: int) -> PatternsRow:
    some = 4  # units that are timed
    grid = PositionGrid(side, side, (0.5 / side, 0.5 / side), (1 / side, 1 / side))
    noise = torch.Generator().manual_seed(0)
    maps = (torch.randn(objects, some, side, side, generator=noise) - 0.43).clamp(min=0)
    upper = (
        None
        if side == 7
        else UpperPlaces(  # the top has nothing above it
            torch.arange(CANDIDATES),
            torch.ones(CANDIDATES, dtype=torch.float64),
            0.05 * torch.randn(objects, 2, CANDIDATES, generator=noise),
        )
    )
    settings = PatternSettings(patterns)
    short = PatternSettings(patterns, iterations=1)
    seconds: dict[str, list[float]] = {name: [] for name in ("fit", "place", "step", "plain")}
    for _ in range(1 + repeats):  # the first compiles and is not counted
        start = time.process_time()
        layer = fit_patterns(maps, grid, settings, range(some), upper).layer
        seconds["fit"].append(time.process_time() - start)
        start = time.process_time()
        infer_places(maps, grid, layer, upper)
        seconds["place"].append(time.process_time() - start)
        start = time.process_time()
        fit_patterns(maps, grid, short, range(some), upper)
        seconds["step"].append(time.process_time() - start)
        start = time.process_time()
        plain_moments(maps[:4], grid.positions(), layer)
        seconds["plain"].append((time.process_time() - start) * objects / 4)
    scale = units / some / objects
    fit, place, step, plain = (scale * statistics.median(rows[1:]) for rows in seconds.values())
    return PatternsRow(case, fit, place, step, plain, plain / step)


def plain_moments(maps: Tensor, positions: Tensor, layer: PatternLayer) -> np.ndarray:
    """Mass, first moments and spread of every pattern by densities (N, HW) of each unit and object; no shifts."""
    points, found = positions.reshape(-1, 2), np.zeros((4, *layer.deviations.shape))
    for image in maps.flatten(2).double():
        for unit, response in enumerate(image):
            away = points - layer.means[unit][:, None]
            variance = layer.deviations[unit].square()[:, None]
            square = away.square().sum(dim=-1)
            density = torch.exp(-square / (2 * variance)) / (2 * torch.pi * variance)
            weights = density * (response / (density.sum(dim=0) + 1))
            first = (weights[..., None] * away).sum(dim=1)
            found[:, unit] += torch.stack([weights.sum(dim=1), *first.T, (weights * square).sum(dim=1)]).numpy()
    return found
