"""What a file is, told by its contents: another time alone does not make it another file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileIdentity:
    """size: bytes. mtime_ns: nanoseconds since 1970. sha256: of the contents; of a folder of names and sizes in it."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Of a file or a folder. Raises FileNotFoundError."""
        seen = path.stat()
        return cls(seen.st_size, seen.st_mtime_ns, hash_of(path))

    def fits(self, path: Path) -> bool:
        """Whether the file there is this one; its contents are read only where its time is another."""
        if not path.exists():
            return False
        seen = path.stat()
        if (seen.st_size, seen.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return seen.st_size == self.size and hash_of(path) == self.sha256


def hash_of(path: Path) -> str:
    """SHA-256 of a file's contents, or of the names and sizes of the files in a folder."""
    if path.is_dir():
        names = [
            f"{file.relative_to(path)} {file.stat().st_size}" for file in sorted(path.rglob("*")) if file.is_file()
        ]
        return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
