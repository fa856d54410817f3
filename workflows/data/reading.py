"""Pictures of the image index, decoded by a pool of threads; memory does not grow with the data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from workflows.data.crops import Crop, parse_crop
from workflows.data.decoding import BrokenPicture, Picture, PictureError, Pixels, decode_picture, unbroken
from workflows.data.file_states import NOT_THERE, FileState, StoredPicture, fault, read_whole, state_of
from workflows.data.packaged import load_cifar10, load_digits
from workflows.data.parquet_rows import CACHE_BYTES, Encoded, ParquetRows, parse_row_path, parse_span
from workflows.data.scenes import load_scenes
from workflows.errors import DataError, StorageFault
from workflows.phases import phase
from workflows.runtime.patience import Patience, patiently
from workflows.settings import DataSettings
from workflows.storage.names import file_path
from workflows.storage.object_store import is_uri

if TYPE_CHECKING:
    from workflows.data.device_decoding import DeviceDecoder

__all__ = ["BrokenPicture", "Picture", "PictureReader", "photo_sizes"]

Result = Picture | BrokenPicture
States = Sequence[FileState | None]
Geometry = Callable[[Pixels], Pixels]
_Encoded = Encoded | Crop | StoredPicture | np.ndarray

# A task for the pool: enough small pictures to pay for handing it over, few enough to keep all threads busy.
_MOST_IN_TASK = 32

REQUESTS_AT_ONCE = 16
"""Threads of a reader whose pictures lie in an object store: each waits for its own most of the time."""


class PictureReader:
    """Reads pictures by their paths in the image index.

    ``geometry`` (usually ``Preprocessor.crop``) is applied by the same threads, so that only its results are kept;
    ``on_device`` does both of the pictures that it can.
    Use as a context manager, or call ``close``. One caller at a time.

    A picture is broken where its bytes are no picture; that they cannot be read says nothing about them, and is an
    error. ``states``: what the index knows of the files, by picture (see ``IndexedPictures``); without, they are taken
    as they are.
    """

    def __init__(
        self,
        settings: DataSettings,
        threads: int = 2,
        geometry: Geometry | None = None,
        cache_bytes: int = CACHE_BYTES,
        on_device: DeviceDecoder | None = None,
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._geometry, self._on_device = geometry, on_device
        self._rows = ParquetRows(cache_bytes, settings.image_column)
        named = (*settings.train, *settings.validation, *settings.folders, settings.root)
        if any(map(is_uri, named)):  # whose pictures are waited for
            self._threads = max(threads, REQUESTS_AT_ONCE)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")

    def read(self, paths: Sequence[str], states: States = ()) -> list[Result]:
        """The pictures in the order of ``paths``; broken ones in their places, with the reason.

        Raises:
            StorageFault: a file cannot be read just now.
            DataError: a path does not belong to this source, a whole file of pictures is damaged, or a file is not
                the one that was indexed.
        """
        return self._collect(paths, self._submit(paths, states))

    def stream(self, paths: Sequence[str], batch: int, ahead: int = 2, states: States = ()) -> Iterator[list[Result]]:
        """The same in batches; while one is used, the next ``ahead`` are being decoded.

        Raises:
            DataError: see ``read``.
        """
        waiting: deque[tuple[Sequence[str], list[_Task]]] = deque()
        for first in range(0, len(paths), batch):
            part = paths[first : first + batch]
            waiting.append((part, self._submit(part, states[first : first + batch])))
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

    def _submit(self, paths: Sequence[str], states: States) -> list[_Task]:
        # Up to four tasks a thread even out pictures of unequal size.
        size = min(max(len(paths) // (4 * self._threads), 1), _MOST_IN_TASK)
        tasks: list[_Task] = []
        positions: list[int] = []
        encoded: list[_Encoded] = []
        states = states or [None] * len(paths)
        for position, picture in self._find(paths, states):
            positions.append(position)
            encoded.append(picture)
            if len(positions) == size:
                tasks.append(self._task(paths, states, positions, encoded))
                positions, encoded = [], []
        if positions:
            tasks.append(self._task(paths, states, positions, encoded))
        return tasks

    def _task(self, paths: Sequence[str], states: States, positions: list[int], encoded: list[_Encoded]) -> _Task:
        own = [(paths[position], states[position]) for position in positions]
        return positions, self._pool.submit(_decode_all, own, encoded, self._geometry, self._on_device)

    def _collect(self, paths: Sequence[str], tasks: list[_Task]) -> list[Result]:
        results: list[Result | None] = [None] * len(paths)
        for positions, future in tasks:
            with phase("wait"):
                decoded = future.result()
            for position, result in zip(positions, decoded, strict=True):
                results[position] = result
        complete = [result for result in results if result is not None]
        assert len(complete) == len(paths)
        return complete

    def _find(self, paths: Sequence[str], states: States) -> Iterator[tuple[int, _Encoded]]:
        source = self._settings.source
        if source in ("parquet", "tar"):
            yield from self._find_rows(paths, states)
        elif source in ("folders", "imagenet"):
            yield from enumerate(StoredPicture(path) if is_uri(path) else Path(file_path(path)) for path in paths)
        elif source == "crops":
            yield from enumerate(parse_crop(path) for path in paths)
        else:
            yield from enumerate(self._packaged(path) for path in paths)

    def _find_rows(self, paths: Sequence[str], states: States) -> Iterator[tuple[int, _Encoded]]:
        """Pictures whose places the index has told, then those that are looked for."""
        looked_for = []
        for position, path in enumerate(paths):
            span = parse_span(path)
            if span is None:
                looked_for.append(position)
            else:
                yield position, span
        rows = [parse_row_path(paths[position]) for position in looked_for]
        for place, picture in self._look_for(rows, [states[position] for position in looked_for]):
            yield looked_for[place], picture

    def _look_for(self, rows: Sequence[tuple[str, int]], states: States) -> Iterator[tuple[int, _Encoded]]:
        compared = set()
        try:
            for position, picture in self._rows.find(rows):
                file, state = rows[position][0], states[position]
                if isinstance(picture, bytes) and state is not None and file not in compared:
                    state.refuse_other(file, state_of(file))
                    compared.add(file)
                yield position, picture
        except OSError as error:
            raise fault(str(error.filename or rows[0][0]), error) from None
        except StorageFault:
            raise
        except DataError:  # it may be unreadable because it is another file now
            for (file, _), state in zip(rows, states, strict=True):
                if state is not None:
                    state.refuse_other(file, state_of(file))
            raise

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


def photo_sizes(settings: DataSettings, paths: Sequence[str], patience: Patience) -> Iterator[tuple[int, int]]:
    """Height and width of photos as they are, in pixels; ``patience``: with storage that is away, see ``patiently``.

    Raises:
        StorageFault: a file cannot be read just now. DataError: a picture that the run could read is broken now.
    """
    with PictureReader(settings, geometry=_only_size) as reader:
        for first in range(0, len(paths), _SIZES_AT_ONCE):
            for picture in patiently(partial(reader.read, paths[first : first + _SIZES_AT_ONCE]), *patience):
                height, width = unbroken(picture).pixels.shape[:2]
                yield height, width


def _only_size(pixels: Pixels) -> Pixels:
    """As large, and without the pixels."""
    return np.empty((*pixels.shape[:2], 0), np.uint8)


@phase("decode")
def _decode_all(
    pictures: list[tuple[str, FileState | None]],
    encoded: list[_Encoded],
    geometry: Geometry | None,
    on_device: DeviceDecoder | None,
) -> list[Result]:
    if on_device is None:
        return [_decode(path, state, one, geometry) for (path, state), one in zip(pictures, encoded, strict=True)]
    read = [_read_ahead(one, state) for (_, state), one in zip(pictures, encoded, strict=True)]
    return [
        _decode(path, state, one, geometry) if crop is None else Picture(path, crop)
        for (path, state), one, crop in zip(pictures, read, on_device(read), strict=True)
    ]


def _read_ahead(encoded: _Encoded, state: FileState | None) -> _Encoded:
    """The bytes of a picture; what has none, and what cannot be read, as it is: ``_decode`` says why."""
    if encoded is None or isinstance(encoded, np.ndarray | PictureError | Crop):
        return encoded
    try:
        return _bytes(encoded, state)
    except (OSError, PictureError):
        return encoded


def _decode(path: str, state: FileState | None, encoded: _Encoded, geometry: Geometry | None) -> Result:
    try:
        pixels = _pixels(encoded, state)
        return Picture(path, pixels if geometry is None else geometry(pixels))
    except PictureError as error:
        return BrokenPicture(path, str(error))
    except OSError as error:
        named = isinstance(encoded, Path) and str(encoded) != file_path(path)
        if named and state is None and error.errno in NOT_THERE:
            # A cell of a Parquet file names it, and the index has not seen it either.
            return BrokenPicture(path, f"its cell names no file: {error.strerror or error}")
        raise fault(path, error) from None


def _pixels(encoded: _Encoded, state: FileState | None) -> Pixels:
    if isinstance(encoded, np.ndarray):
        return encoded.copy()  # the data set's own memory must not be written through a picture
    if encoded is None:
        raise PictureError("empty: the cell has neither bytes nor a path")
    if isinstance(encoded, PictureError):
        raise encoded
    if isinstance(encoded, Crop):
        return encoded.cut(read_whole(encoded.photo, state))
    return decode_picture(_bytes(encoded, state))


def _bytes(encoded: Any, state: FileState | None) -> bytes:
    if isinstance(encoded, bytes):
        return encoded
    return read_whole(encoded, state) if isinstance(encoded, Path | StoredPicture) else encoded.read(state)
