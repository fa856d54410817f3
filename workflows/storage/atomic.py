"""Small files that are either the old one or the new one, whatever is killed in between."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from workflows.errors import full_disk, is_full
from workflows.phases import phase

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced to disk and renamed to ``path``.

    The temporary file starts with a dot and ends in ``.tmp``: readers that list ``*.parquet`` never see it.
    On an exception nothing changes and the temporary file is removed; a full disk is said in words. With ``synced`` off
    the kernel writes to disk in its own time: for large files that a checksum guards.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
        if synced:
            sync(path.parent)
    except OSError as error:
        if is_full(error):
            raise full_disk(error, path, _size(temporary)) from None
        if error.filename is None:  # of a write: the system does not say whose
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_in_words(path: Path) -> Iterator[None]:
    """For what is written without ``replacing``. Raises DiskFull where the disk has no room for ``path``."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full_disk(error, path) from None
        raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole small file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@phase("write")
def sync_file_system(path: Path) -> None:
    """Force everything that was written so far to the disk that ``path`` lies on.

    One call for the many files of a work item: syncing each of them, and each new folder, takes as long as writing.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _syncfs is None:
            os.sync()
        elif _syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""Of the C library of Linux; other systems have none."""


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
