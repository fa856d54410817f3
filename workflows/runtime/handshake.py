"""What a process must prove before it may work for a driver: the same versions, the same run folder, leave to write."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from workflows.versions import unlike_versions, versions

_MUST_SEE, _MUST_WRITE = "must see", "must be able to write in"
_LATE_S = 5.0
"""How long a network file system may show a file as it was before."""


@dataclass(frozen=True)
class Terms:
    """What the driver has, and every process that works for it must have."""

    seen: Path | None = None
    """A file that all must see with the same content, in a folder that all must be able to write; None: no matter."""
    digest: str = ""
    versions: dict[str, str] = field(default_factory=versions)

    @classmethod
    def of(cls, seen: Path | None) -> Terms:
        """The terms of this process."""
        return cls(seen, "" if seen is None else _digest(seen))


def prove(terms: Terms | None) -> str:
    """What speaks against this process, with both values and what to do; empty where nothing does."""
    if terms is None:
        return ""
    unlike = unlike_versions(terms.versions, versions(), "the driver", "it")
    if unlike:
        return f"must have the driver's versions, got {'; '.join(unlike)}; install the same on every node"
    if terms.seen is None:
        return ""
    return _prove_sight(terms.seen, terms.digest) or _prove_writing(terms.seen.parent)


def may_pass(unfit: str) -> bool:
    """Whether what ``prove`` has said may be otherwise in a while: storage comes back, versions do not."""
    return unfit.startswith((_MUST_SEE, _MUST_WRITE))


def _prove_sight(seen: Path, digest: str) -> str:
    deadline = time.monotonic() + _LATE_S
    while True:
        try:
            got = "" if _digest(seen) == digest else "a file with other content"
        except OSError as error:
            got = f"{type(error).__name__} ({error.strerror})"
        if not got or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if not got:
        return ""
    return f"{_MUST_SEE} {str(seen)!r} as the driver does, got {got}; mount the run folder under the same path"


def _prove_writing(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:  # without a name where the system can
            trial.write(b"trial")
    except OSError as error:
        return (
            f"{_MUST_WRITE} {str(folder)!r}, got {type(error).__name__} ({error.strerror}); mount the run "
            "folder with leave to write for the user that Ray runs as"
        )
    return ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
