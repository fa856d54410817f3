"""``publish``: what readers want is there, and what is there already is not copied again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.conftest import BuildOnce
from tests.end_to_end.folder_runs import write_folder_run
from tests.end_to_end.small_digits import command as command_line
from tests.workflows.data.made_files import encoded, noise
from workflows.cli import publish as command
from workflows.storage import object_store
from workflows.storage.object_store import files_below, look_at, read_file, upload

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def publish(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return command_line(["publish", *arguments]), *capsys.readouterr()

    return publish


@pytest.fixture
def run(tmp_path: Path, build_once: BuildOnce) -> Path:
    """A run behind its index, with figures, a site, and a little of what is not for readers."""

    def index(root: Path) -> None:
        made = write_folder_run(root.parent / "made", images_a_class=6)
        assert command_line([*made.arguments()[:3], str(root), *made.arguments()[4:]]) == 0

    root = shutil.copytree(build_once("published", index), tmp_path / "run")
    for name in ("figures/class-3.png", "figures/list-a/class-3.png", "site/index.html", "mixtures/joint/a.npz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(noise(4, 4)) if name.endswith("png") else name.encode())
    (root / "figures" / ".half.png.tmp").write_bytes(b"")
    return root


def test_readers_find_tables_figures_and_the_site(run: Path, bucket: str, call: Call, tmp_path: Path) -> None:
    target = f"{bucket}/runs/folders"
    code, out, _ = call(str(run), target, "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0
    assert not list(files_below(target))
    code, out, _ = call(str(run), f"{target}/", "--json")
    assert code == 0
    assert json.loads(out) == planned | {"copied": True}
    held = {file.uri.removeprefix(f"{target}/"): file for file in files_below(target)}
    assert {"images.parquet", "run.json", "plan.json", "figures/class-3.png", "site/index.html"} <= held.keys()
    assert not any(name.startswith(("mixtures", "ledgers", "figures/.")) for name in held)
    for name in held:
        assert read_file(f"{target}/{name}") == (run / name).read_bytes()
    (tmp_path / "images.parquet").write_bytes(read_file(f"{target}/images.parquet"))
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/images.parquet'").fetchall()[0][0] > 0


def test_what_is_equal_is_skipped(run: Path, bucket: str, call: Call) -> None:
    target = f"{bucket}/runs/again"
    assert call(str(run), target)[0] == 0
    before = look_at(f"{target}/images.parquet")
    code, out, _ = call(str(run), target)
    assert code == 0
    assert out.startswith("0 files, 0 B copied; ")
    assert look_at(f"{target}/images.parquet") == before
    # Same size and an older time, other content.
    table = run / "plan.json"
    table.write_bytes(table.read_bytes().replace(b"1", b"2"))
    code, out, _ = call(str(run), target, "--dry-run")
    assert out.splitlines()[0] == f"{target}/plan.json"
    assert "1 files" in out


def test_a_stopped_copy_goes_on(run: Path, bucket: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{bucket}/runs/stopped"

    def stopped(source: Path, uri: str) -> None:
        if uri.endswith("plan.json"):
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            object_store._store.cache_clear()
            monkeypatch.setattr(object_store, "_WAITING", {"max_retries": 0})
        upload(source, uri)

    with monkeypatch.context() as patch:
        patch.setattr(command, "_AT_ONCE", 1)
        patch.setattr(command, "upload", stopped)
        code, _, errors = call(str(run), target)
    assert code == 1
    assert "does not answer" in errors
    assert "goes on with what is left" in errors
    monkeypatch.undo()
    object_store._store.cache_clear()
    there = len(list(files_below(target)))
    assert there
    assert command_line(["publish", str(run), target]) == 0
    assert look_at(f"{target}/plan.json").size == (run / "plan.json").stat().st_size


def test_large_files_in_parts_are_told_equal(bucket: str, tmp_path: Path) -> None:
    large, uri = tmp_path / "large", f"{bucket}/large"
    large.write_bytes(np.random.default_rng(0).bytes(object_store.PART_BYTES + 5))
    upload(large, uri)
    assert "-2" in str(look_at(uri).etag)
    assert command._is_equal(large, look_at(uri))
    with large.open("r+b") as out:
        out.write(b"another")
    assert not command._is_equal(large, look_at(uri))


def test_what_is_refused(run: Path, call: Call) -> None:
    for target in ("elsewhere", "https://host/a"):
        code, _, errors = call(str(run), target)
        assert code == 2
        assert "publish: must be told a URI that can be written" in errors
    code, _, errors = call(str(run), "s3://no-such-bucket/a")
    assert code == 2
    assert "cannot be listed" in errors
    assert "no such bucket" in errors
