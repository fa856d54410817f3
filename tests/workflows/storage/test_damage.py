"""Files of a run that were cut off or written over are named with what to do; what the system refuses is not damage."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.folder_runs import write_folder_run
from tests.end_to_end.small_digits import command
from workflows.errors import RunFolderError, StorageFault
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import joint_scope, read_scopes, write_scopes
from workflows.storage.images_table import ImageColumns
from workflows.storage.ledger import Ledger
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.storage.verifying import damage

READERS: dict[str, Callable[[RunFolder], object]] = {
    "images.parquet": lambda folder: ImageColumns.read(folder, 0, 10),
    "plan.json": Plan.read,
    "scopes.json": read_scopes,
    "ledgers/index.jsonl": lambda folder: folder.ledger("index").content(),
    "run.json": RunFolder.settings,
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was indexed and has scopes."""
    run = write_folder_run(tmp_path_factory.mktemp("damage"), images_a_class=4)
    assert command(run.arguments()) == 0
    folder = RunFolder.open(run.out)
    write_scopes(folder, [joint_scope(Plan.read(folder))])
    return run.out


@pytest.fixture
def folder(indexed: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(indexed, tmp_path / "run"))


def written_over(content: bytes) -> list[bytes]:
    """Ways in which a file is damaged: cut off, empty, a byte flipped, other content, zeros after a power cut."""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    return [
        content[: len(content) // 2],
        b"",
        bytes(flipped),
        b"3\n",
        b"[]\n",
        b'{"a": 1}\n',
        b"null\n",
        bytes(64),
        b"\xff\n",
    ]


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_with_what_to_do(folder: RunFolder, name: str) -> None:
    path = folder.root / name
    whole = path.read_bytes()
    refusals = []
    for content in written_over(whole):
        path.write_bytes(content)
        try:
            READERS[name](folder)
        except RunFolderError as error:
            refusals.append(str(error))
    assert len(refusals) >= 3
    for words in refusals:
        assert "\n" not in words
        assert str(folder.root) in words
        assert "delete" in words or "another --out" in words


def test_the_names_of_scopes_are_read_where_they_are_whole(folder: RunFolder) -> None:
    folder.scopes_file.write_text('[{"labels": []}]')
    with pytest.raises(RunFolderError, match=r"scopes\.json' is damaged .*delete it and ledgers/fit\.jsonl"):
        folder.scope_names()


@pytest.mark.parametrize(
    "line", ["3", "[]", "{}", '{"time": 1}', '{"mark": "begin", "time": 1}', '{"item": [1], "fields": {}, "time": 1}']
)
def test_a_line_that_is_json_but_no_record_is_damage(tmp_path: Path, line: str) -> None:
    ledger = Ledger(tmp_path / "fit.jsonl")
    ledger.begin("inputs", 2)
    with ledger.path.open("a") as file:
        file.write(f"{line}\n")
    ledger.record("a", seconds=1.0)
    with pytest.raises(RunFolderError, match=r"line 2 of .*fit\.jsonl' is damaged: delete that file to redo the stage"):
        ledger.content()


def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run --verify`` would have made again what is whole, as soon as its storage is back."""
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b"whole")
    assert damage(path) is None

    def away(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr("zipfile.ZipFile.testzip", away)
    with pytest.raises(StorageFault, match=r"weights\.pt' cannot be read .*Stale file handle"):
        damage(path)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:20])
    assert damage(path) == ()


def test_what_the_system_refuses_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "nodes.parquet").symlink_to("nodes.parquet")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        read_table(tmp_path / "nodes.parquet")
