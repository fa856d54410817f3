"""Small files that are either the old one or the new one, whatever is killed in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced to disk and renamed to ``path``.

    The temporary file starts with a dot and ends in ``.tmp``: readers that list ``*.parquet`` never see it.
    On an exception nothing changes and the temporary file is removed. With ``synced`` off the kernel writes to disk in
    its own time: for large files that a checksum guards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
        if synced:
            sync(path.parent)
    except OSError as error:
        if error.filename is None:  # of a write: the system does not say whose
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole small file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
