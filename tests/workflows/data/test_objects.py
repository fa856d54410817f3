"""Objects keyed by photo and box: their pixels, their parts on them, and places back on the photo."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.data.boxes import BoxRow
from workflows.data.objects import BoxedObjects, boxed_objects, object_pixels
from workflows.errors import DataError

SIZES = {3: (100, 200), 7: (50, 60)}


@pytest.fixture
def objects() -> BoxedObjects:
    rows = {
        7: [BoxRow(5, "b.png", {"object": (-2.0, 10.0, 30.4, 50.0)})],
        3: [
            BoxRow(2, "a.png", {"object": (20.0, 10.0, 120.0, 60.0), "head": (20.0, 10.0, 40.0, 20.0)}),
            BoxRow(3, "a.png", {"object": (20.0, 10.0, 120.0, 60.0), "legs": (30.0, 40.0, 50.0, 60.0)}),
            BoxRow(4, "a.png", {"object": (20.0, 10.0, 120.0, 60.0), "legs": (90.0, 45.0, 95.0, 60.0)}),
            BoxRow(6, "a.png", {"object": (5.0, 5.0, 6.2, 9.0), "head": (5.0, 5.0, 6.2, 7.0)}),
        ],
    }
    return boxed_objects(rows, SIZES)


def test_lines_of_one_box_are_one_object(objects: BoxedObjects) -> None:
    assert objects.images.tolist() == [3, 3, 7]
    assert objects.boxes.tolist() == [[20, 10, 120, 60], [5, 5, 6, 9], [0, 10, 30, 50]]
    assert objects.sizes.tolist() == [[50, 100], [4, 1], [40, 30]]
    assert objects.parts["legs"][0].tolist() == [30, 40, 95, 60], "what both span"
    assert np.isnan(objects.parts["legs"][1:]).all()


def test_parts_lie_on_the_turned_object(objects: BoxedObjects) -> None:
    plain, turned = (objects.part_boxes(np.array(signs)) for signs in ([1, 1, 1], [-1, 1, 1]))
    assert plain[0, 0] == pytest.approx([0, 0, 0.2, 0.2])
    assert turned[0, 0] == pytest.approx([0, 0.8, 0.2, 1.0])
    assert turned[0, 1] == pytest.approx([0.6, 0.25, 1.0, 0.9])
    assert np.isnan(turned[2]).all(), "no part there"


def test_places_go_back_to_the_photo(objects: BoxedObjects) -> None:
    signs = np.array([-1, 1, 1])
    places = (objects.part_boxes(signs)[:2, 0, :2] + objects.part_boxes(signs)[:2, 0, 2:]) / 2
    found = objects.on_photo(np.array([0, 1]), places, signs)
    assert found[0] == pytest.approx([15, 30])
    assert found[1] == pytest.approx([6, 5.6])
    np.testing.assert_allclose(objects.on_object(np.array([0, 1]), found, signs), places)


def test_the_pixels_are_those_of_the_box(objects: BoxedObjects) -> None:
    photo = np.arange(100 * 200 * 3, dtype=np.uint32).reshape(100, 200, 3)
    assert np.array_equal(object_pixels(photo, objects.boxes[0]), photo[10:60, 20:120])


def test_boxes_outside_their_photo_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"line 9: the box of object .* reaches out of the photo 'a.png', which has 200"
    ):
        boxed_objects({3: [BoxRow(9, "a.png", {"object": (150.0, 0.0, 260.0, 50.0)})]}, SIZES)


def test_some_of_them_keep_their_parts(objects: BoxedObjects) -> None:
    some = objects.only(np.array([True, False, True]))
    assert len(some) == 2
    assert some.parts["head"][0].tolist() == [20, 10, 40, 20]
