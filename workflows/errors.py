"""What a run refuses. Every message names the setting, the rule, what came, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


class RunError(Exception):
    """Base of every error that the command line prints without a traceback."""


class SettingsError(RunError):
    """A preset or a ``--set`` has an unknown, mistyped or contradictory field."""


class DataError(RunError):
    """Images or labels are missing, broken or do not fit the network."""


class StorageFault(DataError):
    """Files could not be read just now, which says nothing about what they hold: another try may succeed."""


class DiskFull(RunError):
    """A file system has no room left, or the quota is used up: another try would only repeat it."""


class NetworkError(RunError):
    """A network, its weights or a layer name cannot be used."""


class BudgetError(RunError):
    """The plan needs more disk or memory than there is."""


class RunFolderError(RunError):
    """The output folder holds another run, or not what a stage needs."""


class ShardError(RunError):
    """Work items kept failing after every allowed attempt."""


class DivergedFit(RunError):
    """A fit by gradient left the finite numbers, or nearly."""


_FULL = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up"}


def is_full(error: BaseException) -> bool:
    """Whether a disk without room is what an error comes from."""
    return isinstance(error, OSError) and error.errno in _FULL


def full_disk(error: BaseException, path: Path | None = None, written: int = 0) -> DiskFull:
    """What a disk without room says. path: of the file that was being written; written: its bytes so far."""
    assert isinstance(error, OSError)
    named = path or error.filename
    place = Path(os.fsdecode(named)) if named else None
    where = "a file" if place is None else repr(str(place))
    return DiskFull(
        f"{where} must have room on its disk, got {_FULL[error.errno or 0]} after {written:,} bytes of it"
        f"{'' if place is None else _free(place)}; free some space (`clean --columns` frees the columns of a finished "
        "run), then run the same command again"
    )


def _free(path: Path) -> str:
    folder = next((one for one in path.parents if one.is_dir()), Path("/"))
    return f" ({shutil.disk_usage(folder).free:,} bytes are free under {str(folder)!r})"
