"""Masks of every source, on generated folders and on car_parts: where they lie, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from tests.workflows.data.masks.made_pictures import (
    SIZE,
    coded,
    masks_of,
    write_broden,
    write_coco,
    write_photos,
    write_picture,
    write_table,
)
from tests.workflows.studies.made_masks import run_lengths_of
from workflows.data.boxes import input_boxes, inside, read_boxes
from workflows.data.masks import concept_masks
from workflows.data.masks.coco import decoded, filled, run_lengths
from workflows.data.masks.concept_masks import Concept, nearest_pixels
from workflows.data.masks.mask_sources import layered
from workflows.data.preprocessing import Preprocessor
from workflows.errors import DataError
from workflows.settings import DataSettings, PreprocessingSettings

GEOMETRIES = [(None, None), (24, 20), (60, 48), (30, 16), (None, 12)]


@pytest.fixture
def paths(tmp_path: Path) -> dict[int, str]:
    return write_photos(tmp_path)


def drawn_mask(seed: int = 0) -> np.ndarray:
    """Some blobs."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 1, (4, 2)) * SIZE
    return np.any([(y - a) ** 2 + (x - b) ** 2 < 40 for a, b in centres], axis=0)


def compressed(lengths: list[int]) -> str:
    """COCO's text of run lengths (cocoapi, rleToString)."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


@pytest.mark.parametrize(("resize", "crop"), GEOMETRIES)
def test_a_mask_lies_where_the_preprocessing_puts_its_pixels(
    paths: dict[int, str], tmp_path: Path, resize: int | None, crop: int | None
) -> None:
    mask = drawn_mask()
    source = write_coco(tmp_path, [{"segmentation": {"size": list(SIZE), "counts": run_lengths_of(mask)}}])
    found = masks_of(source, paths, resize, crop).read([0])[0].mask(0)
    picture = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)
    crop_of = Preprocessor(PreprocessingSettings(resize=resize, crop=crop)).crop(picture)[:, :, 0]
    assert found.shape == crop_of.shape
    # Antialiased edges lie between; what is clearly inside or outside must agree.
    assert (found[crop_of > 200]).all()
    assert not (found[crop_of < 55]).any()
    if (resize, crop) == (None, None):
        np.testing.assert_array_equal(found, mask)


def test_nearest_pixels_are_those_of_the_centres() -> None:
    rows, columns = nearest_pixels((30, 40), (15, 20), PreprocessingSettings(resize=60, crop=48))
    assert rows.tolist() == [int((y + 6 + 0.5) / 60 * 15) for y in range(48)]
    assert columns.tolist() == [int((x + 16 + 0.5) / 80 * 20) for x in range(48)]


def test_run_lengths_as_numbers_and_as_text_are_the_same(paths: dict[int, str], tmp_path: Path) -> None:
    mask = drawn_mask(1)
    lengths = run_lengths_of(mask)
    assert run_lengths(compressed(lengths)).tolist() == lengths
    for counts in (lengths, compressed(lengths)):
        source = write_coco(tmp_path, [{"segmentation": {"size": list(SIZE), "counts": counts}, "iscrowd": 1}])
        np.testing.assert_array_equal(masks_of(source, paths).read([0])[0].mask(0), mask)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_hold_the_pixels_whose_centres_they_hold(seed: int) -> None:
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, 9))
    corners = np.stack([20 + 17 * np.cos(angles), 15 + 12 * np.sin(angles)], axis=1) * random.uniform(0.7, 1.3, (9, 1))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = Outline(np.concatenate([corners, corners[:1]])).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    np.testing.assert_array_equal(filled(corners, SIZE), expected.reshape(SIZE))


def test_polygons_of_whole_pixels_and_holes() -> None:
    square = filled(np.array([[2.0, 3], [6, 3], [6, 8], [2, 8]]), SIZE)
    assert square.sum() == 20
    assert square[3:8, 2:6].all()
    ring = [[2, 2, 12, 2, 12, 12, 2, 12, 2, 2, 4, 4, 4, 10, 10, 10, 10, 4, 4, 4]]
    assert decoded(ring, SIZE).sum() == 100 - 36
    assert decoded([[1, 1, 3, 1, 3, 3, 1, 3], [5, 5, 7, 5, 7, 7, 5, 7]], SIZE).sum() == 8


def test_concepts_overlap_in_layers_and_annotations_join(paths: dict[int, str], tmp_path: Path) -> None:
    car, wheel = [[0, 0, 30, 0, 30, 20, 0, 20]], [[2, 2, 6, 2, 6, 6, 2, 6]]
    other = [[20, 2, 24, 2, 24, 6, 20, 6]]
    rows = [{"segmentation": wheel}, {"segmentation": car, "category_id": 2}, {"segmentation": other}]
    masks = masks_of(write_coco(tmp_path, rows, images=("a/one.png", "c/gone.png")), paths)
    assert masks.concepts == (Concept("wheel", "part"), Concept("car", "object"))
    assert masks.categories == ("part", "object")
    assert masks.images.tolist() == [0]
    first, second = masks.read([0, 1])
    assert first.labels.shape == (2, *SIZE)
    assert first.mask(0).sum() == 32
    assert first.mask(1).sum() == 600
    present, stack = first.stack()
    assert present.tolist() == [0, 1]
    np.testing.assert_array_equal(stack, [first.mask(0), first.mask(1)])
    assert second.labels.shape == (0, *SIZE)
    assert not second.mask(0).any()
    copied = pickle.loads(pickle.dumps(masks))
    np.testing.assert_array_equal(copied.read([0])[0].labels, first.labels)
    named = masks_of(f"{write_coco(tmp_path, rows)}#part", paths)
    assert {concept.category for concept in named.concepts} == {"part"}


def test_photos_that_the_run_lacks_are_named(paths: dict[int, str], tmp_path: Path) -> None:
    square = [[0, 0, 9, 0, 9, 9]]
    rows = [{"segmentation": square}, {"segmentation": square, "image_id": 1}, {"segmentation": []}]
    masks = masks_of(write_coco(tmp_path, rows, images=("a/one.png", "c/gone.png")), paths)
    assert masks.absent == ("c/gone.png",)
    assert masks.notes == ("1 annotations of wheel are empty and mark nothing",)


def test_boxes_are_those_of_the_study_boxes(paths: dict[int, str], tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    edges = ",".join(f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1"))
    write_table(
        path, f"image,part,{edges}", "a/one.png,head,2,3,30,25,5,6,12,14", "a/one.png,leg,2,3,30,25,15,16,19,24"
    )
    masks = masks_of(f"boxes:{path}", paths, 60, 48)
    assert masks.concepts == (Concept("object", "object"), Concept("head", "part"), Concept("leg", "part"))
    found = masks.read([0])[0]
    boxes = input_boxes(read_boxes(path, {}), SIZE, PreprocessingSettings(resize=60, crop=48))
    for number, name in enumerate(("object", "head", "leg")):
        centres = np.arange(48) + 0.5
        np.testing.assert_array_equal(found.mask(number), inside(centres, centres, boxes[name]))


def test_broden_by_pictures_and_by_numbers(paths: dict[int, str], tmp_path: Path) -> None:
    objects = np.zeros((15, 20), np.int64)
    objects[2:6, 3:9], objects[8:12, 3:9] = 7, 300
    parts = np.zeros((15, 20), np.int64)
    parts[3:5, 4:6] = 5
    cells = {"object": "x/o.png", "part": "x/p.png;x/q.png", "texture": "9"}
    source = write_broden(tmp_path, cells)
    for name, values in (("o", objects), ("p", parts), ("q", np.roll(parts, 5))):
        write_picture(tmp_path / "broden" / "images" / "x" / f"{name}.png", coded(values))
    masks = masks_of(source, paths)
    assert [concept.name for concept in masks.concepts] == ["car", "tree", "wheel", "dotted", "wood"]
    assert masks.notes == (f"no image of {str(tmp_path / 'broden')!r} has a mask of category material",)
    tables = {path.name for path in masks.tables}
    assert tables == {"index.csv", "category.csv", "label.csv", *(f"c_{kind}.csv" for kind in masks.categories)}
    found = masks.read([0])[0]
    wide = np.repeat(np.repeat(objects, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(found.mask(0), wide == 7)
    np.testing.assert_array_equal(found.mask(1), wide == 300)
    assert found.mask(2).sum() == 2 * 4 * 4
    assert found.mask(3).all(), "a number holds for the whole image"
    assert found.labels.dtype == np.uint16
    left = masks.without(("texture", "material"))
    assert [concept.name for concept in left.concepts] == ["car", "tree", "wheel"]
    np.testing.assert_array_equal(left.read([0])[0].mask(2), found.mask(2))


def test_label_pictures_of_every_depth(paths: dict[int, str], tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    write_table(folder / "labels.csv", "value,name,category", "3,wheel,part", "1000,car,object")
    values = np.zeros(SIZE, np.uint16)
    values[2:5, 2:9], values[8:12, 2:9], values[20, 20] = 3, 1000, 255
    write_picture(folder / "a" / "one.png", values)
    write_picture(folder / "a" / "two.png", np.minimum(values, 255).astype(np.uint8))
    found = masks_of(f"labels:{folder}", paths)
    assert found.images.tolist() == [0, 1]
    first, second = found.read([0, 1])
    np.testing.assert_array_equal(first.mask(0), values == 3)
    np.testing.assert_array_equal(first.mask(1), values == 1000)
    np.testing.assert_array_equal(second.mask(0), values == 3)
    assert not second.mask(1).any(), "255 is no value of the table"


def test_colour_pictures_as_cityscapes_names_them(tmp_path: Path) -> None:
    paths = write_photos(tmp_path, ("b/x_000_leftImg8bit.png", "b/y_000_leftImg8bit.png"))
    folder = tmp_path / "gtFine"
    write_table(folder / "colours.csv", "name,red,green,blue", "road,128,64,128", "sky,70,130,180")
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[:10], colours[10:15] = (70, 130, 180), (128, 64, 128)
    write_picture(folder / "b" / "x_000_gtFine_color.png", colours)
    write_picture(folder / "b" / "x_000_gtFine_labelIds.png", np.zeros(SIZE, np.uint8))
    masks = masks_of(f"colours:{folder}", paths)
    assert masks.images.tolist() == [0]
    found = masks.read([0])[0]
    assert (found.mask(masks.number("sky")).sum(), found.mask(masks.number("road")).sum()) == (400, 200)


def test_eleven_colours_by_a_table(paths: dict[int, str], tmp_path: Path) -> None:
    table = tmp_path / "w2c.txt"
    red, green, blue = (grid.ravel(order="F") for grid in np.mgrid[:32, :32, :32])
    scores = np.eye(11)[np.where(red > 15, 8, np.where(blue > 15, 1, 0))]
    np.savetxt(table, np.column_stack([red * 8, green * 8, blue * 8, scores]), fmt="%g")
    source = write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}])
    masks = masks_of(source, paths).with_colours(table)
    pixels = np.asarray(Image.open(paths[0]))
    found = masks.read([0])[0]
    np.testing.assert_array_equal(found.mask(masks.number("red", "colour")), pixels[..., 0] >= 128)
    black = (pixels[..., 0] < 128) & (pixels[..., 2] < 128)
    np.testing.assert_array_equal(found.mask(masks.number("black")), black)
    assert masks.tables == (tmp_path / "coco.json", table)
    np.savetxt(table, scores[:100])
    with pytest.raises(DataError, match=r"must have 32,768 rows of at least 11 numbers, got 100 of 11"):
        masks.with_colours(table)


def test_layers_are_as_few_as_overlaps_need() -> None:
    stack = np.zeros((4, 6, 6), bool)
    stack[0, :2], stack[1, 3:], stack[2, 1:4] = True, True, True
    labels = layered([0, 4, 7, 9], stack)
    assert len(labels) == 2
    for number, mask in zip([0, 4, 7], stack, strict=False):
        np.testing.assert_array_equal((labels == number + 1).any(axis=0), mask)


def refused(match: str) -> pytest.RaisesExc[DataError]:
    return pytest.raises(DataError, match=match)


def test_sources_that_are_none(paths: dict[int, str], tmp_path: Path) -> None:
    with refused(r"masks: must be one of coco, boxes, broden, labels, colours, a colon and a path, got 'voc:x'"):
        masks_of("voc:x", paths)
    with refused(r"coco '.*none.json': there is no such file"):
        masks_of(f"coco:{tmp_path}/none.json", paths)
    (tmp_path / "bad.json").write_text("{")
    with refused("cannot be read as JSON"):
        masks_of(f"coco:{tmp_path}/bad.json", paths)
    with refused(r"labels.csv': there is no such file; it has the columns value, name"):
        masks_of(f"labels:{tmp_path}", paths)
    source = write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}], images=("gone.png",))
    with refused(r"must know an image of the run, got none of its 1 photos; the run's paths end as in '.*one.png'"):
        masks_of(source, paths)
    source = write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}], images=("one.png",))
    with refused(r"'one.png' fits several images of the run: name their folders too"):
        masks_of(source, paths)


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        (
            {"size": [30, 40], "counts": [3, 4]},
            "annotation 70 of 'a/one.png': the segmentation must have run lengths .* add up to 30 x 40 = 1200, got 7",
        ),
        ({"size": [30, 40], "counts": [1205, -5]}, "from 0 that add up to 30 x 40"),
        ({"size": [40, 30], "counts": [1200]}, r"must have the size \[30, 40\] \(height, width\), got \[40, 30\]"),
        ({"size": [30, 40], "counts": "a b"}, "must have counts of the characters '0' to 'o', got ' '"),
        ({"size": [30, 40], "counts": "Z"}, "has compressed counts that end within a number"),
        ([[0, 0, 9, 0]], "must be polygons of at least 3 corners x, y, got 4 numbers"),
        ([[0, 0, 9, 0, float("nan"), 1]], "must be polygons"),
        ({"size": [30, 40], "counts": "o" * 20 + "0"}, r"annotation 70 .* must have counts below 2\^50, got a larger"),
        ({"size": [30, 40], "counts": {"0": 1200}}, r"a text or a list of whole numbers, got \{\"0\": 1200\}"),
        ({"size": [30, 40], "counts": [1200, None]}, "a text or a list of whole numbers, got .1200, null."),
        ({"size": [30, 40], "counts": [10**30]}, "a text or a list of whole numbers, got"),
        ({"size": None, "counts": [1200]}, r"must have the size \[30, 40\] \(height, width\), got null"),
        ([1, 1, 3, 1, 3, 3], "polygons of at least 3 corners x, y, each a list of its own, got 1"),
        ([None], "polygons of at least 3 corners x, y, each a list of its own, got null"),
        ([[1, 1, 3, 1, 3, "x"]], 'at least 3 corners x, y, all of them numbers, got "x"'),
        ("wheel", "must be a list of polygons, or run lengths with size and counts, got .wheel."),
        (7, "must be a list of polygons, or run lengths with size and counts, got 7"),
    ],
)
def test_segmentations_that_are_damaged(
    paths: dict[int, str], tmp_path: Path, segmentation: object, match: str
) -> None:
    masks = masks_of(write_coco(tmp_path, [{"segmentation": segmentation}]), paths)
    with refused(match):
        masks.read([0])


def test_masks_of_another_size_than_their_photo(paths: dict[int, str], tmp_path: Path) -> None:
    images = [{"id": 0, "file_name": "a/one.png", "height": 60, "width": 80}]
    with refused(r"must have the size of their photo, 40 x 30 pixels \(width x height\), got 80 x 60"):
        masks_of(_with(tmp_path, images=images), paths).read([0])
    folder = tmp_path / "labels"
    write_table(folder / "labels.csv", "value,name", "1,car")
    write_picture(folder / "a" / "one.png", np.zeros((60, 80), np.uint8))
    with refused(r"one.png': must have the size of the photo's masks, 40 x 30 pixels .* got 80 x 60"):
        masks_of(f"labels:{folder}", paths).read([0])


def _with(root: Path, **changes: object) -> str:
    """A COCO file of one triangle with some of its lists replaced."""
    source = write_coco(root, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}])
    path = Path(source.removeprefix("coco:"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return source


def test_what_a_coco_file_contradicts(paths: dict[int, str], tmp_path: Path) -> None:
    with refused(r"must name every image and category that an annotation refers to, .* got nothing for 5"):
        masks_of(write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]], "image_id": 5}]), paths)
    with refused("got nothing for 8"):
        masks_of(write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]], "category_id": 8}]), paths)


def test_broden_that_contradicts_itself(paths: dict[int, str], tmp_path: Path) -> None:
    source = write_broden(tmp_path, {"object": "x/o.png"})
    write_picture(tmp_path / "broden" / "images" / "x" / "o.png", coded(np.full((15, 20), 5)))
    with refused(r"'x/o.png' must hold numbers of labels of category object \(c_object.csv\), got 5"):
        masks_of(source, paths).read([0])
    write_picture(tmp_path / "broden" / "images" / "x" / "o.png", coded(np.full((16, 20), 7)))
    with refused(r"must have the size of the photo's masks, 20 x 15 pixels"):
        masks_of(source, paths).read([0])
    with refused(r"got nothing|there is no such file, and a table names it"):
        masks_of(write_broden(tmp_path, {"object": "x/none.png"}), paths).read([0])
    with refused("must keep its own categories, got #part"):
        masks_of(f"{source}#part", paths)


def test_more_concepts_than_labels_hold(paths: dict[int, str], tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    write_table(folder / "labels.csv", "value,name", *(f"{value},c{value}" for value in range(1, 65_536)))
    write_picture(folder / "a" / "one.png", np.zeros(SIZE, np.uint16))
    masks = masks_of(f"labels:{folder}", paths)
    assert len(masks.concepts) == 65_535
    categories = [{"id": key, "name": f"c{key}"} for key in range(65_536)]
    annotations = [
        {"id": key, "image_id": 0, "category_id": key, "segmentation": [[0, 0, 2, 0, 2, 2]]} for key in range(65_536)
    ]
    with refused(r"must have at most 65,535 concepts, got 65,536"):
        masks_of(_with(tmp_path, categories=categories, annotations=annotations), paths)


def test_a_concept_that_is_asked_for_wrongly(paths: dict[int, str], tmp_path: Path) -> None:
    masks = masks_of(write_coco(tmp_path, [{"segmentation": [[0, 0, 9, 0, 9, 9]]}]), paths)
    with refused(r"there is no concept 'wheels'; did you mean wheel\?"):
        masks.number("wheels")


def test_the_parts_of_real_cars(shared_data: Path) -> None:
    folder = shared_data / "car_parts"
    content = json.loads((folder / "annotations.json").read_text())
    paths = {place: str(folder / "JPEGImages" / one["file_name"]) for place, one in enumerate(content["images"])}
    data = DataSettings(source="folders", folders=(str(folder / "JPEGImages"),))
    preprocessing = PreprocessingSettings(resize=256, crop=224)
    masks = concept_masks.read_masks(f"coco:{folder / 'annotations.json'}", paths, data, preprocessing, (224, 224))
    assert (len(masks.concepts), len(masks.images), masks.absent) == (18, 400, ())
    areas = np.array([decoded(one["segmentation"], (512, 512)).sum() for one in content["annotations"][:200]])
    told = np.array([one["area"] for one in content["annotations"][:200]])
    assert np.abs(areas - told).sum() / told.sum() < 0.005
    for found in masks.read([0, 17]):
        assert found.labels.shape[1:] == (224, 224)
        assert 3 <= len(found.present()) <= 18
