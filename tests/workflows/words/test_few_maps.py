"""Word maps of few images: files that hold these alone, read back as the array that would hold all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from workflows.errors import LostFile, RunFolderError, StorageFault
from workflows.storage.run_folder import RunFolder
from workflows.storage.verifying import damage
from workflows.words.few_maps import FIELDS, FewMaps, fill_value
from workflows.words.word_maps import has_maps, open_maps

IMAGES, SHARD, CHUNK, SHAPE = 47, 10, 3, (2, 3)
HELD = np.array([3, 10, 11, 12, 13, 14, 15, 19, 46])
SCOPE, LAYER = "class-3", "layer1.0.add"


def whole(field: str) -> np.ndarray:
    """What an array of all images holds: the slow twin."""
    found = np.full((IMAGES, *SHAPE), fill_value(field), FIELDS[field])
    values = np.random.default_rng(len(field)).integers(0, 90, (len(HELD), *SHAPE))
    for row, image in enumerate(HELD):
        found[image] = values[row] / (1 if field == "word" else 7)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    few = FewMaps(IMAGES, SHARD, CHUNK, (0, 1, 4), {LAYER: SHAPE})
    few.write(run, SCOPE)
    for shard in few.shards:
        images = HELD[shard == HELD // SHARD]
        few.write_shard(run.words_shard(SCOPE, LAYER, shard), images, {name: whole(name)[images] for name in FIELDS})
    return run


def test_they_read_as_the_array_of_all_images(folder: RunFolder) -> None:
    assert has_maps(folder, SCOPE, LAYER)
    for field in FIELDS:
        read, expected = open_maps(folder, SCOPE, LAYER, field), whole(field)
        for start in range(0, IMAGES + 1, 2):
            for stop in range(start, IMAGES + 4, 3):
                found = read(start, stop)
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected[start:stop])


def test_a_scope_has_a_file_a_shard(folder: RunFolder) -> None:
    names = {path.name for path in (folder.root / "words" / SCOPE).iterdir()}
    assert names == {"maps.json", *(f"{LAYER}__{shard:06d}.parquet" for shard in (0, 1, 4))}


def test_what_is_lost_or_damaged_is_told(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, path = open_maps(folder, SCOPE, LAYER), folder.words_shard(SCOPE, LAYER, 1)
    content = bytearray(path.read_bytes())
    assert damage(path) is None
    told = pq.read_metadata(path).row_group(0).column(1)
    content[told.data_page_offset + told.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    assert damage(path) == ()
    with pytest.raises(RunFolderError, match=r"000001\.parquet' is damaged"):
        read(10, 20)
    path.unlink()
    with pytest.raises(LostFile, match=r"000001\.parquet' is missing: see that its storage is there"):
        read(0, 47)
    assert (read(20, 40) == -1).all(), "no image, no file"

    def away(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", away)
    with pytest.raises(StorageFault, match="Stale file handle"):
        read(0, 10)


def test_without_any_the_array_is_missed(tmp_path: Path) -> None:
    assert not has_maps(RunFolder(tmp_path), SCOPE, LAYER)
    with pytest.raises(LostFile, match="run the stage that writes it"):
        open_maps(RunFolder(tmp_path), SCOPE, LAYER)
