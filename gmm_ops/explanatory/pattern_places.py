"""Where patterns sit on objects: inference, the patterns that count as found, raw peaks, energy of a pattern on a map.

Source: EG, Eq. 9 and section "experiments": V sits where F(x) P(x | V)^2 is largest. The density's constant is left
out, since it would let narrow patterns win wherever they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory import pattern_loops
from gmm_ops.explanatory.parents import UpperPlaces, no_upper
from gmm_ops.explanatory.pattern_fitting import blocks, check_responses
from gmm_ops.explanatory.pattern_layer import PatternLayer, Rows
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.records import Record


@dataclass(frozen=True)
class PatternPlaces(Record):
    """Where V patterns (or units) sit on n objects, float32.

    Attributes:
        places: (n, V, 2) row and column on the object; NaN where the unit is positive nowhere.
        scores: (n, V) of these places; 0 there.
    """

    places: Float[Tensor, "n V 2"]
    scores: Float[Tensor, "n V"]


def infer_places(
    responses: Rows, grid: PositionGrid, layer: PatternLayer, upper: UpperPlaces | None = None
) -> PatternPlaces:
    """Put every pattern at the argmax of log F(x) - |p_x - mean - shift|^2 / deviation^2; its score is exp of that.

    Of equal positions the first in order of rows is taken.

    Args:
        responses: (n, D, H, W) F of the layer's units; read 64 objects at a time.
        grid: of the layer.
        layer: its patterns.
        upper: the layer above on the same objects, with all parents among its candidates; None for the top.

    Raises:
        NonFiniteActivations: NaN or infinity in the responses.
        RefusedInput: shapes that do not fit, or a parent that is not among the candidates.
    """
    check_responses(responses, grid, upper)
    units, count = layer.deviations.shape
    if responses.shape[1] != units:
        raise RefusedInput(f"responses: must be of the layer's {units} units, got {responses.shape[1]}; give the same")
    seen = upper if upper is not None else no_upper(responses.shape[0])
    columns, shares = _columns(layer, seen)
    objects = responses.shape[0]
    places, scores = np.zeros((objects, units, count, 2), np.float32), np.zeros((objects, units, count), np.float32)
    state = (layer.means.numpy(), layer.deviations.numpy(), columns, shares)
    for rows, block, shifts in blocks(responses, seen.displacements, check=True):
        pattern_loops.set_places(block, grid.axes, *state, shifts, places[rows], scores[rows])
    return PatternPlaces(
        torch.from_numpy(places).reshape(objects, -1, 2), torch.from_numpy(scores).reshape(objects, -1)
    )


def _columns(layer: PatternLayer, seen: UpperPlaces) -> tuple[np.ndarray, np.ndarray]:
    if len(seen.candidates):
        return seen.columns(layer.parents)
    if bool((layer.parents >= 0).any()):
        raise RefusedInput("upper: must be given for patterns with parents, got none; infer the layer above first")
    return layer.parents.numpy(), np.zeros(layer.parents.shape)


def raw_peaks(responses: Float[Tensor, "n D H W"], grid: PositionGrid) -> PatternPlaces:
    """The strongest position of every unit and its response: what patterns are compared with."""
    flat = responses.flatten(2)
    scores, best = flat.max(dim=2)
    places = grid.positions().reshape(-1, 2)[best].float()
    found = scores > 0
    return PatternPlaces(torch.where(found[..., None], places, torch.nan), torch.where(found, scores, 0.0).float())


def valid_patterns(scores: Float[Tensor, "n V"], share: float = 0.1) -> Bool[Tensor, "n V"]:
    """The patterns of highest score in each image, this share of all, rounded up; never one without a place.

    Of equals the lower pattern. Raises RefusedInput for a share outside 0 to 1.
    """
    if not 0 < share <= 1:
        raise RefusedInput(f"share: must lie above 0 and up to 1, got {share}; 0.1 is the paper's")
    kept = math.ceil(share * scores.shape[1] - 1e-9)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :kept]
    best = torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, order, True)
    return best & (scores > 0)


def pattern_energies(
    responses: Float[Tensor, "n H W"],
    grid: PositionGrid,
    layer: PatternLayer,
    unit: int,
    shifts: Float[Tensor, "n N 2"] | None = None,
    tau: float = 1.0,
) -> Float[Tensor, "n N H W"]:
    """A unit's map split among its patterns: F(x) times the responsibility of each, float64.

    Args:
        responses: F of the unit.
        grid: of the layer.
        layer: its patterns.
        unit: which of the layer's.
        shifts: of its patterns in each image, as ``shifts_of`` gives them; None: none.
        tau: as the layer was learned with.
    """
    means, deviations = layer.means[unit], layer.deviations[unit]
    centres = means if shifts is None else means + shifts
    away = grid.positions() - centres[..., None, None, :].expand(len(responses), -1, 1, 1, 2)
    variance = deviations.square()[:, None, None]
    density = torch.exp(-away.square().sum(dim=-1) / (2 * variance)) / (2 * math.pi * variance)
    return responses.double()[:, None] * density / (density.sum(dim=1, keepdim=True) + tau)


def shifts_of(layer: PatternLayer, unit: int, upper: UpperPlaces) -> Float[Tensor, "n N 2"]:
    """How far each pattern of a unit is shifted by its parents in every image, float64."""
    columns, shares = (torch.from_numpy(values) for values in upper.columns(layer.parents[unit : unit + 1]))
    rows = torch.as_tensor(upper.displacements[0 : upper.displacements.shape[0]]).double()
    return (rows[:, :, columns[0].clamp(min=0)] * shares[0]).sum(dim=-1).transpose(1, 2)
