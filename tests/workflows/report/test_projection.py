"""Laws of the plane of a decision junction."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from workflows.report.projection import NOWHERE, fit_projection, nearest_to_centre


def drawn(groups: int, n: int = 240, units: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups around their own centres, units of very different spread."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, groups, n)
    spread = np.linspace(0.5, 3, units)
    return rng.normal(0, 2, (groups, units))[labels] + rng.normal(0, spread, (n, units)), labels


def up_to_sign(found: np.ndarray, expected: np.ndarray) -> None:
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("groups", [3, 4, 8])
def test_three_groups_or_more_give_the_transform_of_scikit_learn(groups: int) -> None:
    columns, labels = drawn(groups)
    analysis = LinearDiscriminantAnalysis(solver="eigen", covariance_estimator=LedoitWolf(), n_components=2)
    expected = analysis.fit(columns, labels).transform(columns)
    projection = fit_projection(columns, labels)
    up_to_sign(projection(columns), expected - expected.mean(axis=0))
    assert projection.names == ("discriminant 1", "discriminant 2")


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_rotation_of_the_units_moves_no_point(groups: int) -> None:
    columns, labels = drawn(groups)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    shift = np.arange(7.0)
    before, after = fit_projection(columns, labels), fit_projection(columns @ rotation + shift, labels)
    np.testing.assert_allclose(after(columns @ rotation + shift), before(columns), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_names_of_groups_and_order_of_columns_move_no_point(groups: int) -> None:
    columns, labels = drawn(groups)
    rng = np.random.default_rng(2)
    names, order = rng.permutation(groups) * 7 + 3, rng.permutation(len(columns))
    plain = fit_projection(columns, labels)
    other = fit_projection(columns[order], names[labels][order])
    np.testing.assert_allclose(other(columns), plain(columns), rtol=1e-6, atol=1e-7)


def test_units_that_are_never_active_take_no_part() -> None:
    columns, labels = drawn(4)
    wider = np.zeros((len(columns), 50))
    wider[:, 5:12] = columns
    np.testing.assert_allclose(
        fit_projection(wider, labels)(wider), fit_projection(columns, labels)(columns), rtol=1e-6, atol=1e-7
    )


def test_two_groups_give_an_axis_and_a_component_of_the_rest() -> None:
    columns, labels = drawn(2)
    projection = fit_projection(columns, labels)
    assert projection.names == ("discriminant", "principal component")
    analysis = LinearDiscriminantAnalysis(solver="eigen", covariance_estimator=LedoitWolf(), n_components=1)
    expected = analysis.fit(columns, labels).transform(columns)
    points = projection(columns)
    up_to_sign(points[:, :1], expected - expected.mean(axis=0))
    axis = analysis.scalings_[:, 0] / np.linalg.norm(analysis.scalings_[:, 0])
    centred = columns - columns.mean(axis=0)
    rest = centred - np.outer(centred @ axis, axis)
    assert abs(axis @ projection.axes[:, 1]) < 1e-8, "orthogonal to the discriminant"
    largest = np.linalg.svd(rest, compute_uv=False)[0]
    unit = projection.axes[:, 1] / np.linalg.norm(projection.axes[:, 1])
    assert np.linalg.norm(rest @ unit) == pytest.approx(largest, rel=1e-9), "no direction of the rest varies more"
    within = np.concatenate([points[labels == g, 1] - points[labels == g, 1].mean() for g in (0, 1)])
    assert within.std() == pytest.approx(1.0, rel=1e-9), "in deviations within the groups, as the discriminant"


def test_one_group_gives_two_principal_components() -> None:
    columns, labels = drawn(1)
    projection = fit_projection(columns, labels)
    assert projection.names == ("principal component 1", "principal component 2")
    left, values, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    up_to_sign(projection(columns), left[:, :2] * values[:2])


def test_members_nowhere_are_shown_and_choose_nothing() -> None:
    columns, labels = drawn(4)
    far = np.concatenate([columns, np.full((30, 7), 1e3)])
    more = np.concatenate([labels, np.full(30, NOWHERE)])
    projection = fit_projection(far, more)
    np.testing.assert_allclose(projection(columns), fit_projection(columns, labels)(columns), rtol=1e-9, atol=1e-9)
    assert np.isfinite(projection(far)).all()


def test_a_group_of_one_column_has_no_spread_and_chooses_nothing() -> None:
    columns, labels = drawn(3)
    alone = np.concatenate([columns, columns[:1] + 50]), np.concatenate([labels, [9]])
    np.testing.assert_allclose(
        fit_projection(*alone)(columns), fit_projection(columns, labels)(columns), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        (np.zeros((0, 5)), []),
        (np.ones((1, 5)), [0]),
        (np.ones((4, 5)), [0, 0, 1, 1]),
        (np.array([[0.0], [1], [2], [3], [5]]), [0, 0, 1, 1, 2]),
        (np.array([[0.0, 1], [0, 1], [4, 2], [4, 2], [9, 0], [9, 0]]), [0, 0, 1, 1, 2, 2]),
        (np.arange(10.0).reshape(2, 5), [0, 1]),
        (np.arange(12.0).reshape(3, 4) ** 2, [NOWHERE] * 3),
    ],
    ids=["no member", "one", "all the same", "one unit", "no spread within", "a member each", "all nowhere"],
)
def test_poor_junctions_still_have_a_plane(columns: np.ndarray, labels: list[int]) -> None:
    projection = fit_projection(columns, np.array(labels, np.int64))
    assert projection.axes.shape == (columns.shape[1], 2)
    assert np.isfinite(projection(columns)).all()
    distinct = len(np.unique(columns, axis=0))
    assert len(np.unique(projection(columns).round(9), axis=0)) == distinct, "different members at different places"


def test_more_units_than_members_and_few_members_a_group() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    columns = np.maximum(rng.normal(size=(15, 400)) + rng.normal(size=(3, 400))[labels], 0)
    points = fit_projection(columns, labels)(columns)
    centres = np.stack([points[labels == g].mean(axis=0) for g in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, labels)


def test_nearest_to_the_centre_equals_sorting_by_hand() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    centre = points.mean(axis=0)
    by_hand = sorted(range(30), key=lambda row: float(np.hypot(*(points[row] - centre))))
    assert nearest_to_centre(points, 3).tolist() == by_hand[:3]
    square = np.array([[0.0, 0], [1, 1], [0, 1], [1, 0]])
    assert nearest_to_centre(square, 3).tolist() == [0, 1, 2], "ties go to the earlier row"
    assert nearest_to_centre(np.zeros((0, 2)), 3).tolist() == []
