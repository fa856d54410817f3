"""Stability, follow and purity with what they are compared with, on made places; against loops; relabelling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.pattern_measures import (
    covered_parts,
    energy_regions,
    location_stability,
    normalised_errors,
    purity,
    top_images,
)
from gmm_ops.explanatory.pattern_places import PatternPlaces
from tests.gmm_ops.explanatory.drawn_objects import square_grid

OBJECTS = 30


def drawn() -> tuple[PatternPlaces, torch.Tensor, torch.Tensor]:
    """Pattern 0 moves with part 0, pattern 1 stands still, pattern 2 is anywhere; some objects lack part 1."""
    noise = torch.Generator().manual_seed(0)
    parts = 0.5 + 0.1 * torch.randn(OBJECTS, 2, 2, generator=noise, dtype=torch.float64)
    parts[::4, 1] = torch.nan
    still = torch.tensor([0.3, 0.6], dtype=torch.float64).expand(OBJECTS, 2)
    anywhere = torch.rand(OBJECTS, 2, generator=noise, dtype=torch.float64)
    places = torch.stack([parts[:, 0] + torch.tensor([0.1, -0.2]), still, anywhere], dim=1)
    scores = torch.rand(OBJECTS, 3, generator=noise) + 0.1
    scores[3, 2], places[3, 2] = 0, torch.nan
    sizes = 50 + 100 * torch.rand(OBJECTS, 2, generator=noise, dtype=torch.float64)
    return PatternPlaces(places, scores), parts, sizes


def only(found: PatternPlaces, pattern: int) -> PatternPlaces:
    return PatternPlaces(found.places[:, [pattern]], found.scores[:, [pattern]])


def test_a_pattern_that_moves_along_follows() -> None:
    found, parts, _ = drawn()
    measured = location_stability(only(found, 0), parts[:, :1])
    assert measured.patterns == pytest.approx(0, abs=1e-9)
    assert measured.follow == pytest.approx(0, abs=1e-9)
    assert measured.constant > 0.02


def test_what_stands_still_is_its_own_control() -> None:
    found, parts, sizes = drawn()
    measured = location_stability(only(found, 1), parts, sizes)
    assert measured.patterns == pytest.approx(measured.constant)
    assert measured.follow == pytest.approx(1)
    anywhere = location_stability(only(found, 2), parts, sizes)
    assert anywhere.follow > 1.5
    assert anywhere.patterns > anywhere.constant


@pytest.mark.parametrize("with_sizes", [True, False])
def test_stability_is_that_of_the_loops(with_sizes: bool) -> None:
    found, parts, sizes = drawn()
    measured = location_stability(found, parts, sizes if with_sizes else None, best=2, images=7)
    totals = found.scores.double().sum(dim=0).tolist()
    rows: dict[str, list[float]] = {name: [] for name in ("patterns", "constant", "centre", "moved", "part")}
    for pattern in sorted(range(3), key=lambda v: -totals[v])[:2]:
        for part in (0, 1):
            images = [i for i in range(OBJECTS) if not math.isnan(parts[i, part, 0]) and found.scores[i, pattern] > 0]
            images = sorted(images, key=lambda i: -float(found.scores[i, pattern]))[:7]
            scale = [(sizes[i] / sizes[i].norm()).numpy() if with_sizes else np.full(2, 2**-0.5) for i in images]
            places = [found.places[i, pattern].numpy() for i in images]
            true = [parts[i, part].numpy() for i in images]
            for name, seen in (
                ("patterns", places),
                ("constant", [np.mean(places, axis=0)] * len(images)),
                ("centre", [np.full(2, 0.5)] * len(images)),
            ):
                lengths = [np.linalg.norm((t - s) * c) for t, s, c in zip(true, seen, scale, strict=True)]
                rows[name].append(float(np.var(lengths)))
            rows["moved"].append(np.var([t - s for t, s in zip(true, places, strict=True)], axis=0).sum())
            rows["part"].append(np.var(true, axis=0).sum())
    assert measured.pairs == 4
    for name in ("patterns", "constant", "centre"):
        assert getattr(measured, name) == pytest.approx(math.sqrt(np.mean(rows[name])), rel=1e-9)
    assert measured.follow == pytest.approx(sum(rows["moved"]) / sum(rows["part"]), rel=1e-9)


def test_order_of_patterns_and_parts_does_not_matter() -> None:
    found, parts, sizes = drawn()
    order = torch.tensor([2, 0, 1])
    relabelled = PatternPlaces(found.places[:, order], found.scores[:, order])
    one, other = location_stability(found, parts, sizes), location_stability(relabelled, parts.flip(1), sizes)
    assert one.pairs == other.pairs == 6
    assert one.patterns == pytest.approx(other.patterns)
    assert one.follow == pytest.approx(other.follow)


def test_mirrored_objects_are_as_stable() -> None:
    found, parts, sizes = drawn()
    sign, offset = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])
    mirrored = PatternPlaces(found.places * sign + offset, found.scores)
    one, other = location_stability(found, parts, sizes), location_stability(mirrored, parts * sign + offset, sizes)
    assert (one.patterns, one.centre, one.follow) == pytest.approx((other.patterns, other.centre, other.follow))


def test_without_parts_there_is_no_stability() -> None:
    found, parts, _ = drawn()
    measured = location_stability(found, torch.full_like(parts, torch.nan))
    assert measured.pairs == 0
    assert math.isnan(measured.patterns)
    with pytest.raises(RefusedInput, match=r"parts: must have shape \(30, P, 2\), got \(29, 2, 2\)"):
        location_stability(found, parts[1:])


def test_top_images_leave_out_those_without_a_place() -> None:
    scores = torch.tensor([[1.0, 0.0], [3.0, 2.0], [3.0, 0.0], [2.0, 0.0]])
    assert top_images(scores, 3).tolist() == [[1, 2, 3], [1, -1, -1]]
    assert top_images(scores, 9).shape == (2, 4)


def test_errors_are_shares_of_the_diagonal() -> None:
    found, parts = torch.tensor([[0.5, 0.5], [0.2, 0.2]]), torch.tensor([[0.5, 1.0], [torch.nan, 0.2]])
    assert normalised_errors(found, parts)[0].item() == pytest.approx(0.5 / math.sqrt(2))
    sizes = torch.tensor([[30.0, 40.0], [30.0, 40.0]])
    assert normalised_errors(found, parts, sizes)[0].item() == pytest.approx(0.5 * 40 / 50)
    assert normalised_errors(found, parts)[1].isnan()


def test_regions_hold_a_share_of_the_energy() -> None:
    maps = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    maps[2, 1] = 0
    found = energy_regions(maps)
    assert not bool(found[2, 1].any())
    for row in (maps[0, 0], maps[3, 2]):
        values = sorted(row.flatten().tolist(), reverse=True)
        kept = next(k for k in range(1, 31) if sum(values[:k]) >= 0.3 * sum(values))
        region = energy_regions(row)
        assert int(region.sum()) == kept
        assert float(row[region].min()) == values[kept - 1]
    with pytest.raises(RefusedInput, match="share: must lie above 0 and up to 1, got 2"):
        energy_regions(maps, 2)


def test_regions_cover_the_part_that_holds_most() -> None:
    grid = square_grid(4)  # positions at 1/8, 3/8, 5/8, 7/8
    regions = torch.zeros(4, 4, 4, dtype=torch.bool)
    regions[0, :2, :2] = True
    regions[1, 3, 3] = True
    regions[3, 0, 0] = True
    boxes = torch.tensor([[0.0, 0.0, 0.3, 0.5], [0.0, 0.0, 0.5, 0.5], [0.8, 0.8, 1.0, 1.0]]).repeat(4, 1, 1)
    boxes[1, 2] = torch.nan
    assert covered_parts(regions, grid, boxes).tolist() == [1, -1, -1, 0]


def test_purity_is_the_share_of_the_most_covered_part() -> None:
    parts = torch.tensor([[0, 0, 1, -1], [2, 2, 2, 2], [-1, -1, -1, -1]])
    assert purity(parts).tolist() == [0.5, 1.0, 0.0]
    assert purity(torch.tensor([[1, 0], [2, 2]]))[1] == 1
