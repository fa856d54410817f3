"""What a file was when it was indexed, and what is said where it cannot be read or is another one now."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workflows.errors import DataError, StorageFault

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What a name gives that is no file's."""


@dataclass(frozen=True)
class FileState:
    """size: bytes. modified: nanoseconds since 1970."""

    size: int
    modified: int

    @classmethod
    def of(cls, seen: os.stat_result) -> FileState:
        """What the system says of a file."""
        return cls(seen.st_size, seen.st_mtime_ns)

    def refuse_other(self, path: str, seen: os.stat_result) -> None:
        """Raises DataError: the file is not the one that was indexed; each differing field with both values."""
        now = FileState.of(seen)
        if now == self:
            return
        lines = [f"size: the index has {self.size} bytes, the file {now.size}"] if now.size != self.size else []
        if now.modified != self.modified:
            lines.append(f"modified: the index has {_moment(self.modified)}, the file {_moment(now.modified)}")
        raise DataError(
            f"{path!r} must be the file that the run has indexed; these differ:\n  "
            + "\n  ".join(lines)
            + "\nrestore the file, or give another --out"
        )


def read_whole(path: Path, state: FileState | None) -> bytes:
    """The bytes of a file. Raises OSError; DataError: it is not the file that was indexed."""
    with path.open("rb", buffering=0) as file:
        if state is not None:
            state.refuse_other(str(path), os.fstat(file.fileno()))
        return file.readall()


def fault(path: str, error: OSError) -> StorageFault:
    """What a failed try to read says."""
    return StorageFault(
        f"{path!r} must be readable, got {error.strerror or error}; see to its storage and its rights, then run the "
        "same command again"
    )


def _moment(modified: int) -> str:
    whole = datetime.fromtimestamp(modified // 10**9, UTC)
    return f"{whole:%Y-%m-%d %H:%M:%S}.{modified % 10**9:09d}"
