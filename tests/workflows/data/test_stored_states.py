"""Files of an object store are those that were indexed, or refused; what cannot be read is no broken picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.workflows.data.made_layouts import layouts, upload_all, write_layouts
from workflows.data.datasets import index_images
from workflows.data.file_states import FileState
from workflows.data.image_index import ImageIndex
from workflows.data.indexed_pictures import IndexedPictures, find_states
from workflows.data.reading import Picture, PictureReader
from workflows.errors import DataError, StorageFault
from workflows.settings import DataSettings
from workflows.storage import object_store
from workflows.storage.object_store import upload
from workflows.storage.tables import write_table

LAYOUTS = ("tar", "parquet", "imagenet", "folders")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture
def stored(local: Path, bucket: str) -> Iterator[str]:
    """Whatever a test does to the store, the next finds it whole."""
    yield upload_all(local, f"{bucket}/states")
    object_store._store.cache_clear()


def indexed(index: ImageIndex, settings: DataSettings, root: Path) -> IndexedPictures:
    """Through images.parquet, as every actor gets them."""
    table = index.to_table().append_column("status", pa.array(["indexed"] * len(index)))
    for name, values in find_states(settings, index.path.tolist()).items():
        table = table.append_column(name, values)
    write_table(root / "images.parquet", table, "images", network="n")
    return IndexedPictures.read(root / "images.parquet", range(len(index)))


def read(pictures: IndexedPictures, settings: DataSettings) -> list[object]:
    with PictureReader(settings) as reader:
        return list(reader.read(pictures.paths, pictures.states))


def file_of(path: str) -> str:
    return path.partition("#")[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_object_is_refused_and_the_same_again_is_not(
    local: Path, stored: str, tmp_path: Path, layout: str
) -> None:
    settings = layouts(stored)[layout]
    pictures = indexed(index_images(settings, 0), settings, tmp_path)
    assert all(state is not None and state.etag for state in pictures.states)
    uri = file_of(pictures.paths[-1])
    source = local / uri.removeprefix(f"{stored}/")
    upload(source, uri)  # another time
    assert all(isinstance(one, Picture) for one in read(pictures, settings))
    other = tmp_path / "other"
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    for spoilt, told in ((content, "etag: the index has "), (content[:40], "size: the index has ")):
        other.write_bytes(spoilt)
        upload(other, uri)
        with pytest.raises(DataError, match=f"'{uri}' must be the file that the run has indexed") as raised:
            read(pictures, settings)
        assert told in str(raised.value)
        assert not isinstance(raised.value, StorageFault)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_away_is_a_fault_of_storage(
    stored: str, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    settings = layouts(stored)[layout]
    pictures = indexed(index_images(settings, 0), settings, tmp_path)
    uri = file_of(pictures.paths[-1])
    obstore.delete(object_store._store(object_store._root(uri)), object_store._key(uri))
    with pytest.raises(StorageFault, match=r"s3://.*(no such file in the object store|does not exist)"):
        read(pictures, settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(object_store, "_WAITING", {"max_retries": 0})
    object_store._store.cache_clear()
    with pytest.raises(StorageFault, match=r"s3://.* must be readable, got the object store does not answer"):
        read(pictures, settings)
    with pytest.raises(StorageFault, match="does not answer"):
        find_states(settings, pictures.paths)


def test_without_an_etag_the_time_tells() -> None:
    one = FileState(5, 10**9)
    one.refuse_other("a", FileState(5, 10**9, "etag"))
    with pytest.raises(
        DataError, match=r"modified: the index has 1970-01-01 00:00:01.0+, the file 1970-01-01 00:00:02"
    ):
        one.refuse_other("a", FileState(5, 2 * 10**9))
