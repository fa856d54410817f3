"""What a study keeps in a run folder, and whether the run is still the one that it was asked of."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from workflows.errors import RunFolderError
from workflows.storage.atomic import write_bytes
from workflows.storage.identities import FileIdentity
from workflows.storage.ledger import Ledger
from workflows.storage.names import slug
from workflows.storage.run_folder import RunFolder, size_of

StudyProgress = Literal["not asked", "partial", "done", "stale"]

Basis = dict[str, Any]
"""What a study stands on: a file, by its place (see ``place_of``), with its size, time and hash; a ledger with the hash
of its items; a version. Older ones have a file by its name, and its place as ``path``."""


@dataclass(frozen=True)
class Study:
    """One entry of the registry ``workflows.asking.registry.STUDIES``.

    Attributes:
        name: of its folder, its command, its ledger and its figures.
        question: that it answers.
        tables: names of its Parquet tables.
        version: of what it writes; another one makes what is there stale.
        further: names of tables that are made of those, where they are asked for.
    """

    name: str
    question: str
    tables: tuple[str, ...]
    version: int = 1
    further: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyState:
    """Where a study of a run stands: its work items, time in seconds, bytes, and what changed in the run since."""

    state: StudyProgress
    done: int = 0
    total: int | None = None
    seconds: float = 0.0
    size: int = 0
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyRecord:
    """``request.json``: what a study was asked, and of which run."""

    request: dict[str, Any]
    basis: Basis = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Text for the file."""
        return json.dumps({"request": self.request, "basis": self.basis}, indent=1, ensure_ascii=False).encode()


@dataclass(frozen=True)
class StudyFolder:
    """Paths of one study of one run: ``<run>/<study>/``, its tables and its figures. Asking creates nothing."""

    run: RunFolder
    study: Study

    @property
    def root(self) -> Path:
        """``<run>/<study>``."""
        return self.run.root / slug(self.study.name)

    @property
    def ledger(self) -> Ledger:
        """``<run>/<study>/ledger.jsonl``; of a study that keeps it with those of the stages, that one."""
        own, old = Ledger(self.root / "ledger.jsonl"), self.run.ledger(self.study.name)
        return old if old.path.exists() and not own.path.exists() else own

    @property
    def request_file(self) -> Path:
        """``<run>/<study>/request.json``."""
        return self.root / "request.json"

    @property
    def parts(self) -> Path:
        """Folder of the sums of shards, until the tables are written."""
        return self.root / "parts"

    def part(self, phase: str, shard: int) -> Path:
        """Sums of one shard in one phase."""
        return self.parts / slug(phase) / f"{shard:06d}.npz"

    def tables(self) -> dict[str, Path]:
        """By name: where its tables are, or will be; further ones where they are."""
        further = (name for name in self.study.further if self.run.existing_table(name).exists())
        return {name: self.run.existing_table(name) for name in (*self.study.tables, *further)}

    def figures(self) -> list[Path]:
        """Figures that are drawn: ``figures/[<scope>/]<study>.png``, ``<study>-<name>.svg``."""
        name = slug(self.study.name)
        return sorted(
            path
            for path in self.run.figures.rglob(f"{name}*.*")
            if path.stem == name or path.stem.startswith(f"{name}-")
        )

    def record(self) -> StudyRecord | None:
        """What it was asked; None where it was not, or keeps no record.

        Raises:
            RunFolderError: the file is damaged.
        """
        try:
            return StudyRecord(**json.loads(self.request_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise RunFolderError(
                f"{str(self.request_file)!r} is damaged ({error}): ask the study again with --anew"
            ) from None

    def ask(self, record: StudyRecord) -> None:
        """Note a new request; what shards of an earlier one have given is dropped, tables and figures stay."""
        self.drop_parts()
        self.ledger.path.unlink(missing_ok=True)
        write_bytes(self.request_file, record.to_json())

    def note(self, record: StudyRecord) -> None:
        """Keep what it has answered, of a study whose ledger knows by itself what has to be done again."""
        write_bytes(self.request_file, record.to_json())

    def drop_parts(self) -> None:
        """Remove the sums of shards."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def summary(self) -> dict[str, Any]:
        """The answer for programs: what was asked, how long it took, tables, figures, and what the study told."""
        content, record = self.ledger.content(), self.record()
        return {
            "study": self.study.name,
            "run": str(self.run.root),
            "request": {} if record is None else record.request,
            "seconds": round(content.seconds, 3),
            "tables": {name: str(path) for name, path in self.tables().items() if path.exists()},
            "figures": [str(path) for path in self.figures()],
            **content.summary,
        }

    def forget(self) -> None:
        """Remove everything of the study, and nothing else."""
        self.ledger.path.unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        for path in (*self.tables().values(), *self.figures()):
            path.unlink(missing_ok=True)

    def state(self) -> StudyState:
        """Where it stands, told without reading a table."""
        content, tables = self.ledger.content(), [path for path in self.tables().values() if path.exists()]
        record = self.record()
        if content.fingerprint is None and record is None and not tables:
            return StudyState("not asked")  # without a look for figures, which may be in a thousand folders
        size = size_of(self.root) + sum(size_of(path) for path in (*tables, *self.figures()))
        if content.fingerprint is None and record is None:
            return StudyState("done", size=size)
        changed = () if record is None else changes(self.run, record.basis, self.study.version)
        state: StudyProgress = "stale" if changed else "done" if content.done else "partial"
        return StudyState(state, len(content.items), content.total, content.seconds, size, changed)


def basis_of(folder: RunFolder, version: int, files: Iterable[Path], ledgers: Iterable[str]) -> Basis:
    """What a study stands on.

    Args:
        folder: of the run.
        version: of the study.
        files: of the run or elsewhere; of a folder the names and sizes of its files count.
        ledgers: names of stages, whose finished items count.

    Raises:
        RunFolderError: a file is missing.
    """
    found: Basis = {"version": version}
    for path in files:
        found[place_of(folder, path)] = _identity(path)
    return found | {name: {"ledger": name, "sha256": _finished(folder, name)} for name in ledgers}


def place_of(folder: RunFolder, path: Path) -> str:
    """Where a file is, whatever folder it is named from; a run's own relative to the run, which may be moved."""
    whole = path if path.is_relative_to(folder.root) else path.expanduser().resolve()
    return str(whole.relative_to(folder.root) if whole.is_relative_to(folder.root) else whole)


def unlike(one: Basis, other: Basis) -> tuple[str, ...]:
    """Names of what only one stands on, or what has other contents in the other."""
    old, new = _contents(one), _contents(other)
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _contents(basis: Basis) -> dict[str, Any]:
    """By place: the hash; and the version."""
    files = {known.get("path", name): known["sha256"] for name, known in basis.items() if name != "version"}
    return {**files, "version": basis.get("version")}


def changes(folder: RunFolder, basis: Mapping[str, Any], version: int) -> tuple[str, ...]:
    """Names of what is no longer as it was; a file copied with its run counts by its content."""
    return tuple(name for name, known in basis.items() if not _is_same(folder, name, known, version))


def _is_same(folder: RunFolder, name: str, known: Any, version: int) -> bool:
    if name == "version":
        return bool(known == version)
    if "ledger" in known:
        return bool(known["sha256"] == _finished(folder, known["ledger"]))
    identity = FileIdentity(known["size"], known["mtime_ns"], known["sha256"])
    return identity.fits(folder.root / known.get("path", name))


def _identity(path: Path) -> dict[str, Any]:
    try:
        return asdict(FileIdentity.of(path))
    except FileNotFoundError:
        raise RunFolderError(
            f"{str(path)!r} is missing, and the study stands on it: restore it, or run again"
        ) from None


def _finished(folder: RunFolder, stage: str) -> str:
    """Hash of the items of a stage: another one where something was done again, or more was done."""
    return hashlib.sha256(json.dumps(folder.ledger(stage).items(), sort_keys=True).encode()).hexdigest()
