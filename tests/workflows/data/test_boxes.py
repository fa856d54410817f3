"""Boxes of a file: read, matched with the photos of a run, and carried through resizing and cropping."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.references.boxes import covered_share, in_any, point_in_photo
from workflows.data.boxes import BoxRow, area, input_boxes, inside, match_images, read_boxes, resized_size
from workflows.data.preprocessing import Preprocessor
from workflows.errors import DataError
from workflows.settings import PreprocessingSettings

HEADER = "synset,image,part,obj_x0,obj_y0,obj_x1,obj_y1,part_x0,part_y0,part_x1,part_y1\n"
SIZES = [(427, 640), (640, 427), (300, 300), (256, 401), (333, 257)]
GEOMETRIES = [(256, 224), (96, 64), (None, 200), (100, None), (None, None)]


def row(boxes: dict[str, tuple[float, float, float, float]], image: str = "a/1.jpg", line: int = 2) -> BoxRow:
    return BoxRow(line, image, boxes)


def written(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "boxes.csv"
    path.write_text(header + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), GEOMETRIES)
def test_a_box_lies_where_the_preprocessing_puts_its_pixels(
    size: tuple[int, int], resize: int | None, crop: int | None
) -> None:
    photo = np.resize(load_sample_image("china.jpg"), (*size, 3))
    x0, y0, x1, y1 = box = (round(0.31 * size[1]), round(0.27 * size[0]), round(0.66 * size[1]), round(0.71 * size[0]))
    changed = photo.copy()
    changed[y0:y1, x0:x1] += 128  # wraps around: every pixel of the box differs by half the range
    settings = PreprocessingSettings(resize=resize, crop=crop)
    crops = [Preprocessor(settings).crop(pixels).astype(int) for pixels in (photo, changed)]
    differs = np.abs(crops[0] - crops[1]).mean(axis=2) > 40
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    found = input_boxes([row({"object": box})], size, settings)["object"]
    np.testing.assert_allclose(found, [expected], atol=1.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(32, 24), (24, 24)])
def test_points_and_areas_equal_the_slow_twin(size: tuple[int, int], resize: int, crop: int) -> None:
    chance = np.random.default_rng(size[0])
    corners = np.sort(chance.uniform(0, 1, (4, 2, 2)), axis=1) * size[::-1]
    boxes = [tuple(corner.ravel().tolist()) for corner in corners]
    lines = [row({"object": box}) for box in boxes]
    found = input_boxes(lines, size, PreprocessingSettings(resize=resize, crop=crop))["object"]
    y, x = chance.uniform(0, crop, 30), chance.uniform(0, crop, 20)
    expected = [[in_any(*point_in_photo(a, b, size, resize, crop), boxes) for b in x] for a in y]
    assert np.array_equal(inside(y, x, found), expected)
    assert 0.1 < np.mean(expected) < 0.95
    share = covered_share(boxes, size, resize, crop, (crop, crop), 8)
    assert area(found) / crop**2 == pytest.approx(share, abs=0.01)


def test_overlapping_boxes_count_once_and_cut_ones_not_at_all() -> None:
    settings = PreprocessingSettings(crop=10)
    lines = [row({"object": (5, 5, 15, 15), "head": (0, 0, 5, 20)}), row({"object": (8, 5, 20, 15)})]
    found = input_boxes(lines, (20, 20), settings)
    assert area(found["object"]) == 100
    assert area(found["head"]) == 0
    assert not inside(np.arange(10.0), np.arange(10.0), found["head"]).any()
    assert area(np.array([[0, 0, 4, 4], [2, 2, 6, 6], [8, 8, 9, 10.0]])) == 16 + 16 - 4 + 2


def test_sizes_are_rounded_as_the_preprocessing_does() -> None:
    for size in SIZES:
        picture = np.zeros((*size, 3), np.uint8)
        assert resized_size(size, 123) == Preprocessor(PreprocessingSettings(resize=123)).crop(picture).shape[:2]


def test_lines_are_objects_with_a_part_or_without(tmp_path: Path) -> None:
    path = written(tmp_path, "z,a/1.jpg,part01,1,2,30,40,5,6,7.5,8", "z,a/1.jpg,,1,2,30,40,,,,")
    rows = read_boxes(path, {"part01": "head"})
    assert rows == [
        BoxRow(2, "a/1.jpg", {"object": (1, 2, 30, 40), "head": (5, 6, 7.5, 8)}),
        BoxRow(3, "a/1.jpg", {"object": (1, 2, 30, 40)}),
    ]
    assert set(read_boxes(path, {})[0].boxes) == {"object", "part01"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"part1": "head"}, r"--name part1=head: the file '.*boxes\.csv' has no part 'part1'; did you mean part01\?"),
        ({"part01": "head", "wing": "tail"}, "--name wing=tail: .* has no part 'wing'; its parts are object, part01"),
    ],
)
def test_names_of_no_part_are_refused(names: dict[str, str], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "z,a,part01,1,2,30,40,5,6,7,8", "z,a,object,1,2,30,40,5,6,7,8", "z,a,,1,2,30,40,,,,")
    with pytest.raises(DataError, match=message):
        read_boxes(path, names | {"object": "leg"})
    assert [set(line.boxes) for line in read_boxes(path, {"object": "leg"})[1:]] == [{"object", "leg"}, {"object"}]


@pytest.mark.parametrize("name", ["./b/1.jpg", "b//1.jpg", "/b/./1.jpg", "b/c/../1.jpg", "//data/b/1.jpg"])
def test_paths_are_matched_however_they_are_written(name: str) -> None:
    assert list(match_images([row({}, name)], ["/data/a/1.jpg", "/data/b/1.jpg"])) == [1]


def test_photos_are_found_by_the_end_of_their_path() -> None:
    paths = ["/data/a/1.jpg", "/data/b/1.jpg", "/data/b/11.jpg"]
    rows = [row({}, "b/1.jpg"), row({}, "11.jpg"), row({}, "b/1.jpg"), row({}, "c/9.jpg")]
    assert match_images(rows, paths) == {1: [rows[0], rows[2]], 2: [rows[1]]}
    with pytest.raises(DataError, match=r"line 2: '1.jpg' fits several images of the run: name their folders too"):
        match_images([row({}, "1.jpg")], paths)
    with pytest.raises(DataError, match=r"none of the 1 lines names a photo of the run: its paths end as in '/data/a"):
        match_images([row({}, "1.jp")], paths)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("z", "line 2: "),
        ("z,,part01,1,2,30,40,5,6,7,8", "line 2: no image: give the end of the photo's path"),
        ("z,a,part01,1,2,30,40,5,6,seven,8", r"line 2: part_x0 to part_y1 are no numbers: \['5', '6', 'seven', '8'\]"),
        (
            "z,a,part01,30,2,1,40,5,6,7,8",
            "line 2: the box of object must have obj_x0 < obj_x1 and .* came 30, 2, 1, 40",
        ),
        ("z,a,part01,1,2,30,40,5,nan,7,8", "the box of head must have part_x0 < part_x1"),
        ("z,a,part01,1,2", "obj_x0 to obj_y1 are no numbers"),
        ("z,a,object,1,2,30,40,5,6,7,8", "no part may be called 'object': rename it with --name object=NAME"),
    ],
)
def test_a_line_without_boxes_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(written(tmp_path, line), {"part01": "head"})


def test_files_that_are_no_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no such file; give a CSV with image, part, obj_x0"):
        read_boxes(tmp_path / "none.csv", {})
    with pytest.raises(DataError, match=r"no column obj_y1, part_x0; it needs image, part"):
        read_boxes(written(tmp_path, header="image,part,obj_x0,obj_y0,obj_x1,part_y0,part_x1,part_y1\n"), {})
    with pytest.raises(DataError, match="the file has no line below its header"):
        read_boxes(written(tmp_path), {})
    (tmp_path / "boxes.csv").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_boxes(tmp_path / "boxes.csv", {})
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_boxes(tmp_path, {})


@pytest.mark.parametrize("box", [(-70, 0, 50, 50), (0, 0, 705, 50), (0, -60, 50, 50), (0, 0, 50, 480)])
def test_a_box_of_another_picture_is_refused(box: tuple[float, float, float, float]) -> None:
    message = re.escape(f"line 2: the box of head ({', '.join(f'{edge:g}' for edge in box)}) reaches out of the photo")
    with pytest.raises(DataError, match=message + ".*640 x 427 pixels.*give boxes in pixels of this file"):
        input_boxes([row({"head": box})], (427, 640), PreprocessingSettings())


def test_a_box_drawn_a_little_over_the_edge_ends_at_the_edge() -> None:
    found = input_boxes([row({"head": (-6, 0, 640, 431)})], (427, 640), PreprocessingSettings())
    assert found["head"].tolist() == [[0, 0, 640, 427]]


def test_the_boxes_drawn_on_zebras_and_tigers_fit_their_photos(shared_data: Path) -> None:
    folder = shared_data / "imagenet_animals"
    paths = sorted(str(path) for path in folder.glob("*/*.jpg"))
    found = match_images(read_boxes(folder / "parts.csv", {"part01": "head"}), paths)
    assert len(paths) == 400
    assert len(found) == 353
    shares, heads = [], []
    for place, rows in found.items():
        with Image.open(paths[place]) as photo:
            width, height = photo.size
        boxes = input_boxes(rows, (height, width), PreprocessingSettings(resize=256, crop=224))
        shares.append(area(boxes["object"]) / 224**2)
        if "head" in boxes and area(boxes["head"]):
            both = area(np.concatenate([boxes["head"], boxes["object"]]))
            heads.append((area(boxes["head"]) + area(boxes["object"]) - both) / area(boxes["head"]))
    assert 0.6 < np.mean(shares) < 0.8
    assert len(heads) > 250
    assert np.mean(heads) > 0.97, "heads belong to their objects"
