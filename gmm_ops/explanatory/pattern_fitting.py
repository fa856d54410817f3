"""EM of the patterns of one layer and one block of its units, given where the patterns of the layer above lie.

Source: EG, Eq. 3 to 8 and Algorithm 1; choices that it leaves open are named in ``PatternSettings``. Each unit is
fitted by itself from a seed of its own: any grouping of units, and any number of objects that are read at a time, gives
the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory import pattern_loops
from gmm_ops.explanatory.parents import ParentSearch, UpperPlaces, no_upper
from gmm_ops.explanatory.pattern_layer import NO_PARENT, PatternLayer, PatternSettings, Rows
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.records import Record

IMAGES = 64
"""How many objects' responses are in memory."""


@dataclass(frozen=True)
class PatternFit(Record):
    """What EM gives.

    Attributes:
        layer: the patterns.
        likelihood: (D, T) sum over objects and positions of F log p(x) before each step, nats; it does not fall.
    """

    layer: PatternLayer
    likelihood: Float[Tensor, "D T"]


def fit_patterns(
    responses: Rows,
    grid: PositionGrid,
    settings: PatternSettings,
    seeds: Sequence[int],
    upper: UpperPlaces | None = None,
) -> PatternFit:
    """Learn the patterns of a block of units.

    Memory: the responses of 64 objects; with ``upper``, 24 N bytes more for each object and unit, so hand over as many
    units at a time as fit.

    Args:
        responses: (n, D, H, W) F of the block's units on all objects, read 64 objects at a time, in order.
        grid: of the layer.
        settings: how.
        seeds: of every unit's first means.
        upper: the layer above on the same objects; None for the top.

    Raises:
        NonFiniteActivations: NaN or infinity in the responses.
        RefusedInput: shapes that do not fit, negative responses, more patterns than positions.
    """
    check_responses(responses, grid, upper)
    if len(seeds) != responses.shape[1]:
        raise RefusedInput(f"seeds: must be one a unit, got {len(seeds)} for {responses.shape[1]}; draw one for each")
    seen = upper if upper is not None else no_upper(responses.shape[0])
    fit = _Fit(responses, grid, settings, seeds, seen)
    history = [fit.advance(iteration) for iteration in range(1, settings.iterations + 1)]
    return PatternFit(fit.layer(), torch.from_numpy(np.stack(history, axis=1)))


def check_responses(responses: Rows, grid: PositionGrid, upper: UpperPlaces | None) -> None:
    """Shapes fit each other. Raises RefusedInput."""
    shape = tuple(responses.shape)
    if len(shape) != 4 or shape[2:] != (grid.height, grid.width) or not shape[0] or not shape[1]:
        raise RefusedInput(
            f"responses: must have shape (n, D, {grid.height}, {grid.width}) of the grid, got {shape}; give one layer's"
        )
    if upper is not None:
        found, wanted = tuple(upper.displacements.shape), (shape[0], 2, len(upper.candidates))
        if found != wanted or not len(upper.candidates):
            raise RefusedInput(
                f"upper: must have displacements {wanted} of at least 1 candidate, got {found}; infer the layer above "
                "on the same objects"
            )


def first_means(grid: PositionGrid, patterns: int, seed: int) -> Float[np.ndarray, "N 2"]:
    """Different positions of the map, drawn by the unit's seed (as in the authors' code)."""
    positions = grid.positions().reshape(-1, 2).numpy()
    if patterns > len(positions):
        raise RefusedInput(
            f"patterns: must be at most one a position, {len(positions)} for {grid.height} x {grid.width}, got "
            f"{patterns}; take fewer for this layer"
        )
    return np.asarray(positions[np.random.default_rng(seed % 2**64).permutation(len(positions))[:patterns]])


class _Fit:
    """The state of EM between iterations, as arrays that the loops take."""

    def __init__(
        self, source: Rows, grid: PositionGrid, settings: PatternSettings, seeds: Sequence[int], upper: UpperPlaces
    ) -> None:
        self._source, self._grid, self._settings, self._upper = source, grid, settings, upper
        self._means = np.stack([first_means(grid, settings.patterns, seed) for seed in seeds])
        self._deviations = np.full(self._means.shape[:2], settings.bounds()[1])
        count = min(settings.parents, len(upper.candidates))
        self._parents = torch.full((*self._means.shape[:2], count), NO_PARENT)
        self._columns, self._shares = self._seen_parents()
        self._masses = np.zeros(self._means.shape[:2])
        if settings.rigid and len(upper.candidates):
            self._take_parents(self._expect(True, check=True), forced=True)

    def advance(self, iteration: int) -> Float[np.ndarray, " D"]:
        """One iteration; returns the log likelihood before it."""
        chooses = len(self._upper.candidates) > 0 and self._settings.takes_parents(iteration)
        found = self._expect(chooses, check=iteration == 1)
        if chooses:
            self._take_parents(found)
        moments, likelihood, *_ = found
        self._maximise(moments)
        return likelihood

    def _take_parents(self, found: tuple[np.ndarray, ...], forced: bool = False) -> None:
        moments, _, masses, places = found
        for unit in range(len(moments)):
            self._choose_parents(unit, moments[unit], masses[:, unit], places[:, unit], forced)
        self._columns, self._shares = self._seen_parents()

    def layer(self) -> PatternLayer:
        arrays = (torch.from_numpy(values) for values in (self._means, self._deviations, self._masses))
        means, deviations, masses = arrays
        return PatternLayer(means, deviations, self._parents, masses)

    def _seen_parents(self) -> tuple[Int[np.ndarray, "D N M"], Float[np.ndarray, "D N M"]]:
        if not len(self._upper.candidates):
            return self._parents.numpy(), np.zeros(self._parents.shape)
        return self._upper.columns(self._parents)

    def _expect(self, gathers: bool, check: bool) -> tuple[np.ndarray, ...]:
        """E-step over all objects: moments, likelihood, and of every object masses and places where asked for."""
        units, count = self._means.shape[:2]
        objects = self._source.shape[0]
        moments, likelihood = np.zeros((units, 4, count)), np.zeros(units)
        masses = np.zeros((objects if gathers else 0, units, count))
        places = np.zeros((*masses.shape, 2))
        for rows, block, shifts in blocks(self._source, self._upper.displacements, check):
            state = (self._means, self._deviations, self._columns, self._shares, shifts, self._settings.tau)
            own = (masses[rows], places[rows])
            pattern_loops.add_moments(block, self._grid.axes, *state, moments, likelihood, *own)
        return moments, likelihood, masses, places

    def _choose_parents(
        self,
        unit: int,
        moments: Float[np.ndarray, "4 N"],
        masses: Float[np.ndarray, "n N"],
        places: Float[np.ndarray, "n N 2"],
        forced: bool,
    ) -> None:
        """Take new parents where they leave less variance, or all; set the moments as of the new shift, in place."""
        own, there = np.ascontiguousarray(masses), np.ascontiguousarray(places)
        search = ParentSearch(own, there, self._means[unit], self._upper)
        found = self._upper.candidates[torch.from_numpy(search.choose(self._parents.shape[2]))]
        columns, shares = self._upper.columns(found[None])
        old = self._spread(unit, own, there, self._columns[unit], self._shares[unit])
        new = self._spread(unit, own, there, columns[0], shares[0])
        better = (_variance(new) < _variance(old)) | forced
        self._parents[unit, torch.from_numpy(better)] = found[torch.from_numpy(better)]
        moments[1:, better] += new[1:, better] - old[1:, better]

    def _spread(
        self,
        unit: int,
        masses: Float[np.ndarray, "n N"],
        places: Float[np.ndarray, "n N 2"],
        columns: Int[np.ndarray, "N M"],
        shares: Float[np.ndarray, "N M"],
    ) -> Float[np.ndarray, "4 N"]:
        sums = np.zeros((4, masses.shape[1]))
        for first in range(0, len(masses), IMAGES):
            rows = slice(first, first + IMAGES)
            shifts = as_array(self._upper.displacements[rows], np.float32)
            pattern_loops.add_spread(masses[rows], places[rows], self._means[unit], columns, shares, shifts, sums)
        return sums

    def _maximise(self, moments: Float[np.ndarray, "D 4 N"]) -> None:
        """M-step; a pattern without mass stays as it is."""
        mass, y, x, square = moments.transpose(1, 0, 2)
        held = mass > np.finfo(np.float64).tiny
        divisor = np.where(held, mass, 1.0)
        middle = np.stack([y, x], axis=-1) / divisor[..., None]
        step = middle * self._pace()[..., None]
        # |e - step|^2 of e about the old mean, so that it holds for a step that does not reach the middle.
        variance = square / divisor - 2 * (step * middle).sum(axis=-1) + (step * step).sum(axis=-1)
        fitted = np.sqrt(np.maximum(variance, 0.0) / 2).clip(*self._settings.bounds())
        self._means = np.ascontiguousarray(np.where(held[..., None], self._means + step, self._means))
        self._deviations = np.ascontiguousarray(np.where(held, fitted, self._deviations))
        self._masses = mass.copy()

    def _pace(self) -> Float[np.ndarray, "D N"]:
        """Which share of the way to the closed maximum a mean goes."""
        if self._settings.step == "closed":
            return np.ones(self._deviations.shape)
        lowest = self._deviations.min(axis=1, keepdims=True)
        return np.asarray(self._settings.eta * (lowest / self._deviations) ** 2)


def _variance(sums: Float[np.ndarray, "4 N"]) -> Float[np.ndarray, " N"]:
    mass = np.maximum(sums[0], np.finfo(np.float64).tiny)
    return np.asarray(sums[3] / mass - ((sums[1:3] / mass) ** 2).sum(axis=0))


def blocks(source: Rows, displacements: Rows, check: bool) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Objects in order: which, their responses, the displacements above them. Checks the numbers where asked to."""
    for first in range(0, source.shape[0], IMAGES):
        rows = slice(first, first + IMAGES)
        block = as_array(source[rows], np.float32)
        if check:
            _check_numbers(block, first)
        yield rows, block, as_array(displacements[rows], np.float32)


def as_array(values: Any, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Rows of any source as a plain array in memory: the loops are compiled for these alone."""
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.require(plain, dtype, ["C", "W", "E"])


def _check_numbers(block: np.ndarray, first: int) -> None:
    if not np.isfinite(block).all():
        row = int(np.nonzero(~np.isfinite(block).all(axis=(1, 2, 3)))[0][0])
        raise NonFiniteActivations(
            f"responses: must be finite, got NaN or infinity in object {first + row}; leave that object out"
        )
    if block.min(initial=0.0) < 0:
        raise RefusedInput(f"responses: must not be negative, got {block.min()}; give those of `responses`")
