"""Slow twin of the first-order effects of a run: central differences of the logit, one word of one image at a time."""

from __future__ import annotations

import numpy as np
import torch

from workflows.networks.interventions import Interventions, replaced
from workflows.networks.unit_layers import UnitNetwork

STEP = 1e-5
"""Share of a change that is made: so small that almost no ReLU turns."""


def effect(
    network: UnitNetwork, layer: str, pixels: torch.Tensor, label: int, where: np.ndarray, gap: np.ndarray
) -> float:
    """By how much the logit falls a unit of change, where columns (H, W) lose a gap (D, H, W); all in float64."""
    (pause,) = Interventions(network).pauses(pixels, [(layer,)])
    maps = pause.value(layer)
    assert maps is not None
    own, change = maps.numpy(), np.where(where[None, None], gap[None], 0.0)
    values = [
        float(pause.rest({layer: replaced(torch.from_numpy(own + sign * STEP * change))})[0, label])
        for sign in (1.0, -1.0)
    ]
    return (values[0] - values[1]) / (2 * STEP)


def sums(rows: list[dict[str, float]], group: dict[int, int], change: str) -> dict[tuple[str, int, int], float]:
    """(layer, group, word) -> sum over the images of the group."""
    found: dict[tuple[str, int, int], float] = {}
    for row in rows:
        if group.get(int(row["image"]), -1) >= 0:
            key = str(row["layer"]), group[int(row["image"])], int(row["word"])
            found[key] = found.get(key, 0.0) + row[change]
    return found
