"""Views of paths and junctions against the tables and arrays of a real run; what ``show`` prints of it."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.end_to_end.small_digits import activations, copy_until, word_maps
from workflows.cli.show import show_graph
from workflows.errors import DataError, RunFolderError
from workflows.figures.draw_paths import PathDrawWorker, path_items
from workflows.plan.run_plan import Plan
from workflows.report.chain_view import chosen_levels
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


@pytest.fixture(scope="module")
def worker(chain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> PathDrawWorker:
    """On a copy of the run, which may get more pictures."""
    root = tmp_path_factory.mktemp("drawn") / "run"
    shutil.copytree(chain_run, root)
    folder = RunFolder.open(root)
    return PathDrawWorker(folder.settings(), Plan.read(folder), folder)


def misclassified(worker: PathDrawWorker) -> list[dict]:
    rows = read_table(worker.folder.table("triage")).to_pylist()
    return [row for row in rows if row["split"] == "validation"]


def shown(root: Path, image: int, width: int = 100) -> str:
    stream = io.StringIO()
    show_graph(open_run(root), f"image:{image}", Console(file=stream, width=width))
    return stream.getvalue()


def test_items_are_requested_paths_and_the_worst_junctions(worker: PathDrawWorker) -> None:
    items = path_items(worker.folder, worker.settings, worker.plan)
    rows = misclassified(worker)
    assert items[:2] == [f"path:{row['image']}" for row in rows[:2]]
    junctions = read_table(worker.folder.table("junctions")).sort_by("rank").to_pylist()
    layers = [layer.name for layer in worker.plan.layers]
    expected = [
        f"junction:{layers.index(row['lower_layer']) + 1}-{row['lower_word']}"
        for row in junctions
        if row["junction"] != "start"
    ]
    assert items[2:] == expected[:2]
    none = worker.settings.draw.model_copy(update={"paths": (), "junctions": 0})
    assert path_items(worker.folder, worker.settings.model_copy(update={"draw": none}), worker.plan) == []


def test_a_path_of_an_image_that_is_not_there_is_refused(worker: PathDrawWorker) -> None:
    draw = worker.settings.draw.model_copy(update={"paths": ("650",)})
    with pytest.raises(DataError, match=r"draw\.paths: '650' is no image; give ids from 0 to 649"):
        path_items(worker.folder, worker.settings.model_copy(update={"draw": draw}), worker.plan)


def test_a_path_holds_the_rows_of_its_image(worker: PathDrawWorker) -> None:
    row = misclassified(worker)[0]
    path = worker.path(row["image"])
    rows = read_table(worker.folder.table("paths"), filters=[("image", "=", row["image"])]).sort_by("level").to_pylist()
    assert [(step.level, step.word.layer, step.word.word) for step in path.steps] == [
        (each["level"], each["layer"], each["word"]) for each in rows
    ]
    assert [step.log_odds for step in path.steps] == [each["runner_up_log_odds"] for each in rows]
    assert (path.image.true_name, path.image.predicted_name) == (row["label_name"], row["predicted_name"])
    assert path.departure is not None
    assert (path.departure.level, path.departure.taken.word) == (row["level"], row["upper_word"])
    words = read_table(worker.folder.table("words")).to_pylist()
    named = {(each["layer"], each["word"]): each for each in words}
    for step in path.steps:
        expected = named[step.word.layer, step.word.word]
        assert step.word.dominant_class == (expected["dominant_name"] or "")
    assert path.image.picture is not None
    assert path.image.picture.shape == (32, 32, 3)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_junction_of_a_path_counts_the_training_images(worker: PathDrawWorker, level: int) -> None:
    row = misclassified(worker)[0]
    path = worker.path(row["image"])
    view = worker.junction_of(path, level)
    images = ImageColumns.read(worker.folder, 0, worker.plan.train_images)
    maps = {name: words[: worker.plan.train_images, 0, 0] for name, words in word_maps(worker.folder.root).items()}
    layers = [layer.name for layer in worker.plan.layers]
    word = path.step(level).word.word
    members = np.flatnonzero(maps[layers[level - 1]] == word)
    upper = images.predicted if level == 3 else maps[layers[level]]
    counts = Counter(upper[members].tolist())
    assert (view.members, view.shown) == (len(members), len(members))
    found = {part.word.word: part.members for part in view.subclusters}
    large = {other: count for other, count in counts.most_common(8) if count >= 0.01 * len(members)}
    assert found.items() >= large.items()
    assert set(found) - set(large) <= {part.word.word for part in view.subclusters if part.taken or part.expected}
    for part in view.subclusters:
        own = [int(image) for image in members if upper[image] == part.word.word]
        assert {example.image for example in part.examples} <= set(own)
        assert len(part.examples) == min(3, len(own))
        assert part.taken == (part.word.word == path.step(level + 1).word.word)
        if own:
            count = max(Counter(images.label[own].tolist()).values())
            assert part.word.dominant_share == pytest.approx(count / len(own))
            assert images.label[own].tolist().count(worker.plan.class_names.index(part.word.dominant_class)) == count


def test_columns_are_the_stored_activity_in_the_order_asked_for(worker: PathDrawWorker) -> None:
    images = np.array([3, 24, 25, 26, 499, 500, 649])
    for level, layer in enumerate(worker.plan.layers, start=1):
        expected = activations(worker.folder.root)[layer.name][images, 0]
        np.testing.assert_array_equal(worker._columns(level, images), expected.astype(np.float64))
    assert worker._columns(1, np.empty(0, np.int64)).shape == (0, worker.plan.layers[0].units)


def test_a_junction_shows_the_errors_that_triage_explains_by_it(worker: PathDrawWorker) -> None:
    item = path_items(worker.folder, worker.settings, worker.plan)[-1]
    level, word = (int(part) for part in item.partition(":")[2].split("-"))
    view = worker.junction(level, word)
    layer = worker.plan.layers[level - 1].name
    rows = [r for r in misclassified(worker) if (r["lower_layer"], r["lower_word"]) == (layer, word)]
    assert [error.image.image for error in view.errors] == [row["image"] for row in rows]
    assert [error.word for error in view.errors] == [row["upper_word"] for row in rows]
    assert [(e.image.label, e.predicted) for e in view.errors] == [(r["label_name"], r["predicted_name"]) for r in rows]
    assert view.explained is not None
    assert view.explained.errors == len(rows) > 0
    assert view.image_point is None


def test_the_same_item_gives_the_same_files(worker: PathDrawWorker) -> None:
    junction = path_items(worker.folder, worker.settings, worker.plan)[-1]
    for item in (f"path:{misclassified(worker)[0]['image']}", junction):
        files = [worker.folder.figure(item, ending) for ending in ("png", "svg")]
        assert all(file.exists() for file in files), "the run has drawn it"
        drawn = []
        for _ in range(2):
            for file in files:
                file.unlink()
            assert worker(item) == {"bytes": sum(file.stat().st_size for file in files)}
            drawn.append([file.read_bytes() for file in files])
        assert drawn[0] == drawn[1]
        with Image.open(files[0]) as picture:
            assert picture.width == 1653


def test_the_plane_of_a_junction_does_not_depend_on_the_image(worker: PathDrawWorker) -> None:
    rows = misclassified(worker)
    paths = [worker.path(row["image"]) for row in rows]
    level = next(
        level for level in (1, 2, 3) if max(Counter(path.step(level).word.word for path in paths).values()) > 1
    )
    word = Counter(path.step(level).word.word for path in paths).most_common(1)[0][0]
    views = [worker.junction_of(path, level) for path in paths if path.step(level).word.word == word][:2]
    first, second = ({part.word.word: part.points for part in view.subclusters} for view in views)
    for common in first.keys() & second.keys():
        np.testing.assert_array_equal(first[common], second[common])


def test_show_prints_the_path_then_the_graph_if_there_is_one(worker: PathDrawWorker) -> None:
    root = worker.folder.root
    rows = misclassified(worker)
    text = shown(root, rows[0]["image"])
    assert text.startswith(f"Inference path of image {rows[0]['image']}: predicted {rows[0]['predicted_name']}")
    assert f"Leaves the paths of {rows[0]['label_name']} at level {rows[0]['level']}" in text
    assert f"figures/path-{rows[0]['image']}.png" in text
    assert f"Inference graph of image {rows[0]['image']}" in text
    assert text.index("Inference path") < text.index("Inference graph")
    other = shown(root, 7)
    assert other.startswith("Inference path of image 7: predicted")
    assert "Inference graph" not in other, "no graph was asked for, which is no error"
    assert "figure" not in other
    path = worker.path(7)
    for step in path.steps[:-1]:
        assert f"{step.level}  {step.word.layer_title}" in other
        assert f"word {step.word.word} " in other
        assert step.runner_up is not None
        assert f"word {step.runner_up.word} " in other
    with pytest.raises(DataError, match="image 650 is no image of this run; ids run from 0 to 649"):
        shown(root, 650)


def test_show_needs_no_more_than_the_paths(chain_run: Path, tmp_path: Path) -> None:
    early = copy_until(chain_run, tmp_path / "paths", "paths")
    text = shown(early, 7)
    assert text.startswith("Inference path of image 7: predicted")
    assert "–" in text
    with pytest.raises(RunFolderError, match=r"paths\.parquet' is missing: run the stage that writes it"):
        shown(copy_until(chain_run, tmp_path / "words", "words"), 7)


def test_chosen_junctions_lie_on_the_path(worker: PathDrawWorker) -> None:
    for row in misclassified(worker)[:5]:
        path = worker.path(row["image"])
        levels = chosen_levels(path)
        assert list(levels) == sorted(set(levels))
        assert row["level"] == 1 or row["level"] - 1 in levels
        for level in levels:
            view = worker.junction_of(path, level)
            assert view.word.word == path.step(level).word.word
            assert sum(part.taken for part in view.subclusters) == 1
            if row["level"] == level + 1 and row["expected_word"] is not None:
                assert [part.word.word for part in view.subclusters if part.expected] == [row["expected_word"]]
