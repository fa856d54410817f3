"""The folder of one run: where every artefact lies, whose run it is, and who works in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import RunFolderError, SettingsError
from workflows.settings import Settings, parse_settings
from workflows.storage.atomic import TEMPORARY_SUFFIX, write_bytes
from workflows.storage.ledger import Ledger
from workflows.storage.names import JOINT, joined_slug, readable_name, slug
from workflows.storage.object_store import is_uri

FORMAT = 2
"""Version of the layout below; a run folder of another version is refused."""

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
_OLD_TABLES = {"boxes": "parts"}
"""What tables were called before, by their present name."""
_ZARR_TEMPORARY_SUFFIX = ".partial"
_CHANGEABLE = ("runtime", "count.scheduler", "data.max_broken", "data.masks", "mine", "draw", "triage")
"""Fields that may differ when a run is resumed: they change no result, or only the last stages, which run again."""
_CHANGEABLE_BEFORE_FITS = (
    "discriminative",
    *(f"fit.{field}" for field in ("scopes", "lists", "loss", "min_confusions", "max_neighbours", "min_images")),
)
"""The same in a run without a dictionary: what the confusion matrix refuses need not cost another extraction."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. Artefacts appear when their stage writes them; asking for a path creates nothing."""

    root: Path

    @classmethod
    def create_or_open(cls, root: Path, settings: Settings) -> RunFolder:
        """Start a run in a new or empty folder, or return to the run that is there.

        Raises:
            RunFolderError: the folder holds a run with other settings (each differing field is named with both
                values; ``[runtime]``, ``[mine]``, ``[draw]``, ``[triage]``, ``count.scheduler`` ``data.masks`` and
                ``data.max_broken`` may differ, and scopes and loss before the first fit), a run of another format,
                or other files.
        """
        folder = cls.claimed(root)
        if folder.run_file.exists():
            _refuse_other_settings(folder, settings)
        record = {"format": FORMAT, "settings": settings.model_dump(mode="json")}
        content = json.dumps(record, indent=2).encode()
        if not folder.run_file.exists() or folder.run_file.read_bytes() != content:
            write_bytes(folder.run_file, content)
        return folder

    @classmethod
    def claimed(cls, root: Path) -> RunFolder:
        """A folder that holds a run, or could; nothing is written.

        Raises:
            RunFolderError: it is a file, holds other files, or its path is no UTF-8.
        """
        folder = cls(_resolved(root))
        if folder.root.exists() and not folder.run_file.exists():
            _refuse_strange_files(folder.root)
        return folder

    def forget(self) -> None:
        """Undo ``create_or_open`` of a run that has not written any artefact yet; the folder is free for another."""
        for ledger in self.ledgers.glob("*.jsonl"):
            ledger.unlink()
        if self.ledgers.exists():
            self.ledgers.rmdir()
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
        return _parsed(self.root, _stored(self.root))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver; released when the block ends, and by the kernel when the driver is killed.

        Raises:
            RunFolderError: another driver holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(_held(self.root, os.read(descriptor, 200).decode())) from None
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether a driver works in the folder now."""
        try:
            descriptor = os.open(self.root / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove_leftovers(self) -> None:
        """Remove temporary files that a killed driver left; for the driver that holds the folder."""
        for pattern in (f".*{TEMPORARY_SUFFIX}", f"*{_ZARR_TEMPORARY_SUFFIX}"):
            for leftover in self.root.rglob(pattern):
                leftover.unlink(missing_ok=True)

    @property
    def run_file(self) -> Path:
        """``run.json``: the format and the settings."""
        return self.root / RUN_FILE

    @property
    def images_table(self) -> Path:
        """``images.parquet``."""
        return self.table("images")

    @property
    def scopes_file(self) -> Path:
        """``scopes.json``, see ``workflows.plan.scopes``."""
        return self.root / "scopes.json"

    def scope_names(self) -> tuple[str, ...]:
        """Names of the scopes in scopes.json, in order; none where it is not there: before the fit, and of a chain."""
        try:
            return tuple(scope["name"] for scope in json.loads(self.scopes_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()

    @property
    def predictions_dir(self) -> Path:
        """Folder of the predictions, one file a shard, before they are joined into the images table."""
        return self.root / "predictions"

    @property
    def decisions(self) -> Path:
        """Folder of what histograms decide, one file a shard, before they are joined into decisions.parquet."""
        return self.root / "decisions"

    @property
    def path_parts(self) -> Path:
        """Folder of the paths of a hidden Markov model, one file a shard, before they are joined into paths.parquet."""
        return self.root / "path_parts"

    @property
    def figures(self) -> Path:
        """Folder of the drawn graphs."""
        return self.root / "figures"

    def figure(self, graph: str, ending: str, scope: str = JOINT) -> Path:
        """``figures/class-3.png``, ``figures/image-20417.svg``; of other scopes ``figures/list-pets/class-3.png``."""
        folder = self.figures if scope == JOINT else self.figures / slug(scope)
        return folder / f"{graph.replace(':', '-')}.{ending}"

    @property
    def pictures(self) -> Path:
        """Folder of the saved crops that figures show."""
        return self.root / "pictures"

    @property
    def weights(self) -> Path:
        """State dict of a network that this run trained itself."""
        return self.root / "weights.pt"

    def checkpoint(self, epoch: int) -> Path:
        """The same after an epoch, counted from 1; where ``training.keep_epochs`` keeps some."""
        return self.root / "checkpoints" / f"epoch-{epoch:04d}.pt"

    @property
    def ledgers(self) -> Path:
        """Folder of the ledgers, one a stage."""
        return self.root / "ledgers"

    def activations(self, layer: str, part: str | None = None) -> Path:
        """Zarr array of a layer's stored columns; ``part`` tells several arrays of one layer apart."""
        return self.root / "activations" / f"{_name(layer, part)}.zarr"

    def mixture(self, scope: str, layer: str) -> Path:
        """The dictionary of a layer."""
        return self.root / "mixtures" / slug(scope) / f"{slug(layer)}.npz"

    def fit_state(self, scope: str, layer: str) -> Path:
        """Checkpoint of an unfinished fit."""
        return self.root / "mixtures" / slug(scope) / f"{joined_slug(layer, 'state')}.npz"

    def words(self, scope: str, layer: str, part: str | None = None) -> Path:
        """Zarr array of a layer's word maps; ``part`` as in ``activations`` (for example ``posterior``)."""
        return self.root / "words" / slug(scope) / f"{_name(layer, part)}.zarr"

    def cooccurrence(self, scope: str, lower: str, upper: str) -> Path:
        """Zarr group of the pair counts of two layers."""
        return self.root / "cooccurrence" / slug(scope) / f"{joined_slug(lower, upper)}.zarr"

    def table(self, name: str) -> Path:
        """The Parquet table ``name`` (see ``workflows.storage.tables``)."""
        return self.root / f"{slug(name)}.parquet"

    def existing_table(self, name: str) -> Path:
        """The same where it is; in a run of an earlier version it may have an earlier name."""
        path, old = self.table(name), self.table(_OLD_TABLES.get(name, name))
        return old if old.exists() and not path.exists() else path

    def ledger(self, stage: str) -> Ledger:
        """The ledger of a stage."""
        return Ledger(self.ledgers / f"{slug(stage)}.jsonl")

    def size(self) -> int:
        """Bytes of all files of the run."""
        return sum(size_of(entry) for entry in self.root.iterdir()) if self.root.exists() else 0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 if it is not there."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    total = 0
    with os.scandir(path) as entries:  # which know what they are without a look at each file
        for entry in entries:
            with suppress(FileNotFoundError):  # a driver may be renaming its temporary files
                total += size_of(Path(entry.path)) if entry.is_dir() else entry.stat().st_size
    return total


def differing_fields(stored: Settings, given: Settings, fitted: bool = True) -> list[str]:
    """Fields that change a result and differ, as ``section.field: stored -> given`` lines.

    ``fitted``: the run has dictionaries; without, their scopes and their loss may still be chosen.
    """
    changeable = _CHANGEABLE if fitted else (*_CHANGEABLE, *_CHANGEABLE_BEFORE_FITS)
    before, after = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    lines = []
    for field in sorted(before.keys() | after.keys()):
        if not any(field == free or field.startswith(f"{free}.") for free in changeable):
            old, new = before.get(field), after.get(field)
            if old != new:
                lines.append(f"{field}: the folder has {old!r}, the command {new!r}")
    return lines


def _name(layer: str, part: str | None) -> str:
    return slug(layer) if part is None else joined_slug(layer, part)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _stored(root: Path) -> dict[str, Any]:
    path = root / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
    except FileNotFoundError:
        raise RunFolderError(f"{str(root)!r} holds no run ({RUN_FILE} is missing): give the --out of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): give another --out") from None
    if version != FORMAT:
        raise RunFolderError(
            f"{str(root)!r} holds a run of format {version!r}, this version reads {FORMAT}: give another --out"
        )
    return record


def _parsed(root: Path, record: dict[str, Any]) -> Settings:
    try:
        return parse_settings(record["settings"])
    except SettingsError as error:
        raise RunFolderError(
            f"{str(root)!r} holds a run whose settings this version does not know, give another --out:\n{error}"
        ) from None


def _refuse_other_settings(folder: RunFolder, settings: Settings) -> None:
    differences = differing_fields(folder.settings(), settings, fitted=(folder.root / "mixtures").exists())
    if differences:
        raise RunFolderError(
            f"{str(folder.root)!r} holds another run; these settings differ:\n  "
            + "\n  ".join(differences)
            + "\ngive another --out, delete the folder, or use the folder's values"
        )


def _resolved(root: Path) -> Path:
    """Absolute; the shell leaves ``~`` in ``--out=~/run``."""
    if is_uri(str(root).replace(":/", "://", 1)):  # Path has made one slash of two
        raise RunFolderError(
            f"--out: must be a folder of a file system that all nodes share, got {str(root)!r}; publish copies a run's "
            "tables and figures into an object store"
        )
    resolved = root.expanduser().resolve()
    if readable_name(str(resolved)) != str(resolved):
        raise RunFolderError(f"--out: must be a path of UTF-8 characters, got {str(resolved)!r}; give another folder")
    return resolved


def _refuse_strange_files(root: Path) -> None:
    if not root.is_dir():
        raise RunFolderError(f"{str(root)!r} is a file: --out must be a folder")
    strange = sorted(
        entry.name for entry in root.iterdir() if entry.name != LOCK_FILE and not _is_temporary(entry.name)
    )
    if strange:
        raise RunFolderError(
            f"{str(root)!r} is not empty and holds no run (it has {', '.join(strange[:5])}): give another --out"
        )


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _held(root: Path, holder: str) -> str:
    return f"{str(root)!r} is in use by another driver ({holder}): wait for it, stop it, or give another --out"
