"""Pictures of the image index, decoded by a pool of threads; memory does not grow with the data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from workflows.data.crops import Crop, parse_crop
from workflows.data.decoding import BrokenPicture, Picture, PictureError, Pixels, decode_picture, unbroken
from workflows.data.packaged import load_cifar10, load_digits
from workflows.data.parquet_rows import CACHE_BYTES, Encoded, ParquetRows, parse_row_path, parse_span
from workflows.data.scenes import load_scenes
from workflows.errors import DataError
from workflows.settings import DataSettings
from workflows.storage.names import file_path
from workflows.storage.object_store import is_uri, read_file

__all__ = ["BrokenPicture", "Picture", "PictureReader"]


@dataclass(frozen=True)
class StoredPicture:
    """A file of an object store that is one picture."""

    uri: str

    def read(self) -> bytes:
        """The bytes. Raises OSError."""
        return read_file(self.uri)


Result = Picture | BrokenPicture
Geometry = Callable[[Pixels], Pixels]
_Encoded = Encoded | Crop | StoredPicture | np.ndarray

# A task for the pool: enough small pictures to pay for handing it over, few enough to keep all threads busy.
_MOST_IN_TASK = 32

REQUESTS_AT_ONCE = 16
"""Threads of a reader whose pictures lie in an object store: each waits for its own most of the time."""


class PictureReader:
    """Reads pictures by their paths in the image index.

    ``geometry`` (usually ``Preprocessor.crop``) is applied by the same threads, so that only its results are kept.
    Use as a context manager, or call ``close``. One caller at a time.
    """

    def __init__(
        self,
        settings: DataSettings,
        threads: int = 2,
        geometry: Geometry | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._geometry = geometry
        self._rows = ParquetRows(cache_bytes, settings.image_column)
        named = (*settings.train, *settings.validation, *settings.folders, settings.root)
        if any(map(is_uri, named)):  # whose pictures are waited for
            self._threads = max(threads, REQUESTS_AT_ONCE)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def read(self, paths: Sequence[str]) -> list[Result]:
        """The pictures in the order of ``paths``; broken ones in their places, with the reason.

        Raises:
            DataError: a path does not belong to this source, or a whole file of pictures cannot be read.
        """
        return self._collect(paths, self._submit(paths))

    def stream(self, paths: Sequence[str], batch: int, ahead: int = 2) -> Iterator[list[Result]]:
        """The same in batches; while one is used, the next ``ahead`` are being decoded.

        Raises:
            DataError: see ``read``.
        """
        waiting: deque[tuple[Sequence[str], list[_Task]]] = deque()
        for first in range(0, len(paths), batch):
            part = paths[first : first + batch]
            waiting.append((part, self._submit(part)))
            if len(waiting) > ahead:
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def close(self) -> None:
        """End the threads; waiting work is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, paths: Sequence[str]) -> list[_Task]:
        # Up to four tasks a thread even out pictures of unequal size.
        size = min(max(len(paths) // (4 * self._threads), 1), _MOST_IN_TASK)
        tasks: list[_Task] = []
        positions: list[int] = []
        encoded: list[_Encoded] = []
        for position, picture in self._find(paths):
            positions.append(position)
            encoded.append(picture)
            if len(positions) == size:
                tasks.append(self._task(paths, positions, encoded))
                positions, encoded = [], []
        if positions:
            tasks.append(self._task(paths, positions, encoded))
        return tasks

    def _task(self, paths: Sequence[str], positions: list[int], encoded: list[_Encoded]) -> _Task:
        own = [paths[position] for position in positions]
        return positions, self._pool.submit(_decode_all, own, encoded, self._geometry)

    def _collect(self, paths: Sequence[str], tasks: list[_Task]) -> list[Result]:
        results: list[Result | None] = [None] * len(paths)
        for positions, future in tasks:
            for position, result in zip(positions, future.result(), strict=True):
                results[position] = result
        complete = [result for result in results if result is not None]
        assert len(complete) == len(paths)
        return complete

    def _find(self, paths: Sequence[str]) -> Iterator[tuple[int, _Encoded]]:
        source = self._settings.source
        if source in ("parquet", "tar"):
            yield from self._rows_found(paths)
        elif source in ("folders", "imagenet"):
            yield from enumerate(StoredPicture(path) if is_uri(path) else Path(file_path(path)) for path in paths)
        elif source == "crops":
            yield from enumerate(parse_crop(path) for path in paths)
        else:
            yield from enumerate(self._packaged(path) for path in paths)

    def _rows_found(self, paths: Sequence[str]) -> Iterator[tuple[int, _Encoded]]:
        """Pictures whose places the index has told, then those that are looked for."""
        rows = {}
        for position, path in enumerate(paths):
            span = parse_span(path)
            if span is not None:
                yield position, span
            else:
                rows[position] = parse_row_path(path)
        positions = list(rows)
        for place, picture in self._rows.find(list(rows.values())):
            yield positions[place], picture

    def _packaged(self, path: str) -> np.ndarray:
        name, row = parse_row_path(path)
        if self._settings.source == "digits" and name == "digits":
            pixels = load_digits().pixels
        elif self._settings.source == "scenes" and name == "scenes":
            pixels = load_scenes().images.pixels
        elif self._settings.source == "cifar10" and name in ("cifar10/train", "cifar10/test"):
            pixels = load_cifar10(self._settings.root, name.endswith("train"), False).pixels
        else:
            raise DataError(f"image path {path!r} is not of the source {self._settings.source}; index the images again")
        if row >= len(pixels):
            raise DataError(f"{name} has {len(pixels)} images and no image {row}; run the index stage again")
        return pixels[row]


_Task = tuple[list[int], "Future[list[Result]]"]

_SIZES_AT_ONCE = 32


def photo_sizes(settings: DataSettings, paths: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Height and width of photos as they are, in pixels.

    Raises:
        DataError: a picture that the run could read is broken now.
    """
    with PictureReader(settings, geometry=_only_size) as reader:
        for batch in reader.stream(paths, _SIZES_AT_ONCE):
            for picture in batch:
                height, width = unbroken(picture).pixels.shape[:2]
                yield height, width


def _only_size(pixels: Pixels) -> Pixels:
    """As large, and without the pixels."""
    return np.empty((*pixels.shape[:2], 0), np.uint8)


def _decode_all(paths: list[str], encoded: list[_Encoded], geometry: Geometry | None) -> list[Result]:
    return [_decode(path, picture, geometry) for path, picture in zip(paths, encoded, strict=True)]


def _decode(path: str, encoded: _Encoded, geometry: Geometry | None) -> Result:
    try:
        pixels = _pixels(encoded)
        return Picture(path, pixels if geometry is None else geometry(pixels))
    except PictureError as error:
        return BrokenPicture(path, str(error))
    except OSError as error:
        return BrokenPicture(path, f"cannot be read: {error.strerror or error}")


def _pixels(encoded: _Encoded) -> Pixels:
    if isinstance(encoded, np.ndarray):
        return encoded.copy()  # the data set's own memory must not be written through a picture
    if encoded is None:
        raise PictureError("empty: the cell has neither bytes nor a path")
    if isinstance(encoded, PictureError):
        raise encoded
    if isinstance(encoded, Crop):
        return encoded.read()
    if isinstance(encoded, bytes):
        return decode_picture(encoded)
    return decode_picture(encoded.read_bytes() if isinstance(encoded, Path) else encoded.read())
