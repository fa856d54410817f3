"""Responses over deviations of all objects; positions from receptive fields; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory.responses import (
    PositionGrid,
    UnitMoments,
    check_coarsening,
    check_object_sizes,
    responses,
)
from tests.gmm_ops.explanatory.drawn_objects import square_grid


def drawn(objects: int = 9) -> torch.Tensor:
    return 2 + 3 * torch.randn(objects, 4, 5, 3, generator=torch.Generator().manual_seed(0))


def test_deviations_are_those_of_all_objects_together() -> None:
    maps = drawn()
    parts = [UnitMoments.from_batch(some) for some in maps.split([2, 4, 3])]
    merged = UnitMoments.zero(4) + parts[2] + (parts[0] + parts[1])
    expected = maps.double().numpy().std(axis=(0, 2, 3))
    np.testing.assert_allclose(merged.deviations(), expected, rtol=1e-12)
    assert UnitMoments.unpack(parts[0].pack() + parts[1].pack(), 4) == parts[0] + parts[1]


def test_responses_are_positive_parts_over_deviations() -> None:
    maps = drawn() - 2
    maps[:, 2] = 7.0
    spread = UnitMoments.from_batch(maps).deviations()
    assert spread[2] == 0
    found = responses(maps, spread)
    assert found.dtype == torch.float32
    assert not bool(found[:, 2].any()), "a unit that does not vary responds nowhere"
    for unit in (0, 1, 3):
        expected = np.maximum(maps[:, unit].double().numpy(), 0) / float(spread[unit])
        np.testing.assert_allclose(found[:, unit], expected, rtol=1e-6)
    scaled = responses(10 * maps, UnitMoments.from_batch(10 * maps).deviations())
    np.testing.assert_allclose(scaled, found, rtol=1e-5, err_msg="the unit's scale does not matter")


def test_positions_are_middles_of_fields_over_the_side() -> None:
    grid = PositionGrid.from_field((2, 3), offset=(3.5, 0.5), stride=(16, 8), side=224)
    assert grid.positions().shape == (2, 3, 2)
    for h, w in np.ndindex(2, 3):
        np.testing.assert_allclose(grid.positions()[h, w], [(3.5 + 16 * h) / 224, (0.5 + 8 * w) / 224])
    assert grid.axes == pytest.approx((3.5 / 224, 16 / 224, 0.5 / 224, 8 / 224))


def test_layers_that_get_finer_upwards_are_refused() -> None:
    check_coarsening([square_grid(28), square_grid(28), square_grid(7)])
    with pytest.raises(RefusedInput, match="layers: must get coarser upwards, got 14 x 14 at layer 1 below 28 x 28"):
        check_coarsening([square_grid(28), square_grid(14), square_grid(28)])
    with pytest.raises(RefusedInput, match="layers: must be at least 1, got none"):
        check_coarsening([])


def test_objects_smaller_than_their_cells_are_refused() -> None:
    check_object_sizes(torch.tensor([[28.0, 300.0], [40.0, 28.0]]), square_grid(28))
    with pytest.raises(RefusedInput, match="got 300 x 27 pixels for 28 x 28 cells in object 1; leave out 2 such"):
        check_object_sizes(torch.tensor([[28.0, 300.0], [300.0, 27.0], [1.0, 1.0]]), square_grid(28))


def test_what_does_not_fit_is_refused() -> None:
    maps = drawn()
    with pytest.raises(RefusedInput, match="objects: must be at least 1, got none"):
        UnitMoments.zero(4).deviations()
    with pytest.raises(RefusedInput, match=r"maps: must be floating and have shape \(b, D, H, W\), got torch.float32"):
        UnitMoments.from_batch(maps[0])
    with pytest.raises(RefusedInput, match=r"deviations: must have shape \(4\), got \(3,\)"):
        responses(maps, torch.ones(3))
    maps[7, 1, 2, 0] = torch.nan
    for door in (UnitMoments.from_batch, lambda broken: responses(broken, torch.ones(4))):
        with pytest.raises(NonFiniteActivations, match=r"maps: must be finite, got nan at \(7, 1, 2, 0\); leave that"):
            door(maps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 0}, "height: must be a whole number of at least 1, got 0"),
        ({"first": (0.0, float("nan"))}, r"first: must be finite, got \(0.0, nan\)"),
        ({"stride": (0.1, 0.0)}, r"stride: must be above 0, got \(0.1, 0.0\); place the positions"),
    ],
)
def test_a_grid_without_extent_is_refused(change: dict, words: str) -> None:
    with pytest.raises(RefusedInput, match=words):
        PositionGrid(**({"height": 2, "width": 2, "first": (0.2, 0.2), "stride": (0.5, 0.5)} | change))
    with pytest.raises(RefusedInput, match="side: must be above 0, got 0"):
        PositionGrid.from_field((2, 2), (0.5, 0.5), (1, 1), 0)
