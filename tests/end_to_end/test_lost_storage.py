"""Storage that goes away for a while, files that are changed or deleted between two commands."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.folder_runs import FolderRun, Refused, save_weights, write_folder_run
from tests.end_to_end.killing import ledger
from tests.end_to_end.small_digits import SCOPE, activations, command, run_arguments
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("local_ray")
QUICK = ("runtime.actors=1", "runtime.retry_wait_s=0.1", "runtime.max_attempts=2")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, local_ray: object) -> FolderRun:
    """A run that is done up to its extract stage; for copying and for what leaves it as it was."""
    run = write_folder_run(tmp_path_factory.mktemp("extracted"), images_a_class=14)
    assert command(run.arguments(QUICK, until="extract")) == 0
    return run


def redone(root: Path, stage: str, since: int) -> list[object]:
    """Items of the lines that were written behind so many."""
    lines = (root / "ledgers" / f"{stage}.jsonl").read_text().splitlines()[since:]
    return [line["item"] for line in map(json.loads, lines) if "fields" in line and "item" in line]


def lines_of(root: Path, stage: str) -> int:
    return len((root / "ledgers" / f"{stage}.jsonl").read_text().splitlines())


def test_pictures_that_are_away_for_a_while_are_not_broken(tmp_path: Path, refused: Refused) -> None:
    run = write_folder_run(tmp_path, images_a_class=14)
    assert command(run.arguments(QUICK)) == 0
    (run.images / "fox").rename(tmp_path / "away")
    told = refused(run.arguments(QUICK, until="extract"), "failed 2 times each", "fox/image", "No such file", status=1)
    assert "see to its storage and its rights, then run the same command again" in told
    content = ledger(run.out, "extract")
    assert content.failed
    assert not content.done
    assert not any(record["broken"] for record in content.items.values())
    (tmp_path / "away").rename(run.images / "fox")
    assert command(run.arguments(QUICK, until="extract")) == 0
    assert set(read_table(run.out / "images.parquet")["status"].to_pylist()) == {"ok"}


def test_unread_shards_of_an_earlier_version_are_redone(extracted: FolderRun, tmp_path: Path) -> None:
    out = Path(shutil.copytree(extracted.out, tmp_path / "out"))
    path = out / "ledgers" / "extract.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"end"' not in line]
    for number, line in enumerate(lines):
        record = json.loads(line)
        if record.get("item") == 1:
            record["fields"]["broken"] = [[image, "cannot be read: Stale file handle"] for image in range(20, 40)]
            lines[number] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    arguments = extracted.arguments(QUICK, until="extract")
    arguments[arguments.index("--out") + 1] = str(out)
    assert command(arguments) == 0
    assert redone(out, "extract", len(lines)) == [1]
    assert not any(record["broken"] for record in ledger(out, "extract").items.values())


def test_inputs_that_changed_since_are_refused(extracted: FolderRun, refused: Refused) -> None:
    kept = extracted.weights.read_bytes(), extracted.weights.stat()
    state = save_weights(extracted.weights)
    state["linear.bias"][0] += 1
    __import__("torch").save(state, extracted.weights)
    words = ("holds a run of other inputs", f"network.weights '{extracted.weights}': the folder has SHA-256")
    refused(extracted.arguments(QUICK, until="mine"), *words)
    extracted.weights.write_bytes(kept[0])
    assert command(extracted.arguments(QUICK, until="extract")) == 0, "the same bytes at another time"


def test_a_picture_that_changed_since_the_index_is_refused(tmp_path: Path, refused: Refused) -> None:
    run = write_folder_run(tmp_path, images_a_class=14)
    assert command(run.arguments(QUICK)) == 0
    picture = run.images / "fox" / "image3.png"
    size = picture.stat().st_size
    picture.write_bytes(picture.read_bytes() + b"more")
    words = (
        f"'{picture}' must be the file that the run has indexed",
        f"the index has {size} bytes, the file {size + 4}",
    )
    refused(run.arguments(QUICK, until="extract"), *words)


def test_a_damaged_shard_is_made_again_by_verify(extracted: FolderRun, tmp_path: Path) -> None:
    out = Path(shutil.copytree(extracted.out, tmp_path / "out"))
    arguments = extracted.arguments(QUICK, until="extract")
    arguments[arguments.index("--out") + 1] = str(out)
    before = activations(out)
    shard = RunFolder(out).activations("layer3.0.add") / "c" / "1" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    (RunFolder(out).activations("layer2.0.add") / "c" / "2" / "0" / "0").unlink()
    since = lines_of(out, "extract")
    assert command(arguments) == 0
    assert lines_of(out, "extract") == since, "names are there"
    assert command([*arguments, "--verify"]) == 0
    assert sorted(redone(out, "extract", since)) == [1, 2]
    for layer, columns in activations(out).items():
        assert np.array_equal(columns, before[layer])
    since = lines_of(out, "extract")
    assert command([*arguments, "--verify"]) == 0
    assert lines_of(out, "extract") == since


@pytest.mark.slow
def test_what_was_deleted_is_made_again(
    digits_run: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(digits_run, tmp_path / "out"))
    folder = RunFolder(out)
    tables = {name: read_table(out / f"{name}.parquet") for name in ("images", "words", "nodes", "edges", "heatmaps")}
    figure, layer = folder.figure("class:3", "svg"), "layer3.0.add"
    lost = [figure, folder.mixture(SCOPE, layer), folder.word_summary(SCOPE, layer)]
    lost += [out / f"{name}.parquet" for name in ("nodes", "images", "words")]
    for path in lost:
        path.unlink()
    shutil.rmtree(folder.words(SCOPE, layer))
    since = {stage: lines_of(out, stage) for stage in ("extract", "fit", "words", "count", "draw")}
    capsys.readouterr()
    assert command(run_arguments(out, digits_weights)) == 0
    told = capsys.readouterr().out
    assert "index: images.parquet missing or damaged, 1 item is done again" in told
    assert "draw: figures/class-3.svg missing or damaged, 1 item is done again" in told
    assert all(path.exists() for path in lost)
    assert redone(out, "extract", since["extract"]) == []
    assert redone(out, "fit", since["fit"]) == [layer]
    assert len(redone(out, "words", since["words"])) == len(ledger(digits_run, "words").items)
    assert redone(out, "count", since["count"]) == [layer]
    assert redone(out, "draw", since["draw"]) == ["class:3"]
    for name, table in tables.items():
        assert read_table(out / f"{name}.parquet").equals(table), name


@pytest.mark.parametrize("made", ["digits_run", "chain_run"])
def test_a_whole_run_has_lost_nothing(request: pytest.FixtureRequest, made: str) -> None:
    from workflows.pipeline import stages_of
    from workflows.plan.expected import Made, find_lost
    from workflows.plan.run_plan import Plan
    from workflows.storage.verifying import damage

    folder = RunFolder.open(request.getfixturevalue(made))
    settings, plan = folder.settings(), Plan.read(folder)
    for stage in stages_of(settings):
        content = folder.ledger(stage.name).content()
        lost = find_lost(stage.name, Made(folder, settings, plan, content), damage)
        assert not lost.paths, stage.name
        nowhere = Made(RunFolder(folder.root / "nowhere"), settings, plan, content)
        if content.items:
            assert find_lost(stage.name, nowhere).items == content.items.keys(), stage.name


def test_nothing_is_in_a_ledger_before_it_is_on_the_disk(extracted: FolderRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of a shard are there when the disk is told, and nothing is written after."""
    from workflows.data.shards import Shard
    from workflows.plan.run_plan import Plan
    from workflows.stages import extract
    from workflows.storage import atomic

    folder = RunFolder.open(extracted.out)
    worker = extract.ExtractWorker(folder.settings(), Plan.read(folder), folder)
    seen: list[int] = []
    real = atomic._syncfs

    def newest() -> int:
        return max(path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file())

    def told(descriptor: int) -> int:
        assert os.path.samestat(os.fstat(descriptor), folder.root.stat())
        seen.append(newest())
        return int(real(descriptor))

    monkeypatch.setattr(atomic, "_syncfs", told)
    before = newest()
    worker(Shard(1, 20, 40))
    assert seen == [newest()]
    assert newest() > before
    monkeypatch.setattr(atomic, "_syncfs", lambda _: -1)
    with pytest.raises(OSError, match=r"^\[Errno"):
        worker(Shard(1, 20, 40))
