"""What every study has: claims, shards, parts, resumption, summary and status, through a made study."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.end_to_end.small_digits import command, copy_until
from tests.workflows.asking.made_study import SCHEMA, STUDY, run_census
from workflows.asking.image_parts import cut_images
from workflows.asking.registry import STUDIES
from workflows.asking.run_masks import masks_place
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.cli.status import study_statuses
from workflows.errors import BudgetError, DataError, RunFolderError, SettingsError, ShardError
from workflows.plan.requests import chosen_classes
from workflows.plan.run_plan import Plan
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.schemas import SCHEMAS
from workflows.storage.study_folder import StudyFolder
from workflows.storage.tables import read_table

IMAGES = 625


@pytest.fixture(autouse=True)
def census(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, STUDY.name, STUDY)
    monkeypatch.setitem(SCHEMAS, STUDY.name, SCHEMA)


@pytest.fixture
def root(digits_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture(scope="module")
def answered(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A run that was asked, for reading only; what was said, and the summary."""
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("answered") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, STUDY.name, STUDY)
        patch.setitem(SCHEMAS, STUDY.name, SCHEMA)
        how = asked(root)
        summary = run_census(how)
    return root, how.text, summary


@pytest.fixture
def asked_before(answered: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(answered[0], tmp_path / "run")


class Told(Asked):
    """A way to ask that keeps what was said."""

    @property
    def text(self) -> str:
        return " ".join(self.console.file.getvalue().split())  # type: ignore[attr-defined]


def asked(root: Path, **how: object) -> Told:
    return Told(root, Console(file=io.StringIO(), width=200), **how)  # type: ignore[arg-type]


def ask(root: Path, how: Told | None = None, reads: Sequence[str | Path] = (), **request: Any) -> bool:
    """Without looking at an image; whether it was not answered before."""
    with open_study("census", how or asked(root), request, reads=reads) as study:
        began = study.begin()
        if began:
            study.write_table("census", [{"class": label, "images": 0} for label in request["classes"]])
    return began


def state(root: Path) -> tuple[str, int, int | None]:
    found = StudyFolder(RunFolder.open(root), STUDY).state()
    return found.state, found.done, found.total


def counted(root: Path) -> dict[int, int]:
    table = read_table(root / "census.parquet").to_pydict()
    return dict(zip(table["class"], table["images"], strict=True))


def test_an_answer_is_whole_and_told_once(answered: tuple[Path, str, dict[str, Any]]) -> None:
    root, text, summary = answered
    predicted = ImageColumns.read(RunFolder.open(root), 0, IMAGES).predicted
    assert counted(root) == dict(enumerate(np.bincount(predicted, minlength=10).tolist()))
    assert (summary["counted"], summary["study"], summary["request"]) == (IMAGES, "census", {"images": None})
    assert summary["tables"] == {"census": str(root / "census.parquet")}
    assert json.loads(json.dumps(summary)) == summary
    assert "census: 1,250 passes in 25 shards, about" in text
    assert "disk 27.5 kB of" in text
    assert state(root) == ("done", 25, 25)
    assert not StudyFolder(RunFolder.open(root), STUDY).parts.exists()
    again = asked(root)
    assert run_census(again) == summary
    assert "census has answered this before; --anew asks again" in again.text


@pytest.mark.slow  # killed runs are among the fast tests; here a study
def test_killed_at_a_shard_it_goes_on_with_that_one(
    root: Path, tmp_path: Path, answered: tuple[Path, str, dict[str, Any]]
) -> None:
    deadly = tmp_path / "deadly"
    deadly.touch()
    with pytest.raises(ShardError, match="are left out, 24 are done"):
        run_census(asked(root), deadly)
    assert state(root) == ("partial", 24, 25)
    with pytest.raises(RunFolderError, match=r"24 of 25 shards are done, got images 100 instead of None; give the arg"):
        run_census(asked(root, images=100))
    parts = sorted(StudyFolder(RunFolder.open(root), STUDY).parts.rglob("*.npz"))
    parts[7].unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts if path != parts[7]}
    deadly.unlink()
    seen = {}

    def look(study: StudyContext) -> None:
        seen.update({path: path.stat().st_mtime_ns for path in kept if path.exists()})

    told = asked(root)
    assert run_census(told, look=look)["counted"] == IMAGES
    assert "census: 100 passes in 2 shards" in told.text, "the one that failed and the one whose part is gone"
    assert seen == kept, "no other part is written again"
    assert counted(root) == counted(answered[0])


def test_another_request_replaces_the_answer(root: Path) -> None:
    ask(root, classes=[3])
    told = asked(root)
    assert ask(root, told, classes=[5, 8])
    assert "census was asked otherwise before (classes [5, 8] instead of [3]): it begins anew" in told.text
    assert sorted(counted(root)) == [5, 8]


def test_another_request_may_stand_on_other_files(root: Path, tmp_path: Path) -> None:
    """Other masks, or the table of another study, are no change of the run."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for path in (one, other):
        path.write_text(path.name)
    ask(root, reads=[one], classes=[3], masks="one")
    told = asked(root)
    assert ask(root, told, reads=[other, "nodes"], classes=[3], masks="other")
    assert "census was asked otherwise before (masks 'other' instead of 'one'): it begins anew" in told.text
    with pytest.raises(RunFolderError, match=r"but .*one\.json, .*other\.json changed since; --anew removes"):
        ask(root, reads=[one, "nodes"], classes=[3], masks="other")
    other.write_text("OTHER.json")
    with pytest.raises(RunFolderError, match=r"other\.json changed since; --anew removes"):
        ask(root, reads=[one], classes=[3], masks="one")


def test_files_of_one_name_are_told_apart(root: Path, tmp_path: Path) -> None:
    """``--checkpoints other/notes.bin`` stands beside the run's own file of that name."""
    (root / "notes.bin").write_bytes(b"own")
    other = tmp_path / "other" / "notes.bin"
    other.parent.mkdir()
    other.write_bytes(b"not")
    ask(root, reads=[root / "notes.bin", other], classes=[3])
    (root / "notes.bin").write_bytes(b"new")
    (changed,) = [study.changed for study in study_statuses(root) if study.name == "census"]
    assert changed == ("notes.bin",)


def test_masks_are_named_by_where_they_are(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(root)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert masks_place(run, "coco:m.json#part") == f"coco:{tmp_path / name / 'm.json'}#part"
    assert masks_place(run, f"boxes:{root}/own.csv") == "boxes:own.csv"


def test_a_moved_run_has_its_own_weights(root: Path, tmp_path: Path) -> None:
    (root / "weights.pt").write_bytes(b"trained")
    plan = json.loads((root / "plan.json").read_text())
    (root / "plan.json").write_text(json.dumps({**plan, "weights": str(root / "weights.pt"), "weights_file": None}))
    ask(root, classes=[3])
    moved = root.rename(tmp_path / "moved")
    assert Plan.read(RunFolder.open(moved)).weights == str(moved / "weights.pt")
    assert state(moved)[0] == "done"
    assert not ask(moved, classes=[3]), "it has answered this before"


def test_a_basis_of_before_is_understood(root: Path) -> None:
    """Files were known by their name, with their place beside it."""
    ask(root, classes=[3])
    file = root / "census" / "request.json"
    record = json.loads(file.read_text())
    for place, known in list(record["basis"].items()):
        if "size" in known if isinstance(known, dict) else False:
            record["basis"][Path(place).name] = {"path": place, **record["basis"].pop(place)}
    file.write_text(json.dumps(record))
    assert not ask(root, classes=[3])


def test_some_images_are_spread_evenly_over_classes(root: Path) -> None:
    told = asked(root, images=50)
    assert run_census(told)["counted"] == 50
    assert "50 of 625 images, spread evenly over 10 classes" in told.text
    assert run_census(asked(root, images=50, anew=True))["request"] == {"images": 50}


@pytest.mark.parametrize("change", ["plan.json", "images.parquet", "fit"])
def test_a_run_that_changed_since_is_refused(asked_before: Path, change: str) -> None:
    root = asked_before
    if change == "fit":
        RunFolder.open(root).ledger("fit").record("class-3/add1", seconds=1.0)
    else:
        with (root / change).open("ab") as file:
            file.write(b" ")
    assert state(root)[0] == "stale"
    with pytest.raises(RunFolderError, match=f"{change} changed since; --anew removes what the study has written, and"):
        run_census(asked(root))
    if change == "plan.json":
        before = {path for path in root.rglob("*") if "census" not in str(path.relative_to(root))}
        run_census(asked(root, anew=True))
        assert {path for path in root.rglob("*") if "census" not in str(path.relative_to(root))} == before
        assert state(root)[0] == "done"


def test_a_copied_run_is_the_same_run(answered: tuple[Path, str, dict[str, Any]], tmp_path: Path) -> None:
    copied = shutil.copytree(answered[0], tmp_path / "copied", copy_function=shutil.copyfile)
    assert state(copied) == ("done", 25, 25)
    again = asked(copied)
    run_census(again)
    assert "has answered this before" in again.text


def test_an_unfinished_run_is_refused(digits_run: Path, tmp_path: Path) -> None:
    root = copy_until(digits_run, tmp_path / "run", "fit")
    with pytest.raises(
        RunFolderError, match=r"census: must have a run that is done up to its stage 'words', got .*'err"
    ):
        run_census(asked(root))
    assert not (root / "census").exists()


def test_too_little_disk_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workflows.asking import made_study

    phase = made_study.Phase
    monkeypatch.setattr(made_study, "Phase", lambda name, images, **how: phase(name, images, 1.0, 10**15))
    with pytest.raises(BudgetError, match=r"more disk in .*ask for fewer images with --images"):
        run_census(asked(root))


def test_what_a_study_refuses_itself_leaves_no_trace(asked_before: Path) -> None:
    before = StudyFolder(RunFolder.open(asked_before), STUDY).state()
    with pytest.raises(SettingsError, match="census: must have an image to look at, got none; ask for other images"):
        run_census(asked(asked_before, anew=True), among=[9999])
    assert StudyFolder(RunFolder.open(asked_before), STUDY).state() == before


def test_status_lists_studies(digits_run: Path, asked_before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = asked_before
    assert [study.state for study in study_statuses(digits_run) if study.name == "census"] == ["not asked"]
    capsys.readouterr()
    assert command(["status", str(root)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "census done how many images are called each class? census.parquet, " in told
    assert command(["status", str(root), "--json"]) == 0
    (found,) = [one for one in json.loads(capsys.readouterr().out)["studies"] if one["name"] == "census"]
    assert (found["state"], found["done"], found["total"], found["changed"]) == ("done", 25, 25, [])
    (root / "plan.json").write_text((root / "plan.json").read_text() + "\n")
    assert command(["status", str(root)]) == 0
    assert "plan.json changed since: ask again with --anew" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("n", [1, 7, 100, 625, 12_345])
def test_shards_hold_every_image_once_within_run_shards(n: int) -> None:
    images = np.sort(np.random.default_rng(n).choice(20_000, n, replace=False))
    shards = cut_images(images, batch=20, images_per_shard=500)
    assert [image for shard in shards for image in shard.images] == images.tolist()
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(len({image // 500 for image in shard.images}) == 1 for shard in shards)
    assert max(map(len, shards)) <= 500
    assert len(shards) <= max(48, n // 8)


def test_classes_by_name_id_or_all() -> None:
    names, labels = ("cat", "dog", "fox"), np.array([0, 0, 2, -1])
    assert chosen_classes(["fox", "0"], names, labels) == ([0, 2], [])
    assert chosen_classes(["all"], names, labels) == ([0, 2], ["dog"])
    with pytest.raises(DataError, match="--class: there is no class 'foxx'; did you mean fox"):
        chosen_classes(["foxx"], names, labels)
    with pytest.raises(DataError, match="--class: must be a class that some image has, got 'dog'"):
        chosen_classes(["dog"], names, labels)
