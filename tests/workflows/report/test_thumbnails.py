from __future__ import annotations

import numpy as np
import pytest

from workflows.report.graph_view import ExemplarView
from workflows.report.thumbnails import CARD, RED, clipped, cropped, dotted, fitted, heat_map, thumbnail


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exemplar(picture: np.ndarray | None, rectangle: tuple[int, int, int, int], repeated: bool = False) -> ExemplarView:
    return ExemplarView(image=1, label="cat", rectangle=rectangle, picture=picture, repeated=repeated)


def red(square: np.ndarray) -> np.ndarray:
    return (square == np.array(RED)).all(axis=2)


def test_enlarging_repeats_pixels_and_never_mixes_them() -> None:
    picture = noise(32, 32)
    square, scale, left, top = fitted(picture, 96)
    assert (scale, left, top) == (3.0, 0, 0)
    np.testing.assert_array_equal(square, picture.repeat(3, axis=0).repeat(3, axis=1))
    odd, _, _, _ = fitted(picture, 83)
    assert {tuple(p) for p in odd.reshape(-1, 3)} == {tuple(p) for p in picture.reshape(-1, 3)}


def test_reducing_averages() -> None:
    square, scale, _, _ = fitted(noise(224, 224), 56)
    np.testing.assert_allclose(square, noise(224, 224).reshape(56, 4, 56, 4, 3).mean(axis=(1, 3)), atol=1.01)
    assert scale == 0.25


def test_other_shapes_keep_theirs_on_the_card() -> None:
    square, _, left, top = fitted(noise(10, 20), 40)
    assert (left, top) == (0, 10)
    assert (square[:10] == CARD).all()
    assert (square[30:] == CARD).all()
    np.testing.assert_array_equal(square[10:30], noise(10, 20).repeat(2, axis=0).repeat(2, axis=1))


def test_a_patch_is_the_receptive_field_alone() -> None:
    picture = noise(32, 32)
    square = thumbnail(exemplar(picture, (4, 8, 12, 16)), 64, "patch")
    np.testing.assert_array_equal(square, picture[8:16, 4:12].repeat(8, axis=0).repeat(8, axis=1))
    assert cropped(picture, (-3, -3, 5, 4)).shape == (4, 5, 3)


def test_the_rectangle_is_where_the_receptive_field_is() -> None:
    grey = np.full((32, 32, 3), 90, dtype=np.uint8)
    square = thumbnail(exemplar(grey, (8, 4, 20, 28)), 96, "rectangle")
    rows, columns = np.nonzero(red(square))
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (24, 60, 12, 84)
    assert not red(square)[30, 40]
    np.testing.assert_array_equal(square[30, 40], [90, 90, 90])


@pytest.mark.parametrize("rectangle", [(-50, -50, 90, 90), (0, 0, 32, 32)])
def test_a_field_larger_than_the_image_frames_all_of_it(rectangle: tuple[int, int, int, int]) -> None:
    square = thumbnail(exemplar(np.zeros((32, 32, 3), np.uint8), rectangle), 64, "rectangle")
    assert red(square)[0].all()
    assert red(square)[-1].all()
    assert red(square)[:, [0, -1]].all()


@pytest.mark.parametrize("rectangle", [(31, 31, 32, 32), (0, 0, 1, 1), (40, 40, 50, 50), (-9, -9, -2, -2)])
def test_tiny_and_outside_rectangles_stay_visible(rectangle: tuple[int, int, int, int]) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    assert red(thumbnail(exemplar(picture, rectangle), 64, "rectangle")).sum() >= 8
    x0, y0, x1, y1 = clipped(rectangle, picture)
    assert 0 <= x0 < x1 <= 32
    assert 0 <= y0 < y1 <= 32


def test_repeats_are_faded_and_missing_pictures_grey() -> None:
    picture = noise(32, 32)
    plain = thumbnail(exemplar(picture, (0, 0, 32, 32)), 64, "whole")
    faded = thumbnail(exemplar(picture, (0, 0, 32, 32), repeated=True), 64, "whole")
    np.testing.assert_allclose(faded, plain * 0.55 + 255 * 0.45, atol=0.51)
    assert len(np.unique(thumbnail(exemplar(None, (0, 0, 1, 1)), 20, "patch").reshape(-1, 3), axis=0)) == 1


def test_dots_lie_at_their_positions() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    positions = np.array([[4.0, 8.0], [20.0, 28.0]])
    square = dotted(black, positions, 128)
    for x, y in positions * 4:
        np.testing.assert_array_equal(square[int(y), int(x)], RED)
    assert not red(square)[64, 64]
    centre = np.argwhere(red(square)[:64]).mean(axis=0) + 0.5
    np.testing.assert_allclose(centre, [32, 16], atol=0.5)


def test_dense_dots_do_not_melt_and_none_changes_nothing() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    grid = np.stack(np.meshgrid(np.arange(8) * 4 + 2.0, np.arange(8) * 4 + 2.0), axis=-1).reshape(-1, 2)
    square = dotted(black, grid, 128)
    assert not red(square)[16::16].any()  # between the rows of dots
    np.testing.assert_array_equal(dotted(black, np.empty((0, 2)), 128), fitted(black, 128)[0])


def test_heat_maps_are_bright_at_the_word_and_grey_if_unknown() -> None:
    heat = np.zeros((11, 11))
    heat[2, 8] = 0.3
    heat[0, 0] = np.nan
    picture = heat_map(heat, 68)
    assert picture.shape == (68, 68, 3)
    cell = picture[1:-1, 1:-1].reshape(11, 6, 11, 6, 3)[:, 3, :, 3].astype(int)
    np.testing.assert_array_equal(cell[0, 0], [222, 224, 228])
    cell[0, 0] = 0
    assert np.unravel_index(cell.sum(axis=2).argmax(), (11, 11)) == (2, 8)
    assert cell[2, 8].sum() > 600
    assert cell[5, 5].sum() < 30


@pytest.mark.parametrize("heat", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((1, 1)), np.ones((90, 30))])
def test_heat_maps_of_any_kind_stay_within_their_side(heat: np.ndarray) -> None:
    picture = heat_map(heat, 50)
    assert max(picture.shape[:2]) <= 50
    assert picture.shape[0] >= 3
