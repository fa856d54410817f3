"""The folder of one run: where every artefact lies, whose run it is, and who works in it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import DiskFull, RunFolderError, system_words
from workflows.settings import Settings
from workflows.storage.atomic import TEMPORARY_SUFFIX, replacing, write_bytes
from workflows.storage.damage import undamaged
from workflows.storage.folder_lock import BEAT_S, LOCK_FILE, OWNER_FILE, held, is_held
from workflows.storage.names import readable_name
from workflows.storage.object_store import is_uri
from workflows.storage.run_log import LOG_FILES
from workflows.storage.run_paths import RunPaths
from workflows.storage.run_record import FORMAT, RUN_FILE, differing_fields, read_record, recorded_settings
from workflows.versions import unlike_versions, versions

REDO_FIT = "delete it and ledgers/fit.jsonl, and run again"
_ZARR_TEMPORARY_SUFFIX = ".partial"
_NO_PLACE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class RunFolder(RunPaths):
    """The folder of one run: who may work in it, on which settings, and where everything lies."""

    @classmethod
    def create_or_open(cls, root: Path, settings: Settings) -> RunFolder:
        """Start a run in a new or empty folder, or return to the run that is there.

        Raises:
            RunFolderError: the folder holds a run with other settings (each differing field is named with both
                values; ``[runtime]``, ``[mine]``, ``[draw]``, ``[triage]``, ``[count]``, ``data.masks`` and
                ``data.max_broken`` may differ, and scopes and loss before the first fit), a run of another format,
                or other files.
        """
        folder = cls.claimed(root)
        worked: list[dict[str, str]] = []
        if folder.run_file.exists():
            _refuse_other_settings(folder, settings)
            worked = read_record(folder.root).get("versions", [])
        folder._note(settings, worked)
        return folder

    def _note(self, settings: Settings, worked: Sequence[Mapping[str, str]]) -> None:
        record = {"format": FORMAT, "settings": settings.model_dump(mode="json"), "versions": worked}
        content = json.dumps(record, indent=2).encode()
        if not self.run_file.exists() or self.run_file.read_bytes() != content:
            write_bytes(self.run_file, content)

    def claim_versions(self, accept: bool = False) -> None:
        """Note with which versions the run is worked on from now; a folder of before that was noted takes any.

        accept: go on with versions that differ from the last ones; run.json keeps both.

        Raises:
            RunFolderError: they differ, and nobody has accepted that.
        """
        worked, now = read_record(self.root).get("versions", []), versions()
        if worked and worked[-1] == now:
            return
        if worked and not accept:
            unlike = unlike_versions(worked[-1], now, "the folder", "this installation")
            raise RunFolderError(
                f"{str(self.root)!r} was begun with other versions, which may give other values:\n  "
                + "\n  ".join(unlike)
                + "\ninstall the folder's versions, give another --out, or go on with --accept-versions, which "
                f"{RUN_FILE} notes"
            )
        self._note(self.settings(), [*worked, now])

    @classmethod
    def claimed(cls, root: Path) -> RunFolder:
        """A folder that holds a run, or could; nothing is written.

        Raises:
            RunFolderError: it is a file, holds other files, or its path is no UTF-8.
        """
        folder = cls(_resolved(root))
        with _as_refusals():
            if folder.root.exists() and not folder.run_file.exists():
                _refuse_strange_files(folder.root)
        return folder

    def forget(self) -> None:
        """Undo ``create_or_open`` of a run that has not finished any artefact yet; the folder is free for another."""
        for ledger in self.ledgers.glob("*.jsonl"):
            ledger.unlink()
        if self.ledgers.exists():
            self.ledgers.rmdir()
        for name in LOG_FILES:
            (self.root / name).unlink(missing_ok=True)
        self.run_file.unlink(missing_ok=True)

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """Return to the run in ``root``.

        Raises:
            RunFolderError: there is no run, or one of another format.
        """
        folder = cls(_resolved(root))
        folder.settings()
        return folder

    def settings(self) -> Settings:
        """The settings the run was started with.

        Raises:
            RunFolderError: there is no readable ``run.json`` of this format.
        """
        return recorded_settings(self.root)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver; see ``workflows.storage.folder_lock``.

        Raises:
            FolderInUse: another driver holds it. RunFolderError: it cannot be made, or not be written.
        """
        with ExitStack() as holding:
            with _as_refusals():
                self.root.mkdir(parents=True, exist_ok=True)
                holding.enter_context(held(self.root))
            self.beat(None)
            yield
            self.beat(None)

    def is_locked(self) -> bool:
        """Whether a driver works in the folder now."""
        return is_held(self.root)

    def beat(self, told: Any) -> None:
        """Tell who asks for the status what is at work, every few seconds; None: nothing is.

        told: a record whose fields are numbers and text. That it cannot be written stops no run.
        """
        with suppress(OSError, DiskFull):
            if told is None:
                self.heartbeat_file.unlink(missing_ok=True)
            elif time.time() - (self.heartbeat() or {"time": 0.0})["time"] > BEAT_S:
                with replacing(self.heartbeat_file, synced=False) as temporary:
                    temporary.write_text(json.dumps({**vars(told), "time": time.time()}))

    def heartbeat(self) -> dict[str, Any] | None:
        """What ``beat`` was told last, with its time; None while nothing is at work."""
        try:
            return dict(json.loads(self.heartbeat_file.read_text()))
        except (OSError, ValueError):
            return None

    def remove_leftovers(self, names: Iterable[str]) -> int:
        """Remove temporary files that killed processes left; for the driver that holds the folder.

        Args:
            names: of the artefacts that they may be of; a run of a thousand scopes has 100,000 files.

        Returns:
            Bytes of the artefacts, which are looked at in passing.
        """
        for leftover in self.root.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        return sum(size_of(self.root / name, _is_leftover) for name in names)

    def scope_names(self) -> tuple[str, ...]:
        """Names of the scopes in scopes.json, in order; none where it is not there: before the fit, and of a chain."""
        try:
            with undamaged(self.scopes_file, REDO_FIT):
                return tuple(scope["name"] for scope in json.loads(self.scopes_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()

    def size(self) -> int:
        """Bytes of all files of the run."""
        return sum(size_of(entry) for entry in self.root.iterdir()) if self.root.exists() else 0


def size_of(path: Path, removed: Callable[[str], bool] | None = None) -> int:
    """Bytes of a file, or of all files below a folder; 0 if it is not there.

    ``removed``: which files, by their names, are removed instead.
    """
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    total = 0
    with os.scandir(path) as entries:  # which know what they are without a look at each file
        for entry in entries:
            with suppress(FileNotFoundError):  # a driver may be renaming its temporary files
                if entry.is_dir():
                    total += size_of(Path(entry.path), removed)
                elif removed is not None and removed(entry.name):
                    os.unlink(entry.path)
                else:
                    total += entry.stat().st_size
    return total


def _refuse_other_settings(folder: RunFolder, settings: Settings) -> None:
    differences = differing_fields(folder.settings(), settings, fitted=(folder.root / "mixtures").exists())
    if differences:
        raise RunFolderError(
            f"{str(folder.root)!r} holds another run; these settings differ:\n  "
            + "\n  ".join(differences)
            + "\ngive another --out, delete the folder, or use the folder's values"
        )


@contextmanager
def _as_refusals() -> Iterator[None]:
    """Where no run can be is refused, whatever the system calls it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise RunFolderError(f"--out: must be a folder that can be written, got {system_words(error)}") from None


def _resolved(root: Path) -> Path:
    """Absolute; the shell leaves ``~`` in ``--out=~/run``."""
    if is_uri(str(root).replace(":/", "://", 1)):  # Path has made one slash of two
        raise RunFolderError(
            f"--out: must be a folder of a file system that all nodes share, got {str(root)!r}; publish copies a run's "
            "tables and figures into an object store"
        )
    try:
        resolved = root.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # of links that lead in a circle, of a home that nobody has
        raise RunFolderError(f"--out: must be a path that leads to a folder, got {str(root)!r} ({error})") from None
    if readable_name(str(resolved)) != str(resolved):
        raise RunFolderError(f"--out: must be a path of UTF-8 characters, got {str(resolved)!r}; give another folder")
    return resolved


def _refuse_strange_files(root: Path) -> None:
    if not root.is_dir():
        raise RunFolderError(f"{str(root)!r} is a file: --out must be a folder")
    strange = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in (LOCK_FILE, OWNER_FILE) and not _is_temporary(entry.name)
    )
    if strange:
        raise RunFolderError(
            f"{str(root)!r} is not empty and holds no run (it has {', '.join(strange[:5])}): give another --out"
        )


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _is_leftover(name: str) -> bool:
    return _is_temporary(name) or name.endswith(_ZARR_TEMPORARY_SUFFIX)
