"""Pictures that figures show are read from the images once, and then from the run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workflows.data.preprocessing import Preprocessor
from workflows.errors import DataError
from workflows.figures.saved_pictures import SavedPictures
from workflows.report.pictures import picture_path
from workflows.settings import Settings, parse_settings
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table


@pytest.fixture
def source(tmp_path: Path) -> tuple[Settings, RunFolder, list[Path]]:
    """Three files of random pixels and their images table."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "photos" / "cat" / f"{i}.png" for i in range(3)]
    files[0].parent.mkdir(parents=True)
    for file in files:
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file)
    settings = parse_settings(
        {
            "name": "n",
            "data": {"source": "folders", "folders": [str(tmp_path / "photos")]},
            "network": {"name": "x:y", "weights": "w", "layers": ["a"]},
            "fit": {"words": [3]},
        }
    )
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    rows = [
        {"image": i, "path": str(file), "split": "train", "label": 0, "label_name": "cat", "status": "ok"}
        for i, file in enumerate(files)
    ]
    write_table(folder.images_table, rows, "images")
    return settings, folder, files


def test_a_picture_is_the_crop_and_is_saved_once(source: tuple[Settings, RunFolder, list[Path]]) -> None:
    settings, folder, files = source
    pictures = SavedPictures(settings, folder)
    with Image.open(files[1]) as opened:
        expected = Preprocessor(settings.preprocessing).crop(np.asarray(opened))
    np.testing.assert_array_equal(pictures.read(1), expected)
    assert [path.name for path in folder.pictures.iterdir()] == ["1.png"]
    files[1].unlink()
    np.testing.assert_array_equal(SavedPictures(settings, folder).read(1), expected)
    pictures.save([1, 0, 2])
    assert sorted(path.name for path in folder.pictures.iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_picture_that_broke_since_is_told(source: tuple[Settings, RunFolder, list[Path]]) -> None:
    settings, folder, files = source
    files[2].write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"image 2 could be read before, now it is .*: restore .*2\.png"):
        SavedPictures(settings, folder).read(2)
    assert not picture_path(folder.pictures, 2).exists()
    shutil.copy(files[0], files[2])
    assert SavedPictures(settings, folder).read(2).shape[2] == 3
