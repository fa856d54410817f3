"""Drawn scenes: the same every time, parts where the boxes say, and a source of images like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workflows.data.boxes import OBJECT, match_images, read_boxes
from workflows.data.datasets import TRAIN, VALIDATION, index_images
from workflows.data.reading import Picture, PictureReader
from workflows.data.scenes import JITTER, KINDS, PARTS, SCENES_OF_A_KIND, load_scenes
from workflows.settings import DataSettings


def test_scenes_are_the_same_every_time() -> None:
    before = load_scenes()
    load_scenes.cache_clear()
    again = load_scenes()
    assert np.array_equal(before.images.pixels, again.images.pixels)
    assert np.array_equal(before.parts, again.parts)
    assert len(before.images.labels) == len(KINDS) * SCENES_OF_A_KIND


def test_parts_lie_about_their_places_and_move_by_themselves() -> None:
    scenes = load_scenes()
    middles = (scenes.parts[..., :2] + scenes.parts[..., 2:]) / 2 - scenes.objects[:, None, :2]
    places = middles[..., ::-1] / (scenes.objects[:, 2] - scenes.objects[:, 0])[:, None, None]  # (N, P, 2) row, column
    for part, mean in enumerate(PARTS.values()):
        assert np.allclose(places[:, part].mean(axis=0), mean, atol=0.01)
        assert np.allclose(places[:, part].std(axis=0), JITTER, rtol=0.15), "cut at two deviations"
    between = np.corrcoef(places.reshape(len(places), -1).T)
    assert np.abs(between[:2, 2:]).max() < 0.12
    assert (scenes.parts[..., :2] >= scenes.objects[:, None, :2]).all()
    assert (scenes.parts[..., 2:] <= scenes.objects[:, None, 2:]).all()


def test_parts_are_seen_where_their_boxes_are() -> None:
    """The colour of parts, which the ground lacks, lies in their boxes."""
    scenes = load_scenes()
    pixels = scenes.images.pixels.astype(int)
    bright = (pixels[..., 0] > 180) & (pixels[..., 0] - pixels[..., 2] > 60)
    for scene in range(0, len(pixels), 37):
        inside = np.zeros(bright.shape[1:], bool)
        for x0, y0, x1, y1 in scenes.parts[scene]:
            own = (slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1))))
            assert bright[scene][own].mean() > 0.05
            inside[own] = True
        assert bright[scene][~inside].mean() < 0.002


def test_they_are_a_source_with_boxes(tmp_path: Path) -> None:
    settings = DataSettings(source="scenes")
    index = index_images(settings, 0)
    assert (len(index.rows(TRAIN)), len(index.rows(VALIDATION))) == (448, 152)
    assert index.class_names == tuple(f"{head} {legs}" for head, legs in KINDS)
    with PictureReader(settings) as reader:
        (picture,) = reader.read(["scenes#400"])
    assert isinstance(picture, Picture)
    assert np.array_equal(picture.pixels, load_scenes().images.pixels[400])
    load_scenes().write_boxes(tmp_path / "objects.csv")
    rows = read_boxes(tmp_path / "objects.csv", {"head": "top"})
    found = match_images(rows, list(index.path))
    assert sorted(found) == list(range(600))
    first = found[index.path.tolist().index("scenes#400")]
    assert [set(row.boxes) for row in first] == [{OBJECT, "top"}, {OBJECT, "legs"}]
    assert first[0].boxes[OBJECT] == tuple(load_scenes().objects[400].tolist())
