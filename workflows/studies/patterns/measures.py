"""What patterns are worth, beside what stands still and beside raw maps: rows of pattern_measures.parquet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.explanatory.parents import UpperPlaces
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_measures import (
    Stability,
    covered_parts,
    energy_regions,
    jackknife_interval,
    location_stability,
    purity,
    top_images,
)
from gmm_ops.explanatory.pattern_places import PatternPlaces, pattern_energies, shifts_of
from gmm_ops.explanatory.responses import PositionGrid
from workflows.asking.pattern_files import TurnedObjects

BEST, IMAGES = 500, 20
"""Patterns of highest total score that are looked at, and objects of each (EG)."""

NEAR = 0.1
"""Of these patterns, the share that is judged by one part: those that sit nearest to it."""

GROUPS = 10
"""Of photos; each is left out once for the intervals."""


@dataclass(frozen=True)
class Judged:
    """The objects that patterns are judged on.

    Attributes:
        rows: (m,) of all objects.
        groups: (m,) group of photos of each.
        boxes: (m, P, 4) top, left, bottom, right of the parts on the turned object; NaN without.
        sizes: (m, 2) height and width on the photo.
    """

    rows: Int[np.ndarray, " m"]
    groups: Int[Tensor, " m"]
    boxes: Float[Tensor, "m P 4"]
    sizes: Float[Tensor, "m 2"]

    @classmethod
    def of(cls, turned: TurnedObjects) -> Judged:
        """Those that patterns were not learned from, or all."""
        rows = turned.judged()
        objects = turned.objects.only(rows)
        groups = np.unique(objects.images, return_inverse=True)[1] % GROUPS
        boxes = objects.part_boxes(turned.signs[rows])
        return cls(rows, torch.from_numpy(groups), torch.from_numpy(boxes), torch.from_numpy(objects.sizes))

    @property
    def parts(self) -> Float[Tensor, "m P 2"]:
        """Middles."""
        return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2

    @property
    def shown(self) -> Bool[Tensor, " m"]:
        """Whether an object shows a part at all."""
        return ~self.boxes.isnan().any(dim=2).all(dim=1)


def place_measures(found: PatternPlaces, judged: Judged) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Stability, follow and place purity of what sits somewhere, and of the constants and the centre beside it.

    Args:
        found: on the judged objects.
        judged: these.
    """

    def stability(parts: Float[Tensor, "m P 2"]) -> Stability:
        return location_stability(found, parts, judged.sizes, BEST, IMAGES)

    whole, without = stability(judged.parts), _left_out(stability, judged.parts, judged)
    rows = _best(found.scores, judged)
    own = found.places[rows.clamp(min=0), torch.arange(len(rows))[:, None]].double()
    own[rows < 0] = torch.nan
    constant = own.nanmean(dim=1, keepdim=True).expand_as(own)
    sources = (
        ("patterns", lambda one: one.patterns, lambda one: one.follow, own),
        ("constant", lambda one: one.constant, None, constant),
        ("centre", lambda one: one.centre, None, torch.full_like(own, 0.5)),
    )
    rows_of = []
    for _, value, follow, places in sources:
        row: dict[str, Any] = {"pairs": whole.pairs, "objects": len(judged.rows)}
        row |= _interval("stability", value, whole, without)
        row |= _interval("follow", follow, whole, without) if follow is not None else {"follow": 1.0}
        row["place_purity"] = _known(float(purity(_parts_at(places, rows, judged)).mean()))
        rows_of.append(row)
    return rows_of[0], rows_of[1], rows_of[2]


def _left_out(
    measured: Callable[[Float[Tensor, "m P 2"]], Stability], parts: Float[Tensor, "m P 2"], judged: Judged
) -> list[Stability]:
    """The same without each group of photos in turn."""
    found, known = [], ~parts.isnan().any(dim=2).all(dim=1)
    for group in range(GROUPS):
        kept = judged.groups != group
        if 0 < int((known & kept).sum()) < int(known.sum()):
            found.append(measured(torch.where(kept[:, None, None], parts, torch.nan)))
    return found


def near_measures(found: PatternPlaces, judged: Judged) -> Iterator[dict[str, Any]]:
    """For every part in turn, stability and follow of the tenth of the patterns that sit nearest to it.

    What sits elsewhere need not move with a part. Nearness is the mean distance on the objects of highest score.
    """
    for place in range(judged.boxes.shape[1]):
        part = judged.parts[:, place]
        known = ~part.isnan().any(dim=1)
        rows = top_images(torch.where(known[:, None], found.scores, 0.0), IMAGES)
        own = found.places[rows.clamp(min=0), torch.arange(len(rows))[:, None]].double()
        away = torch.linalg.vector_norm(own - part[rows.clamp(min=0)], dim=2)
        distance = torch.where(rows >= 0, away, torch.nan).nanmean(dim=1).nan_to_num(nan=math.inf)
        near = distance.sort(stable=True).indices[: max(1, round(NEAR * len(distance)))]
        few = PatternPlaces(found.places[:, near], found.scores[:, near])

        def stability(parts: Float[Tensor, "m 1 2"], few: PatternPlaces = few) -> Stability:
            return location_stability(few, parts, judged.sizes, BEST, IMAGES)

        whole, without = stability(part[:, None]), _left_out(stability, part[:, None], judged)
        row: dict[str, Any] = {"pairs": whole.pairs, "objects": len(judged.rows)}
        row |= _interval("stability", lambda one: one.patterns, whole, without)
        yield row | _interval("follow", lambda one: one.follow, whole, without)


def best_places(blocks: Iterable[PatternPlaces]) -> tuple[Int[Tensor, " B"], PatternPlaces]:
    """The patterns of largest total score, ascending, and where they sit: blocks of objects are read twice."""
    totals = torch.stack([block.scores.double().sum(dim=0) for block in blocks]).sum(dim=0)
    chosen = totals.sort(descending=True, stable=True).indices[:BEST].sort().values
    few = [(block.places[:, chosen], block.scores[:, chosen]) for block in blocks]
    places, scores = (torch.cat(values) for values in zip(*few, strict=True))
    return chosen, PatternPlaces(places, scores)


def _best(scores: Float[Tensor, "m B"], judged: Judged) -> Int[Tensor, "B K"]:
    """The judged objects with parts where each pattern scores highest; -1: no further one."""
    return top_images(torch.where(judged.shown[:, None], scores, 0.0), IMAGES)


def _parts_at(places: Float[Tensor, "B K 2"], rows: Int[Tensor, "B K"], judged: Judged) -> Int[Tensor, "B K"]:
    """The first part whose box holds each place; -1: none."""
    boxes = judged.boxes[rows.clamp(min=0)]
    inside = ((places[:, :, None] >= boxes[..., :2]) & (places[:, :, None] <= boxes[..., 2:])).all(dim=-1)
    inside &= (rows >= 0)[..., None]
    return torch.where(inside.any(dim=-1), inside.int().argmax(dim=-1), -1)


def _interval(
    name: str, value: Callable[[Stability], float], whole: Stability, without: list[Stability]
) -> dict[str, float | None]:
    """Jackknife over groups of photos."""
    middle = value(whole)
    low, high = jackknife_interval(middle, [value(one) for one in without])
    if not math.isfinite(low):
        return {name: _known(middle)}
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


MapsOf = Callable[[int, Int[np.ndarray, " r"]], Float[Tensor, "r H W"]]
"""F of a unit on some of the judged objects."""


@dataclass(frozen=True)
class JudgedPatterns:
    """The best patterns of a layer on the judged objects.

    Attributes:
        chosen: (B,) which, ascending.
        found: (m, B) where they sit.
        layer, grid: of all patterns.
        upper: the layer above on the judged objects; None at the top.
    """

    chosen: Int[Tensor, " B"]
    found: PatternPlaces
    layer: PatternLayer
    grid: PositionGrid
    upper: UpperPlaces | None


def region_purity(own: JudgedPatterns, maps: MapsOf, judged: Judged) -> float | None:
    """Mean purity of the regions of the best patterns: the fewest positions that hold 30 % of a pattern's energy."""
    rows, count = _best(own.found.scores, judged), own.layer.deviations.shape[1]
    found = torch.full(rows.shape, -1)
    for unit in torch.unique(own.chosen // count).tolist():
        places = (own.chosen // count == unit).nonzero()[:, 0]
        images = torch.unique(rows[places])
        images = images[images >= 0]
        shifts = None if own.upper is None else shifts_of(own.layer, unit, own.upper)[images]
        energies = pattern_energies(maps(unit, images.numpy()), own.grid, own.layer, unit, shifts)
        for place in places.tolist():
            known = rows[place] >= 0
            here = torch.searchsorted(images, rows[place][known])
            regions = energy_regions(energies[here, int(own.chosen[place]) % count])
            found[place, known] = covered_parts(regions, own.grid, judged.boxes[rows[place][known]])
    return _known(float(purity(found).mean())) if len(found) else None


def map_purity(peaks: Float[Tensor, "m D"], grid: PositionGrid, maps: MapsOf, judged: Judged) -> float | None:
    """The same of whole maps of the units of highest response."""
    chosen = peaks.double().sum(dim=0).sort(descending=True, stable=True).indices[:BEST]
    rows = _best(peaks[:, chosen], judged)
    found = torch.full(rows.shape, -1)
    for place, unit in enumerate(chosen.tolist()):
        known = rows[place] >= 0
        regions = energy_regions(maps(unit, rows[place][known].numpy()))
        found[place, known] = covered_parts(regions, grid, judged.boxes[rows[place][known]])
    return _known(float(purity(found).mean())) if len(found) else None


def one_side(judged: Judged, names: list[str], signs: Int[np.ndarray, " m"]) -> Iterator[tuple[str, dict[str, float]]]:
    """By part: the share of objects that have it on the side where most do, as they are and as they are turned."""
    for place, name in enumerate(names):
        turned = judged.parts[:, place, 1].numpy()
        known = ~np.isnan(turned)
        if known.any():
            right = turned[known] > 0.5
            before = right == (signs[known] > 0)
            shares = [max(float(one.mean()), 1 - float(one.mean())) for one in (before, right)]
            yield name, {"objects": int(known.sum()), "as_they_are": shares[0], "turned": shares[1]}
