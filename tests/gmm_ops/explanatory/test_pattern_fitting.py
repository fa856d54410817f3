"""EM of patterns: as the loops do it, the likelihood never falls, parts are found, grouping changes no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory import parents, pattern_fitting
from gmm_ops.explanatory.parents import UpperPlaces
from gmm_ops.explanatory.pattern_fitting import PatternFit, first_means, fit_patterns
from gmm_ops.explanatory.pattern_layer import PatternSettings, joined_layer
from gmm_ops.explanatory.pattern_places import infer_places
from gmm_ops.explanatory.responses import PositionGrid
from tests.gmm_ops.explanatory.drawn_objects import Scene, drawn_scene, seen_from_below, square_grid
from tests.references import explanatory_graph as slow

UPPER, LOWER = PatternSettings(patterns=4), PatternSettings(patterns=8, parents=5)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return drawn_scene(70, seed=0)


@pytest.fixture(scope="module")
def top(scene: Scene) -> PatternFit:
    return fit_patterns(scene.upper, square_grid(14), UPPER, range(6))


@pytest.fixture(scope="module")
def above(scene: Scene, top: PatternFit) -> UpperPlaces:
    return seen_from_below(top.layer, infer_places(scene.upper, square_grid(14), top.layer))


@pytest.fixture(scope="module")
def bottom(scene: Scene, above: UpperPlaces) -> PatternFit:
    return fit_patterns(scene.lower, square_grid(28), LOWER, [7, 8], above)


def small(seed: int = 0) -> tuple[Tensor, UpperPlaces]:
    """Responses (6, 2, 5, 7) with zeros, and displacements of candidates that are not all numbered in a row."""
    noise = torch.Generator().manual_seed(seed)
    maps = torch.randn(6, 2, 5, 7, generator=noise).clamp(min=0) * 3
    maps[2, 1] = 0  # nowhere positive: without mass in that image
    precisions = 20 * torch.rand(4, generator=noise, dtype=torch.float64) + 1
    away = 0.1 * torch.randn(6, 2, 4, generator=noise)
    return maps, UpperPlaces(torch.tensor([1, 4, 5, 9]), precisions, away)


@pytest.mark.parametrize("step", ["closed", "gradient"])
@pytest.mark.parametrize(
    ("seen", "rigid"), [(True, True), (False, False), pytest.param(True, False, marks=pytest.mark.slow)]
)
def test_a_fit_is_that_of_the_loops(step: str, seen: bool, rigid: bool) -> None:
    maps, upper = small()
    grid = PositionGrid(5, 7, (0.1, 0.06), (0.2, 0.145))
    settings = PatternSettings(3, parents=2, iterations=7, step=step, eta=0.7, tau=0.8, rigid=rigid)  # type: ignore[arg-type]
    found = fit_patterns(maps, grid, settings, [3, 4], upper if seen else None)
    for unit in (0, 1):
        above = (upper.displacements.double().transpose(1, 2).numpy(), upper.precisions.tolist(), 2)
        means, deviations, chosen, history = slow.fit(
            maps[:, unit].double().numpy(),
            grid.positions().numpy(),
            first_means(grid, 3, [3, 4][unit]),
            settings.bounds(),
            7,
            0.8,
            above if seen else None,
            0.7 if step == "gradient" else None,
            rigid,
        )
        np.testing.assert_allclose(found.likelihood[unit], history, rtol=1e-9)
        np.testing.assert_allclose(found.layer.means[unit], means, atol=1e-9)
        np.testing.assert_allclose(found.layer.deviations[unit], deviations, atol=1e-9)
        if seen:
            expected = [[int(upper.candidates[c]) for c in own] or [-1, -1] for own in chosen]
            assert found.layer.parents[unit].tolist() == expected
    kin = found.layer.parents >= 0
    assert bool(kin.all() if rigid else kin.any()) == seen, "else the parents were not tried"


def test_the_likelihood_never_falls(top: PatternFit, bottom: PatternFit) -> None:
    for fit in (top, bottom):
        before, after = fit.likelihood[:, :-1], fit.likelihood[:, 1:]
        assert bool((after >= before - 1e-6 * before.abs()).all())
        assert bool((after[:, -1] > before[:, 0] + 1).all())
    assert bool((bottom.layer.parents >= 0).all(dim=2).any()), "else parents were never taken"


def test_nor_of_rigid_patterns_which_all_have_a_parent(scene: Scene, above: UpperPlaces) -> None:
    settings = PatternSettings(8, parents=1, iterations=12, rigid=True)
    found = fit_patterns(scene.lower[:, :1], square_grid(28), settings, [7], above)
    assert bool((found.layer.parents >= 0).all())
    before, after = found.likelihood[:, :-1], found.likelihood[:, 1:]
    assert bool((after >= before - 1e-6 * before.abs()).all())


def test_a_gradient_step_never_lowers_it_either(scene: Scene, above: UpperPlaces) -> None:
    settings = PatternSettings(8, parents=5, step="gradient", iterations=12)
    likelihood = fit_patterns(scene.lower[:, :1], square_grid(28), settings, [7], above).likelihood
    assert bool((likelihood[:, 1:] >= likelihood[:, :-1] - 1e-6 * likelihood[:, :-1].abs()).all())


def test_a_mixing_unit_is_split_into_its_parts(scene: Scene, above: UpperPlaces, bottom: PatternFit) -> None:
    """Every heavy pattern of the unit that responds to head and legs stays within .05 of one of them."""
    layer = bottom.layer
    heavy = (layer.masses[0] > 0.1 * layer.masses[0].sum()).nonzero()[:, 0]
    places = infer_places(scene.lower, square_grid(28), layer, above).places[:, heavy].double()
    away = torch.stack([(places - part[:, None]).norm(dim=2).median(dim=0).values for part in (scene.head, scene.legs)])
    assert bool((away.min(dim=0).values < 0.05).all()), away
    assert set(away.argmin(dim=0).tolist()) == {0, 1}, "both parts have a pattern"
    # The raw peak jumps between the parts.
    peaks = scene.lower[:, 0].flatten(1).argmax(dim=1)
    raw = square_grid(28).positions().reshape(-1, 2)[peaks]
    assert min(float((raw - part).norm(dim=1).quantile(0.9)) for part in (scene.head, scene.legs)) > 0.2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_grouping_of_units_changes_no_bit(scene: Scene, above: UpperPlaces, top: PatternFit, size: int) -> None:
    settings = PatternSettings(4, parents=3, iterations=3)
    whole = fit_patterns(scene.upper, square_grid(14), settings, range(6), above)
    parts = [
        fit_patterns(
            scene.upper[:, first : first + size], square_grid(14), settings, range(6)[first : first + size], above
        )
        for first in range(0, 6, size)
    ]
    assert joined_layer([part.layer for part in parts]) == whole.layer
    assert torch.equal(torch.cat([part.likelihood for part in parts]), whole.likelihood)


@pytest.mark.parametrize("images", [1, 9, 1000])
def test_objects_read_at_a_time_change_no_bit(
    scene: Scene, above: UpperPlaces, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    settings = PatternSettings(4, parents=3, iterations=3)
    whole = fit_patterns(scene.upper, square_grid(14), settings, range(6), above)
    monkeypatch.setattr(pattern_fitting, "IMAGES", images)
    assert fit_patterns(scene.upper.numpy(), square_grid(14), settings, range(6), above) == whole


def test_responses_may_lie_in_a_file(scene: Scene, top: PatternFit, tmp_path: Path) -> None:
    np.save(tmp_path / "responses.npy", scene.upper.numpy())
    mapped = np.load(tmp_path / "responses.npy", mmap_mode="r")
    assert fit_patterns(mapped, square_grid(14), UPPER, range(6)) == top


def test_order_of_units_is_theirs(scene: Scene, top: PatternFit) -> None:
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    found = fit_patterns(scene.upper[:, order], square_grid(14), UPPER, order.tolist())
    assert torch.equal(found.layer.means, top.layer.means[order])
    assert torch.equal(found.likelihood, top.likelihood[order])


def test_a_pattern_keeps_within_its_bounds(top: PatternFit) -> None:
    low, high = 0.1 / 2, 1 / 2
    assert float(top.layer.deviations.min()) >= low
    assert float(top.layer.deviations.max()) <= high
    total = top.layer.masses.sum(dim=1)
    assert bool((total > 0).all())


def test_a_free_top_keeps_its_deviation(scene: Scene) -> None:
    fit = fit_patterns(scene.upper, square_grid(14), PatternSettings.free_top(iterations=3), range(6))
    assert fit.layer.deviations.unique().tolist() == [1.5]
    assert fit.layer.parents.shape == (6, 1, 0)
    # One wide pattern goes to the middle of all that its unit sees.
    wanted = (scene.upper.double()[..., None] * square_grid(14).positions()).sum(dim=(0, 2, 3))
    wanted /= scene.upper.double().sum(dim=(0, 2, 3))[:, None]
    np.testing.assert_allclose(fit.layer.means[:, 0], wanted, atol=0.01)


def test_a_silent_unit_stays_where_it_began(scene: Scene) -> None:
    silent = torch.zeros_like(scene.upper[:, :1])
    fit = fit_patterns(silent, square_grid(14), UPPER, [5])
    np.testing.assert_array_equal(fit.layer.means[0], first_means(square_grid(14), 4, 5))
    assert float(fit.layer.masses.sum()) == float(fit.likelihood.abs().sum()) == 0


def test_parents_that_do_not_help_are_not_taken() -> None:
    """A part that stands still keeps the dummy: whatever moves would only add variance."""
    grid = square_grid(10)
    still = torch.zeros(40, 1, 10, 10)
    still[:, 0, 4, 5] = 1.0
    moving = 0.1 * torch.randn(40, 2, 6, generator=torch.Generator().manual_seed(0))
    upper = UpperPlaces(torch.arange(6), torch.ones(6, dtype=torch.float64), moving)
    layer = fit_patterns(still, grid, PatternSettings(2, parents=2, iterations=3), [0], upper).layer
    assert bool((layer.parents == -1).all())


def test_greedy_parents_are_those_of_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    masses, places = noise.random((50, 3)), noise.random((50, 3, 2))
    away = torch.tensor(0.1 * noise.normal(size=(50, 2, 12)), dtype=torch.float32)
    precisions = torch.tensor(noise.random(12) + 0.5)
    upper = UpperPlaces(torch.arange(12), precisions, away)
    monkeypatch.setattr(parents, "BLOCK", 16)
    found = parents.ParentSearch(masses, places, np.full((3, 2), 0.5), upper).choose(4)
    for n in range(3):
        rows = away.double().transpose(1, 2).numpy()
        assert found[n].tolist() == slow.greedy_parents(masses[:, n], places[:, n], rows, precisions.tolist(), 4)
    everything = parents.ParentSearch(masses, places, np.full((3, 2), 0.5), upper).choose(99)
    assert [sorted(own) for own in everything.tolist()] == [list(range(12))] * 3, "no more than there are"


def test_what_does_not_fit_is_refused(scene: Scene, above: UpperPlaces) -> None:
    grid, settings = square_grid(14), PatternSettings(4, iterations=1)
    with pytest.raises(RefusedInput, match=r"responses: must have shape \(n, D, 7, 7\) of the grid, got \(70, 6, 14"):
        fit_patterns(scene.upper, square_grid(7), settings, range(6))
    with pytest.raises(RefusedInput, match="seeds: must be one a unit, got 5 for 6"):
        fit_patterns(scene.upper, grid, settings, range(5))
    with pytest.raises(RefusedInput, match=r"upper: must have displacements \(9, 2, 24\).*infer the layer above"):
        fit_patterns(scene.upper[:9], grid, settings, range(6), above)
    with pytest.raises(RefusedInput, match="patterns: must be at most one a position, 196 for 14 x 14, got 197"):
        fit_patterns(scene.upper, grid, PatternSettings(197), range(6))
    broken = scene.upper.clone()
    broken[66, 2, 3, 3] = torch.nan
    with pytest.raises(NonFiniteActivations, match="must be finite, got NaN or infinity in object 66; leave that obj"):
        fit_patterns(broken, grid, settings, range(6))
    with pytest.raises(RefusedInput, match="responses: must not be negative, got -"):
        fit_patterns(-scene.upper, grid, settings, range(6))
    with pytest.raises(RefusedInput, match="blocks: must have the same patterns and parents a unit"):
        joined_layer(
            [fit_patterns(scene.upper, grid, PatternSettings(n, iterations=1), range(6)).layer for n in (2, 3)]
        )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("patterns", 0, "patterns: must be a whole number of at least 1, got 0"),
        ("tau", 0.0, "tau: must be above 0 and finite, got 0.0"),
        ("deviation", float("inf"), "deviation: must be above 0 and finite, got inf"),
        ("step", "newton", "step: must be closed or gradient, got 'newton'"),
    ],
)
def test_settings_outside_their_range_are_refused(field: str, value: object, words: str) -> None:
    with pytest.raises(RefusedInput, match=words):
        PatternSettings(**({"patterns": 3} | {field: value}))  # type: ignore[arg-type]
