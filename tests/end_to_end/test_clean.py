"""``inference-graphs clean --columns``: what stays works, what misses the columns says so, and they come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from tests.end_to_end.folder_runs import Refused
from tests.end_to_end.small_digits import activations, command, copy_until, run_arguments
from tests.workflows.asking.made_study import SCHEMA, STUDY, run_census
from workflows.asking.registry import STUDIES
from workflows.asking.study import Asked
from workflows.cli.status import stage_statuses
from workflows.storage.run_folder import RunFolder, size_of
from workflows.storage.schemas import SCHEMAS
from workflows.storage.study_folder import StudyFolder


@pytest.fixture
def root(digits_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture
def census(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, STUDY.name, STUDY)
    monkeypatch.setitem(SCHEMAS, STUDY.name, SCHEMA)


def files(root: Path) -> dict[str, bytes]:
    """By name; not what says who holds the folder."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def clean(root: Path, *options: str) -> None:
    assert command(["clean", str(root), "--columns", *options]) == 0


def test_a_dry_run_says_what_and_frees_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    capsys.readouterr()
    clean(root, "--dry-run", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == {name: size_of(root / name) for name in ("activations", "predictions")}
    assert found["bytes"]["activations"] > sum(size_of(root / name) for name in ("words", "mixtures", "cooccurrence"))
    assert found["freed"] is False
    assert found["seconds_to_restore"] > 0
    assert files(root) == before


def test_nothing_is_freed_without_a_yes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say_no(*words: object, **how: object) -> None:
        raise typer.Abort

    monkeypatch.setattr("typer.confirm", say_no)
    assert command(["clean", str(root), "--columns"]) == 1
    assert (root / "activations").exists()


def test_what_stays_works(root: Path, digits_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    clean(root, "--yes")
    after = files(root)
    assert {name.split("/")[0] for name in before.keys() - after.keys()} == {"activations", "predictions"}
    assert {name for name in after if after[name] != before[name]} == {"ledgers/extract.jsonl"}
    capsys.readouterr()
    assert command(["status", str(root)]) == 0
    assert "extract cleaned 25 0 0" in told(capsys)
    extract = next(stage for stage in stage_statuses(root) if stage.name == "extract")
    assert (extract.state, extract.left, extract.size) == ("cleaned", 0, 0)
    assert command(["show", str(root), "--class", "3"]) == 0
    assert "Inference graph of class 3" in told(capsys)
    assert command(run_arguments(root, digits_weights)) == 0
    assert told(capsys) == f"run folder {root}"
    other = run_arguments(root, digits_weights, "mine.top=2", until="mine")
    assert command(other) == 0, "graphs are mined from what stays"
    assert not (root / "activations").exists()
    capsys.readouterr()
    clean(root, "--yes")
    assert "0 B in all" in told(capsys)


@pytest.mark.usefixtures("census")
def test_a_study_asks_a_cleaned_run(root: Path) -> None:
    clean(root, "--yes")
    assert run_census(Asked(root, Console(quiet=True)))["counted"] == 625


@pytest.mark.usefixtures("census")
def test_columns_come_back_bit_for_bit(root: Path, digits_weights: Path, digits_run: Path, refused: Refused) -> None:
    run_census(Asked(root, Console(quiet=True)))
    clean(root, "--yes")
    again = run_arguments(root, digits_weights)
    ledger = root / "ledgers" / "words.jsonl"
    kept = ledger.read_bytes()
    ledger.unlink()
    words = refused(again, "must have its columns for words, but `clean --columns` freed them", "--restore-columns")
    assert "(the extraction took " in words
    assert not (root / "activations").exists()
    ledger.write_bytes(kept)
    drawn = (root / "figures" / "class-3.png").stat().st_mtime_ns
    assert command([*again, "--restore-columns"]) == 0
    assert (root / "figures" / "class-3.png").stat().st_mtime_ns == drawn, "stages behind it stay done"
    for layer, columns in activations(digits_run).items():
        assert np.array_equal(columns, activations(root)[layer]), layer
    assert StudyFolder(RunFolder.open(root), STUDY).state().state == "done", "images.parquet is what it was"
    assert {stage.state for stage in stage_statuses(root)} == {"done"}
    assert command([*again, "--restore-columns"]) == 0, "nothing to restore"


def test_a_restoration_that_was_stopped_goes_on(root: Path, digits_weights: Path) -> None:
    clean(root, "--yes")
    ledger = RunFolder.open(root).ledger("extract")
    ledger.restore()
    assert not ledger.items()
    assert command(run_arguments(root, digits_weights)) == 0
    assert (root / "activations").exists()
    assert {stage.state for stage in stage_statuses(root)} == {"done"}


def test_other_versions_are_refused_before_anything_is_marked(
    root: Path, digits_weights: Path, refused: Refused
) -> None:
    clean(root, "--yes")
    record = json.loads((root / "run.json").read_text())
    record["versions"] = [{**record["versions"][-1], "numpy": "0.1"}]
    (root / "run.json").write_text(json.dumps(record))
    refused([*run_arguments(root, digits_weights), "--restore-columns"], "was begun with other versions", "numpy: ")
    assert RunFolder.open(root).ledger("extract").items()


def test_an_unfinished_run_keeps_its_columns(digits_run: Path, tmp_path: Path, refused: Refused) -> None:
    root = copy_until(digits_run, tmp_path / "run", "fit")
    refused(
        ["clean", str(root), "--columns", "--yes"],
        "clean --columns: must be a run whose columns nothing waits for",
        "whose stage 'errors' is not done; finish the run first",
    )
    assert (root / "activations").exists()
    refused(["clean", str(root)], "clean: must be told what to free, got nothing; give --columns")


def test_a_sweep_of_a_cleaned_run_is_refused(root: Path, digits_weights: Path, refused: Refused) -> None:
    clean(root, "--yes")
    sweep = ["sweep", *run_arguments(root, digits_weights)[1:], "--words", "5", "--losses", "generative"]
    refused(sweep, "must have its columns for sweep, but `clean --columns` freed them", "--restore-columns")
