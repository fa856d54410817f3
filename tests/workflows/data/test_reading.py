from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.workflows.data.made_files import encoded, noise, write_folders, write_parquet
from workflows.data import parquet_columns
from workflows.data.datasets import index_images
from workflows.data.decoding import Pixels
from workflows.data.file_states import FileState
from workflows.data.indexed_pictures import find_states
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import BrokenPicture, Picture, PictureReader, photo_sizes
from workflows.data.shards import plan_shards
from workflows.errors import DataError, StorageFault
from workflows.settings import DataSettings, PreprocessingSettings

PARQUET = DataSettings(source="parquet")
FOLDERS = DataSettings(source="folders")


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("threads", [1, 3])
def test_pictures_come_in_the_order_of_the_paths(tmp_path: Path, compression: str, threads: int) -> None:
    cells = [encoded(noise(6, 5, row)) for row in range(90)]
    file = write_parquet(tmp_path / "a.parquet", cells, compression=compression, row_group_size=25)
    rows = np.random.default_rng(0).permutation(90)
    with PictureReader(PARQUET, threads) as reader:
        pictures = reader.read([f"{file}#{row}" for row in rows])
        assert reader.read([]) == []
    for row, picture in zip(rows, pictures, strict=True):
        assert isinstance(picture, Picture)
        assert picture.path == f"{file}#{row}"
        assert np.array_equal(picture.pixels, noise(6, 5, int(row)))


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_broken_pictures_keep_their_places(tmp_path: Path, compression: str) -> None:
    good = encoded(noise(20, 20))
    cells = [good, good[:300], None, b"", b"no picture at all", encoded(noise(30, 30), "JPEG")[:-200], good]
    file = write_parquet(tmp_path / "a.parquet", cells, compression=compression)
    with PictureReader(PARQUET) as reader:
        pictures = reader.read([f"{file}#{row}" for row in range(len(cells))])
    assert [isinstance(picture, Picture) for picture in pictures] == [True, *[False] * 5, True]
    reasons = [picture.reason for picture in pictures if isinstance(picture, BrokenPicture)]
    starts = ("broken or truncated", "empty: the cell has neither", "empty: there are no", "not a picture", "broken or")
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True)), reasons
    assert pictures[1].path == f"{file}#1"


def test_files_that_vanish_or_are_cut_while_the_run_goes_on(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "root", {"a": 3})
    file = write_parquet(tmp_path / "a.parquet", [encoded(noise(40, 40, row)) for row in range(3)])
    with PictureReader(FOLDERS) as reader:
        with pytest.raises(
            StorageFault, match=r"gone.png' must be readable, got No such file or directory; see to its"
        ):
            reader.read([str(root / "a" / "gone.png"), str(root / "a" / "image1.png")])
        (there,) = reader.read([str(root / "a" / "image1.png")])
    assert isinstance(there, Picture)
    with PictureReader(PARQUET) as reader:
        paths = [f"{file}#{row}" for row in range(3)]
        assert all(isinstance(picture, Picture) for picture in reader.read(paths))
        file.write_bytes(file.read_bytes()[:6000])
        first, _, last = reader.read(paths)
    assert isinstance(first, Picture)
    assert isinstance(last, BrokenPicture)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize("compression", ["none", "snappy", ""])
def test_what_storage_does_not_give_is_no_broken_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, compression: str
) -> None:
    """compression: of a Parquet file; none: image files."""
    if compression:
        file = write_parquet(
            tmp_path / "a.parquet", [encoded(noise(9, 9, row)) for row in range(3)], compression=compression
        )
        settings, paths = PARQUET, [f"{file}#{row}" for row in range(3)]
    else:
        settings, paths = FOLDERS, [str(write_folders(tmp_path / "root", {"a": 1}) / "a" / "image0.png")]

    def away(*given: object, **named: object) -> object:
        raise OSError(number, os.strerror(number))

    with PictureReader(settings) as reader:
        for module, name in ((os, "open"), (io, "open"), (parquet_columns.pq, "ParquetFile")):
            monkeypatch.setattr(module, name, away)
        monkeypatch.setattr(Path, "open", away)
        with pytest.raises(StorageFault):
            reader.read(paths)
        monkeypatch.undo()
        assert all(isinstance(picture, Picture) for picture in reader.read(paths)), "the storage is back"


def test_sizes_of_photos_wait_for_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(write_folders(tmp_path, {"a": 1}) / "a" / "image0.png")]
    expected = list(photo_sizes(FOLDERS, paths, (1, 0.0)))
    here, left = Path.open, [errno.ESTALE, errno.ENOENT]

    def away(path: Path, *given: Any, **named: Any) -> Any:
        if left:
            raise OSError(left[0], os.strerror(left.pop(0)), str(path))
        return here(path, *given, **named)

    monkeypatch.setattr(Path, "open", away)
    assert list(photo_sizes(FOLDERS, paths, (3, 0.0))) == expected
    left.extend([errno.EIO, errno.EACCES])
    with pytest.raises(StorageFault, match=r"image0\.png' must be readable, got Permission denied"):
        list(photo_sizes(FOLDERS, paths, (2, 0.0)))


def test_a_file_that_is_not_the_indexed_one_is_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "root", {"a": 2})
    file = write_parquet(tmp_path / "a.parquet", [encoded(noise(9, 9, row)) for row in range(3)])
    packed = write_parquet(
        tmp_path / "b.parquet", [encoded(noise(9, 9, row)) for row in range(3)], compression="snappy"
    )
    sources = {
        FOLDERS: [str(root / "a" / "image0.png"), str(root / "a" / "image1.png")],
        DataSettings(source="crops", boxes="boxes.csv"): [
            f"{root / 'a' / 'image0.png'}#0,0,4,4",
            str(root / "a" / "image1.png"),
        ],
        PARQUET: [f"{file}#0", f"{file}#2"],
        PARQUET.model_copy(update={"label_column": "label"}): [f"{packed}#0", f"{packed}#2"],
    }
    known = {}
    for settings, paths in sources.items():
        columns = find_states(settings, paths)
        pairs = zip(*(columns[name].to_pylist() for name in ("file_size", "file_modified")), strict=True)
        known[settings] = [FileState(*pair) for pair in pairs]
        with PictureReader(settings) as reader:
            assert all(isinstance(one, Picture) for one in reader.read(paths, known[settings]))
    for changed in (root / "a" / "image0.png", file, packed):
        content = changed.read_bytes()
        changed.write_bytes(content[:-1])
        os.utime(changed, ns=(0, 5))
    for settings, paths in sources.items():
        with PictureReader(settings) as reader, pytest.raises(DataError) as caught:
            reader.read(paths, known[settings])
        size = known[settings][0].size
        assert f"size: the index has {size} bytes, the file {size - 1}" in str(caught.value)
        assert "the file 1970-01-01 00:00:00.000000005" in str(caught.value)
        assert "restore the file, or give another --out" in str(caught.value)
        assert not isinstance(caught.value, StorageFault)


def test_states_of_pictures_that_cells_name(tmp_path: Path) -> None:
    picture = tmp_path / "0.png"
    picture.write_bytes(encoded(noise(6, 6)))
    image = [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": "gone.png"}, {"bytes": b"1", "path": "0.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array(image, kind), "label": [0, 0, 0]}), file)
    found = find_states(PARQUET, [f"{file}#{row}" for row in range(3)])["file_size"].to_pylist()
    assert found == [picture.stat().st_size, None, file.stat().st_size]


def test_geometry_runs_in_the_decoding_threads(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "root", {"a": 40}, side=12)
    names = set()

    def note(pixels: Pixels) -> Pixels:
        names.add(threading.current_thread().name)
        return Preprocessor(PreprocessingSettings(crop=10)).crop(pixels)

    (root / "a" / "image7.png").write_bytes(encoded(noise(5, 30)))
    paths = [str(root / "a" / f"image{i}.png") for i in range(40)]
    with PictureReader(FOLDERS, 2, note) as reader:
        pictures = reader.read(paths)
    assert all(name.startswith("decode") for name in names)
    assert isinstance(pictures[7], BrokenPicture)
    assert pictures[7].reason.startswith("too small: 30 x 5 pixels")
    assert {p.pixels.shape for p in pictures if isinstance(p, Picture)} == {(10, 10, 3)}


def test_an_error_that_is_not_of_one_picture_is_raised(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "root", {"a": 1})

    def refuse(pixels: Pixels) -> Pixels:
        raise DataError("set preprocessing.crop")

    with PictureReader(FOLDERS, 1, refuse) as reader, pytest.raises(DataError, match=r"set preprocessing.crop"):
        reader.read([str(root / "a" / "image0.png")])


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 30, 31])
def test_a_stream_equals_reading_at_once(tmp_path: Path, ahead: int, count: int) -> None:
    root = write_folders(tmp_path / "root", {"a": max(count, 1)})
    paths = [str(root / "a" / f"image{i}.png") for i in range(count)]
    with PictureReader(FOLDERS, 2) as reader:
        batches = list(reader.stream(paths, 10, ahead))
        assert [len(batch) for batch in batches] == [10] * (count // 10) + [count % 10] * (count % 10 > 0)
        whole = reader.read(paths)
    for one, other in zip([picture for batch in batches for picture in batch], whole, strict=True):
        assert isinstance(one, Picture)
        assert isinstance(other, Picture)
        assert np.array_equal(one.pixels, other.pixels)


def test_a_stream_decodes_ahead_but_not_everything(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "root", {"a": 100})
    decoded: list[int] = []

    def note(pixels: Pixels) -> Pixels:
        decoded.append(1)
        return pixels

    with PictureReader(FOLDERS, 1, note) as reader:
        stream = reader.stream([str(root / "a" / f"image{i}.png") for i in range(100)], 10, 2)
        next(stream)
        assert 10 <= len(decoded) <= 30


def test_all_real_cifar_test_images_in_class_ordered_shards(shared_data: Path) -> None:
    import io

    import pyarrow.parquet as pq

    folder = shared_data / "cifar10"
    settings = DataSettings(source="parquet", train=(f"{folder}/train-00000*",), validation=(f"{folder}/test-*",))
    index = index_images(settings, 0)
    tables = {str(f.resolve()): pq.read_table(f)["image"].to_pylist() for f in folder.glob("*.parquet")}
    seen = 0
    with PictureReader(settings) as reader:
        for shard in plan_shards(len(index), 500):
            paths = index.path[shard.first : shard.stop].tolist()
            for picture in reader.read(paths)[::7]:
                assert isinstance(picture, Picture)
                file, _, row = picture.path.rpartition("#")
                official = Image.open(io.BytesIO(tables[str(Path(file).resolve())][int(row)]["bytes"]))
                assert np.array_equal(picture.pixels, np.asarray(official))
                seen += 1
        assert reader._rows._groups.nbytes == 0
    assert seen == 504


def test_real_photos_of_every_shape_become_one_batch(shared_data: Path) -> None:
    folder = shared_data / "imagenet_animals"
    paths = [str(path) for path in sorted(folder.glob("*/*.jpg"))[::13]]
    preprocessor = Preprocessor(PreprocessingSettings(resize=256, crop=224))
    with PictureReader(FOLDERS, 2, preprocessor.crop) as reader:
        crops = [picture.pixels for picture in reader.read(paths) if isinstance(picture, Picture)]
    assert len(crops) == len(paths)
    batch = preprocessor.normalise(preprocessor.stack(crops, preprocessor.input_size))
    assert tuple(batch.shape) == (len(paths), 3, 224, 224)
    assert abs(float(batch.mean())) < 0.5
    assert 0.8 < float(batch.std()) < 1.3
    with PictureReader(FOLDERS, 2) as reader:
        whole = [picture.pixels for picture in reader.read(paths) if isinstance(picture, Picture)]
    with pytest.raises(DataError, match=r"set preprocessing.resize and preprocessing.crop"):
        preprocessor.stack(whole)
