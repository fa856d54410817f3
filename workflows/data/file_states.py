"""What a file was when it was indexed, and what is said where it cannot be read or is another one now.

A file lies on a file system or in an object store. It is compared at the descriptor that is read, or by the very answer
that brings its bytes.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workflows.errors import DataError, StorageFault
from workflows.storage.names import file_path
from workflows.storage.object_store import StoredFile, fetched, is_uri, look_at

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What a name gives that is no file's."""

_1970 = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class FileState:
    """size: bytes. modified: nanoseconds since 1970. etag: of the content, as an object store tells it.

    Where both have an etag, the time does not matter: the same content may have been copied there again.
    """

    size: int
    modified: int
    etag: str | None = None

    @classmethod
    def of(cls, seen: os.stat_result | StoredFile) -> FileState:
        """What the system, or the store, says of a file."""
        if isinstance(seen, StoredFile):
            return cls(seen.size, (seen.modified - _1970) // timedelta(microseconds=1) * 1000, seen.etag)
        return cls(seen.st_size, seen.st_mtime_ns)

    def refuse_other(self, path: str, now: FileState) -> None:
        """Raises DataError: the file is not the one that was indexed; each differing field with both values."""
        lines = [f"size: the index has {self.size} bytes, the file {now.size}"] if now.size != self.size else []
        if self.etag is not None and now.etag is not None:
            lines += [f"etag: the index has {self.etag}, the file {now.etag}"] if now.etag != self.etag else []
        elif now.modified != self.modified:
            lines.append(f"modified: the index has {_moment(self.modified)}, the file {_moment(now.modified)}")
        if not lines:
            return
        raise DataError(
            f"{path!r} must be the file that the run has indexed; these differ:\n  "
            + "\n  ".join(lines)
            + "\nrestore the file, or give another --out"
        )


@dataclass(frozen=True)
class StoredPicture:
    """A file of an object store that is one picture."""

    uri: str


def state_of(path: str) -> FileState:
    """Of a file now. path: as tables keep it, or a URI. Raises OSError."""
    return FileState.of(look_at(path) if is_uri(path) else os.stat(file_path(path)))


def read_whole(place: Path | StoredPicture, state: FileState | None) -> bytes:
    """The bytes of a file. Raises OSError; DataError: it is not the file that was indexed."""
    if isinstance(place, StoredPicture):
        return _read_stored(place.uri, 0, None, state)
    with place.open("rb", buffering=0) as file:
        if state is not None:
            state.refuse_other(str(place), FileState.of(os.fstat(file.fileno())))
        return file.readall()


def read_part(path: str, offset: int, length: int, state: FileState | None) -> bytes:
    """Bytes [offset, offset + length) of a file, fewer where it has been cut short; path: as for ``state_of``.

    Raises OSError; DataError: it is not the file that was indexed.
    """
    if is_uri(path):
        return _read_stored(path, offset, length, state)
    descriptor = os.open(file_path(path), os.O_RDONLY)
    try:
        if state is not None:
            state.refuse_other(path, FileState.of(os.fstat(descriptor)))
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def _read_stored(uri: str, offset: int, length: int | None, state: FileState | None) -> bytes:
    content, seen = fetched(uri, offset, length)
    if state is not None:
        state.refuse_other(uri, FileState.of(seen))
    return content


def fault(path: str, error: OSError) -> StorageFault:
    """What a failed try to read says."""
    return StorageFault(
        f"{path!r} must be readable, got {error.strerror or error}; see to its storage and its rights, then run the "
        "same command again"
    )


def _moment(modified: int) -> str:
    whole = datetime.fromtimestamp(modified // 10**9, UTC)
    return f"{whole:%Y-%m-%d %H:%M:%S}.{modified % 10**9:09d}"
