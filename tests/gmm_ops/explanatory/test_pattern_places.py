"""Where patterns sit is what the loops find; silent units have no place; valid patterns; a map split among patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory.parents import UpperPlaces, best_candidates, displacements
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_places import (
    infer_places,
    pattern_energies,
    raw_peaks,
    shifts_of,
    valid_patterns,
)
from gmm_ops.explanatory.responses import PositionGrid
from tests.references import explanatory_graph as slow

GRID = PositionGrid(5, 4, (0.08, 0.1), (0.2, 0.25))


def drawn() -> tuple[torch.Tensor, PatternLayer, UpperPlaces]:
    """Unit 1 is silent in image 2; pattern 0 of unit 0 has no parents."""
    noise = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 2, 5, 4, generator=noise).clamp(min=0)
    maps[2, 1] = 0
    means = torch.rand(2, 3, 2, generator=noise, dtype=torch.float64)
    deviations = 0.05 + 0.2 * torch.rand(2, 3, generator=noise, dtype=torch.float64)
    candidates = torch.tensor([2, 3, 8, 11])
    parents = candidates[torch.randint(0, 4, (2, 3, 2), generator=noise)]
    parents[0, 0] = -1
    precisions = 1 + torch.rand(4, generator=noise, dtype=torch.float64)
    shifts = 0.2 * torch.randn(4, 2, 4, generator=noise)
    layer = PatternLayer(means, deviations, parents, torch.ones(2, 3))
    return maps, layer, UpperPlaces(candidates, precisions, shifts)


def slow_shifts(layer: PatternLayer, upper: UpperPlaces, image: int, unit: int) -> np.ndarray:
    columns = [[upper.candidates.tolist().index(p) for p in own if p >= 0] for own in layer.parents[unit].tolist()]
    rows = upper.displacements[image].double().T.numpy()  # type: ignore[index]
    return np.array([slow.shift(own, rows, upper.precisions.tolist()) for own in columns])


def test_places_are_those_of_the_loops() -> None:
    maps, layer, upper = drawn()
    found = infer_places(maps, GRID, layer, upper)
    for image, unit, n in np.ndindex(4, 2, 3):
        centre = layer.means[unit, n].numpy() + slow_shifts(layer, upper, image, unit)[n]
        own = maps[image, unit].double().numpy()
        where, score = slow.place(own, GRID.positions().numpy(), centre, float(layer.deviations[unit, n]))
        number = 3 * unit + n
        np.testing.assert_allclose(found.places[image, number], [np.nan] * 2 if where is None else where, rtol=1e-6)
        assert float(found.scores[image, number]) == pytest.approx(score, rel=1e-5)
    assert found.places[2, 3:].isnan().all()
    assert not bool(found.scores[2, 3:].any()), "a silent unit has no place and the score 0"
    assert int(found.places.isnan().any(dim=2).sum()) == 3


def test_patterns_follow_their_parents() -> None:
    """Objects that move as a whole: every pattern's place moves along."""
    _, layer, upper = drawn()
    flat = torch.ones(4, 2, 5, 4)
    plain = infer_places(flat, GRID, layer, UpperPlaces(upper.candidates, upper.precisions, torch.zeros(4, 2, 4)))
    moved = torch.zeros(4, 2, 4)
    moved[:, 0] = 0.2
    found = infer_places(flat, GRID, layer, UpperPlaces(upper.candidates, upper.precisions, moved))
    stays = (found.places[..., 0] - plain.places[..., 0]).abs() < 1e-6
    assert bool(stays[:, 0].all()), "without parents it stays"
    step = found.places[:, 1:, 0] - plain.places[:, 1:, 0]
    at_the_edge = plain.places[:, 1:, 0] > 0.85
    np.testing.assert_allclose(step[~at_the_edge], 0.2, atol=1e-6)
    assert bool((~at_the_edge).any())


def test_a_silent_upper_pattern_moves_nothing() -> None:
    layer = drawn()[1]
    places = torch.rand(3, 6, 2)
    places[1, 4] = torch.nan
    away = displacements(places, layer, torch.tensor([1, 4]))
    assert away.shape == (3, 2, 2)
    assert away[1, :, 1].tolist() == [0.0, 0.0]
    expected = places[0, 4].double() - layer.means.reshape(-1, 2)[4]
    np.testing.assert_allclose(away[0, :, 1], expected, atol=1e-7)


def test_candidates_are_the_best_in_order() -> None:
    totals = torch.tensor([3.0, 9.0, 1.0, 9.0, 0.0])
    assert best_candidates(totals, 3).tolist() == [0, 1, 3]
    assert best_candidates(totals).tolist() == [0, 1, 2, 3, 4]


def test_upper_precisions_weigh_the_shift() -> None:
    _, layer, upper = drawn()
    for unit in (0, 1):
        found = shifts_of(layer, unit, upper)
        for image in range(4):
            np.testing.assert_allclose(found[image], slow_shifts(layer, upper, image, unit), atol=1e-12)
    assert UpperPlaces.of(layer, torch.tensor([1, 5]), upper.displacements).precisions.tolist() == pytest.approx(
        [float(layer.deviations.flatten()[v]) ** -2 for v in (1, 5)]
    )


def test_raw_peaks_are_the_strongest_positions() -> None:
    maps = drawn()[0]
    found = raw_peaks(maps, GRID)
    for image, unit in np.ndindex(4, 2):
        own = maps[image, unit].numpy()
        if not own.any():
            assert found.places[image, unit].isnan().all()
            continue
        h, w = np.unravel_index(own.argmax(), own.shape)
        np.testing.assert_allclose(found.places[image, unit], GRID.positions()[h, w], rtol=1e-6)
        assert float(found.scores[image, unit]) == own.max()


def test_valid_patterns_are_a_tenth_with_a_place() -> None:
    scores = torch.tensor([[0.0] * 17 + [5.0, 2.0, 5.0, 0.1], [0.0] * 21])
    assert valid_patterns(scores)[0].nonzero()[:, 0].tolist() == [17, 18, 19], "a tenth of 21, rounded up"
    assert not bool(valid_patterns(scores)[1].any())
    assert valid_patterns(torch.ones(1, 20)).sum() == 2
    with pytest.raises(RefusedInput, match=r"share: must lie above 0 and up to 1, got 0\.0"):
        valid_patterns(scores, 0.0)


def test_a_map_is_split_among_its_patterns() -> None:
    maps, layer, upper = drawn()
    shifts = shifts_of(layer, 1, upper)
    found = pattern_energies(maps[:, 1], GRID, layer, 1, shifts, tau=0.7)
    args = (GRID.positions().numpy(), layer.means[1].numpy(), layer.deviations[1].numpy(), shifts.numpy(), 0.7)
    np.testing.assert_allclose(found, slow.e_step(maps[:, 1].double().numpy(), *args)[0], atol=1e-12)
    still = pattern_energies(maps[:, 1], GRID, layer, 1)
    assert bool((still.sum(dim=1) <= maps[:, 1].double() + 1e-9).all())


def test_what_does_not_fit_is_refused() -> None:
    maps, layer, upper = drawn()
    with pytest.raises(RefusedInput, match="upper: must be given for patterns with parents, got none; infer the layer"):
        infer_places(maps, GRID, layer)
    with pytest.raises(RefusedInput, match="responses: must be of the layer's 2 units, got 1; give the same"):
        infer_places(maps[:, :1], GRID, layer, upper)
    others = UpperPlaces(upper.candidates + 1, upper.precisions, upper.displacements)
    with pytest.raises(RefusedInput, match="parents: must be among the candidates, got others"):
        infer_places(maps, GRID, layer, others)
    maps[3, 0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteActivations, match="in object 3; leave that object out"):
        infer_places(maps, GRID, layer, upper)
