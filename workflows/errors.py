"""What a run refuses. Every message names the setting, the rule, what came, and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

REFUSED, FAILED = 2, 1
"""Exit codes of a command: what was asked cannot be, so do not retry; and all else, where another try may help."""


class RunError(Exception):
    """Base of every error that the command line prints without a traceback."""

    status = REFUSED
    """Exit code of a command that it ends."""


class SettingsError(RunError):
    """A preset or a ``--set`` has an unknown, mistyped or contradictory field."""


class DataError(RunError):
    """Images or labels are missing, broken or do not fit the network."""


class StorageFault(DataError):
    """Files could not be read just now, which says nothing about what they hold: another try may succeed."""

    status = FAILED


class DiskFull(RunError):
    """A file system has no room left, or the quota is used up: another try would only repeat it."""

    status = FAILED


class NetworkError(RunError):
    """A network, its weights or a layer name cannot be used."""


class BudgetError(RunError):
    """The plan needs more disk or memory than there is."""


class RunFolderError(RunError):
    """The output folder holds another run, or not what a stage needs."""


class LostFile(RunFolderError):
    """A file that an earlier stage wrote is not there.

    To an actor this is storage that may be back: at its start the run has seen the file.
    """


class FolderInUse(RunFolderError):
    """Another driver works in the folder: later it may be free."""

    status = FAILED


class ClusterError(RunError):
    """Ray did not start, does not answer, or ended."""

    status = FAILED


class ShardError(RunError):
    """Work items kept failing after every allowed attempt."""

    status = FAILED


class CodeEnded(RunError):
    """Code of the user's, such as a network's module, ended the program instead of raising an error."""

    status = FAILED


class DivergedFit(RunError):
    """A fit by gradient left the finite numbers, or nearly."""


_AGAIN = "give the same command again, which goes on where it was"
_REMEDIES = {
    (errno.EROFS,): "mount it for writing, or name another place",
    (errno.EACCES, errno.EPERM): "change the rights of the file or of its folder, or name another",
    (errno.ENOTDIR,): "a part of the path is a file where a folder must be: correct the path, or move the file",
    (errno.EISDIR,): "a folder is where a file must be: correct the path, or move the folder",
    (errno.ELOOP,): "links lead in a circle: remove one",
    (errno.ENAMETOOLONG,): "give a shorter name or path",
    (errno.EMFILE, errno.ENFILE): f"raise the limit of open files (ulimit -n), then {_AGAIN}",
    (errno.ENOMEM,): f"free some memory, or lower runtime.actors, then {_AGAIN}",
}


def system_words(error: OSError) -> str:
    """What the system refused, of which file, and what to do, on one line."""
    if is_full(error):
        return str(full_disk(error))
    remedy = next((told for codes, told in _REMEDIES.items() if error.errno in codes), "")
    if error.errno is None:
        return f"{type(error).__name__}: {' '.join(str(error).split())}; {_AGAIN}"
    named = error.filename2 or error.filename
    where = "a file or connection" if named is None else repr(os.fsdecode(named) if isinstance(named, bytes) else named)
    return f"{where}: {os.strerror(error.errno)}; {remedy or f'see that its storage is there, then {_AGAIN}'}"


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
