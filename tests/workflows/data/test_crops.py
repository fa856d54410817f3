"""Objects against background: boxes become images of the index, and what is cut out is what is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.end_to_end.folder_runs import PRESET
from tests.end_to_end.small_digits import command
from tests.workflows.data.made_files import encoded, noise
from workflows.data.crops import Box, Crop, parse_crop, shares_on
from workflows.data.datasets import TRAIN, VALIDATION, index_images
from workflows.data.image_index import ImageIndex
from workflows.data.reading import Picture, PictureReader
from workflows.errors import DataError, SettingsError, StorageFault
from workflows.networks.architectures import small_vgg
from workflows.settings import DataSettings, parse_settings
from workflows.storage.run_folder import RunFolder

HEADER = "image,part,obj_x0,obj_y0,obj_x1,obj_y1,part_x0,part_y0,part_x1,part_y1"
PHOTOS = 8
BOXES = {"cow": (4, 6, 24, 20), "elk": (40, 30, 60.5, 47.2)}


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    """Eight photos of 64 x 48 pixels of three classes; the first seven cows and elks have a box, twice in the file."""
    lines = [HEADER]
    for number, name in enumerate(("cow", "elk", "sky")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for photo in range(PHOTOS):
            path = tmp_path / "photos" / name / f"{photo}.png"
            path.write_bytes(encoded(noise(48, 64, 100 * number + photo)))
            if name in BOXES and photo < PHOTOS - 1:
                box = ",".join(map(str, BOXES[name]))
                lines += [f"{name}/{photo}.png,head,{box},5,7,9,9", f"{name}/{photo}.png,,{box},,,,"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    folders, boxes = (str(tmp_path / "photos"),), str(tmp_path / "boxes.csv")
    return DataSettings(source="crops", folders=folders, boxes=boxes)


def crops_of(index: ImageIndex, label: int) -> list[Crop]:
    found = [parse_crop(path) for path in index.path[index.label == label]]
    return [crop for crop in found if isinstance(crop, Crop)]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_the_index_waits_for_storage(data: DataSettings, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    expected, here, left = index_images(data, seed=0), Image.open, [number, number]

    def away(*given: Any, **named: Any) -> Any:
        if left:
            raise OSError(left.pop(), os.strerror(number))
        return here(*given, **named)

    monkeypatch.setattr(Image, "open", away)
    assert index_images(data, 0, (3, 0.0)).path.tolist() == expected.path.tolist()
    left.append(number)
    with pytest.raises(StorageFault, match=r"\.png' must be readable, got"):
        index_images(data, 0)


def test_objects_background_and_other_classes(data: DataSettings) -> None:
    index = index_images(data, seed=0)
    assert index.class_names == ("cow", "elk", "background")
    assert {crop.box for crop in crops_of(index, 0)} == {(4, 6, 24, 20)}
    assert {crop.box for crop in crops_of(index, 1)} == {(40, 30, 60, 47)}, "whole pixels, as for patterns"
    assert len(crops_of(index, 0)) == len(crops_of(index, 1)) == PHOTOS - 1
    around = crops_of(index, 2)
    assert len(around) == 2 * (PHOTOS - 1), "as many as there are objects"
    for crop in around:
        objects = np.array([BOXES[crop.photo.parent.name]])
        x0, y0, x1, y1 = crop.box
        assert shares_on(crop.box, objects) < 0.1
        assert x1 - x0 == y1 - y0 > 0.25 * 48
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 48
    whole = [path for path in index.path[index.label == 2] if isinstance(parse_crop(path), Path)]
    assert {Path(path).parent.name for path in whole} == {"sky"}
    assert len(whole) == PHOTOS, "and no photo of a class with boxes that has none itself"


def test_crops_of_a_photo_stay_together_and_are_seeded(data: DataSettings) -> None:
    index = index_images(data, seed=0)
    photos = {
        split: {path.partition("#")[0] for path in index.path[index.split == split]} for split in (TRAIN, VALIDATION)
    }
    assert not photos[TRAIN] & photos[VALIDATION]
    assert [len(index.rows(VALIDATION, label)) for label in range(3)] == [2, 2, 6]
    assert index_images(data, seed=0).path.tolist() == index.path.tolist()
    assert index_images(data, seed=1).path.tolist() != index.path.tolist()


def covered(box: Box) -> np.ndarray:
    x0, y0, x1, y1 = box
    grid = np.zeros((16, 16), bool)
    grid[y0:y1, x0:x1] = True
    return grid


def test_shares_counted_in_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        corners = np.sort(rng.integers(0, 12, (2, 2, 2)), axis=1) + np.array([[0, 0], [1, 1]])
        one, other = (tuple(box.reshape(-1).tolist()) for box in corners)
        both, either = covered(one) & covered(other), covered(one) | covered(other)
        (share,) = shares_on(one, np.array([other], float))
        assert share == pytest.approx(both.sum() / covered(one).sum())
        assert both.sum() / either.sum() <= share, "so the IoU is below what the share is below"


def test_pixels_are_cut_out_and_made_square(data: DataSettings, tmp_path: Path) -> None:
    photo = noise(48, 64, 3)
    path = tmp_path / "photos" / "cow" / "3.png"
    with PictureReader(data, threads=1) as reader:
        square, wide, whole = reader.read([f"{path}#5,7,25,27", f"{path}#4,6,24,16", str(path)])
        with pytest.raises(StorageFault, match=r"gone.png#0,0,5,5' must be readable, got No such file"):
            reader.read([f"{tmp_path / 'gone.png'}#0,0,5,5"])
    assert isinstance(square, Picture)
    assert np.array_equal(square.pixels, photo[7:27, 5:25])
    assert isinstance(wide, Picture)
    assert wide.pixels.shape == (20, 20, 3)
    assert abs(wide.pixels.mean() - photo[6:16, 4:24].mean()) < 3
    assert isinstance(whole, Picture)
    assert np.array_equal(whole.pixels, photo)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["cow/1.png,,4,6,90,20,,,,"],
            r"the box of object \(4, 6, 90, 20\) reaches out of the photo 'cow/1.png', which",
        ),
        (["gnu/1.png,,4,6,9,20,,,,"], r"none of the 1 lines names a photo of the run"),
        ([], "the file has no line below its header"),
    ],
)
def test_boxes_that_do_not_fit(data: DataSettings, lines: Sequence[str], words: str) -> None:
    Path(data.boxes).write_text("\n".join([HEADER, *lines]))
    with pytest.raises(DataError, match=words):
        index_images(data, seed=0)


def test_an_object_that_fills_its_photo_leaves_no_background(data: DataSettings) -> None:
    Path(data.boxes).write_text(f"{HEADER}\ncow/1.png,,0,0,64,48,,,,\ncow/2.png,,0,0,64,48,,,,")
    index = index_images(data, seed=0)
    assert index.class_names == ("cow", "background")
    assert crops_of(index, 1) == []
    assert (index.label == 1).sum() == 2 * PHOTOS, "the photos of the other two classes"


@pytest.mark.parametrize(
    ("source", "boxes", "words"),
    [
        ("crops", "", r"data\.boxes: must be a CSV file with source = 'crops', got none; name the objects' boxes"),
        ("folders", "b.csv", r"data\.boxes is not read with source = 'folders': leave it out"),
    ],
)
def test_boxes_belong_to_crops(source: str, boxes: str, words: str) -> None:
    raw = {"name": "n", "data": {"source": source, "folders": "x", "boxes": boxes}, "fit": {"words": [3]}}
    with pytest.raises(SettingsError, match=words):
        parse_settings({**raw, "network": {"name": "a:b", "weights": "w.pt", "layers": ["x"]}})


def test_a_small_network_is_tuned_on_crops(data: DataSettings, tmp_path: Path) -> None:
    """From given convolutions, all of which are trained on."""
    torch.manual_seed(2)
    start = small_vgg().state_dict()
    torch.save(start, tmp_path / "start.pt")
    (tmp_path / "crops.toml").write_text(PRESET.format(images=data.folders[0], weights="train"))
    fields = [
        "data.source=crops",
        f"data.boxes={data.boxes}",
        "network.name=workflows.networks.architectures:small_vgg",
        "network.layers=['conv1_1','conv3_1']",
        f"training={{start='{tmp_path / 'start.pt'}',epochs=1,batch=8}}",
    ]
    chosen = [part for field in fields for part in ("--set", field)]
    out = tmp_path / "out"
    assert command(["run", str(tmp_path / "crops.toml"), "--out", str(out), "--until", "train", *chosen]) == 0
    trained = torch.load(RunFolder.open(out).weights, weights_only=True)
    assert trained["classifier.weight"].shape == (3, 24)
    assert all(not torch.equal(trained[key], value) for key, value in start.items())
