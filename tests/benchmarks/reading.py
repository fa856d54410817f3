"""Photos by the reader of a run, from files, a tar file, and a local object store: bytes alone, and decoded.

In shards of 50, in turns; two threads, in a store 16. The store (moto) is one Python process on the same cores, so what
it costs is counted too: a real one is farther away, and does not share them.
"""

from __future__ import annotations

import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SHARED_DATA
from tests.local_store import claim_address, running_store
from workflows.data.datasets import index_images
from workflows.data.file_states import StoredPicture, read_part, read_whole
from workflows.data.indexed_pictures import find_states
from workflows.data.parquet_rows import parse_span
from workflows.data.reading import REQUESTS_AT_ONCE, PictureReader
from workflows.settings import DataSettings
from workflows.storage import object_store
from workflows.storage.object_store import is_uri, upload

PHOTOS = SHARED_DATA / "imagenet_animals"
SHARD = 50


@dataclass(frozen=True)
class ReadingRow:
    """Medians of images/s, and how many times that is what a folder of files gives; seconds of the index."""

    place: str
    index_seconds: float
    bytes_images_per_second: float
    bytes_ratio: float
    decoded_images_per_second: float
    decoded_ratio: float


def measure(repeats: int = 5, tiny: bool = False) -> list[ReadingRow]:
    """One row a place; the first is what the others are held against."""
    with tempfile.TemporaryDirectory() as folder, _own_store(Path(folder) / "log") as bucket:
        return _rows(Path(folder), bucket, 3 if tiny else 100, 1 if tiny else repeats)


@contextmanager
def _own_store(log: Path) -> Iterator[str]:
    """Beside one that the tests may have."""
    before = dict(os.environ)
    claim_address()
    object_store._store.cache_clear()
    try:
        with running_store(log) as bucket:
            yield bucket
    finally:
        os.environ.clear()
        os.environ.update(before)
        object_store._store.cache_clear()


def _rows(root: Path, bucket: str, photos: int, repeats: int) -> list[ReadingRow]:
    files = [path for one in sorted(PHOTOS.glob("n*")) for path in sorted(one.glob("*.jpg"))[: 2 * photos]]
    for number, path in enumerate(files):
        split = ("train", "val")[number % 2]
        copy = root / split / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        upload(copy, f"{bucket}/{copy.relative_to(root)}")
        with tarfile.open(root / f"{split}.tar", "a") as tar:
            tar.add(path, f"{path.parent.name}/{path.name}")
    for split in ("train", "val"):
        upload(root / f"{split}.tar", f"{bucket}/{split}.tar")
    places = {}
    for name, place in (("disk", str(root)), ("store", bucket)):
        for kind, fields in (("folder", "folders"), ("tar", "train")):
            ending = "" if kind == "folder" else ".tar"
            source = {"source": kind.replace("folder", "folders"), fields: (f"{place}/train{ending}",)}
            places[f"{kind}, {name}"] = DataSettings(**source, validation=(f"{place}/val{ending}",))
    return _measured(places, repeats)


def _measured(places: dict[str, DataSettings], repeats: int) -> list[ReadingRow]:
    paths, indexed = {}, {}
    for name, settings in places.items():
        begun = time.perf_counter()
        paths[name] = index_images(settings, 0).path.tolist()
        find_states(settings, paths[name])
        indexed[name] = time.perf_counter() - begun
    raw: dict[str, list[float]] = {name: [] for name in places}
    decoded: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(repeats):
        for name, settings in places.items():
            with _rate(raw[name], len(paths[name])):
                _read_bytes(paths[name])
            with _rate(decoded[name], len(paths[name])), PictureReader(settings) as reader:
                for _ in reader.stream(paths[name], SHARD):
                    pass
    rates = {name: (statistics.median(raw[name]), statistics.median(decoded[name])) for name in places}
    first = next(iter(rates.values()))
    return [
        ReadingRow(name, indexed[name], one, one / first[0], other, other / first[1])
        for name, (one, other) in rates.items()
    ]


@contextmanager
def _rate(into: list[float], images: int) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    into.append(images / (time.perf_counter() - begun))


def _read_bytes(paths: list[str]) -> None:
    with ThreadPoolExecutor(REQUESTS_AT_ONCE if is_uri(paths[0]) else 2) as pool:
        for content in pool.map(_bytes, paths):
            assert content


def _bytes(path: str) -> bytes:
    span = parse_span(path)
    if span is not None:
        return read_part(span.file, span.offset, span.length, None)
    return read_whole(StoredPicture(path) if is_uri(path) else Path(path), None)
