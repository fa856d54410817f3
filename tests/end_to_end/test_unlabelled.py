"""Images without classes: the whole run by likelihood alone, and what needs labels is left out and told, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import BuildOnce
from tests.end_to_end.folder_runs import CLASSES, FolderRun, Refused, assert_nothing_was_made, write_folder_run
from tests.end_to_end.small_digits import command
from workflows.run import open_run

pytestmark = pytest.mark.slow

UNLABELLED = ["data.labels=none"]


def flat(run: FolderRun) -> str:
    """All pictures in one folder, as many as there were; a file that is no picture beside them."""
    folder = run.root / "flat"
    folder.mkdir()
    for name in CLASSES:
        for picture in (run.images / name).iterdir():
            shutil.copy(picture, folder / f"{name}-{picture.name}")
    (folder / "notes.txt").write_text("which car is whose")
    return f"data.folders=['{folder}']"


@pytest.fixture(scope="module")
def unlabelled(build_once: BuildOnce, local_ray: object) -> FolderRun:
    def build(root: Path) -> None:
        root.mkdir(parents=True)
        run = write_folder_run(root)
        assert command(run.arguments([*UNLABELLED, flat(run)], until="draw")) == 0

    return FolderRun(build_once("unlabelled", build))


def test_tables_say_what_is_not_known(unlabelled: FolderRun) -> None:
    run = open_run(unlabelled.out)
    images = run.table("images")
    assert len(images) == 120
    assert images["label"].null_count == images["label_name"].null_count == 120
    assert images["predicted"].null_count == 0
    assert images["split"].to_pylist().count("validation") == 30
    assert run.image(3).label is None
    assert run.table("exemplars")["label"].null_count == len(run.table("exemplars"))
    assert not (unlabelled.out / "errors.parquet").exists()
    assert json.loads((unlabelled.out / "run.json").read_text())["settings"]["data"]["labels"] == "none"


def test_words_are_told_by_predicted_class(unlabelled: FolderRun) -> None:
    run = open_run(unlabelled.out)
    train = run.table("images", filters=[("split", "=", "train")]).to_pylist()
    for layer in run.plan.layers:
        words = run.words(layer.name).to_pylist()
        assert sum(row["columns"] for row in words) == len(train) * layer.positions
        assert all(row["dominant_class"] in {image["predicted"] for image in train} for row in words if row["columns"])
    for row in run.words("output").to_pylist():
        assert row["columns"] == sum(image["predicted"] == row["word"] for image in train)
        assert row["dominant_class"] in (row["word"], None)


def test_graphs_are_of_predicted_classes(unlabelled: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(unlabelled.out)
    validation = run.table("images", filters=[("split", "=", "validation")])
    predicted = sorted(set(validation["predicted"].to_pylist()))
    assert sorted(run.graphs()) == [f"class:{label}" for label in predicted]
    assert all(run.figure(graph).exists() for graph in run.graphs())
    capsys.readouterr()
    assert command(["show", str(unlabelled.out), "--class", str(predicted[0])]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(f"Inference graph of class {predicted[0]} layer word mostly")


def test_a_graph_of_an_image_has_no_true_class(
    unlabelled: FolderRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = FolderRun(tmp_path / "run")
    shutil.copytree(unlabelled.root, more.root)
    fields = [*UNLABELLED, f"data.folders=['{unlabelled.root / 'flat'}']", "mine.images=['misclassified', '110']"]
    fields += [f"network.weights={unlabelled.weights}"]
    assert command(more.arguments(fields, until="draw")) == 0
    run = open_run(more.out)
    assert [graph for graph in run.graphs() if graph.startswith("image")] == ["image:110"]
    capsys.readouterr()
    assert command(["show", str(more.out), "--image", "110"]) == 0
    told = capsys.readouterr().out
    assert "Inference graph of image 110: predicted" in told
    assert "true label" not in told


def test_what_is_left_out_is_told(run: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.arguments([*UNLABELLED, flat(run)])) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "warning data.labels = 'none': errors, neighbours and accuracy are left out" in told
    assert "1 file was left out: 1 without an image extension (.txt)" in told


def test_class_folders_are_read_as_one(run: FolderRun) -> None:
    assert command(run.arguments(UNLABELLED)) == 0
    assert open_run(run.out).plan.images == 18


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["fit.loss=discriminative"], "fit.loss: must be 'generative' with data.labels = 'none', got 'discriminative'"),
        (["fit.scopes=['class']"], "fit.scopes: must be ['joint'] with data.labels = 'none', got ['class'], which"),
        (
            ["network.weights=train", "training.epochs=1"],
            "network.weights: must name weights, or be trained for pictures",
        ),
        (["data.source=digits", "data.folders=[]"], "data.labels = 'none' must have source = 'folders', got 'digits'"),
        (
            ["data.masks=polygons"],
            "data.masks: must be one of coco, boxes, broden, labels, colours, a colon and a",
        ),
        (["data.folders=['nowhere']"], "is not a folder; give folders of images"),
    ],
)
def test_what_needs_labels_is_refused(run: FolderRun, refused: Refused, fields: Sequence[str], words: str) -> None:
    refused(run.arguments([*UNLABELLED, *fields]), words)
    assert_nothing_was_made(run)


def test_a_folder_without_images(run: FolderRun, refused: Refused) -> None:
    shutil.rmtree(run.images)
    run.images.mkdir()
    refused(run.arguments(UNLABELLED), "data.folders", "must hold images", "got none; name another folder")
    assert_nothing_was_made(run)
