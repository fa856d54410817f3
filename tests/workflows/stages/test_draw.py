"""Which figures a run has, and that those of another request go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.killing import ledger
from tests.end_to_end.small_digits import TRAINING_IMAGE, command, copy_until, run_arguments
from workflows.figures.draw_graphs import FIT, SIMILARITY, SimilarityDrawWorker
from workflows.figures.draw_paths import TransitionDrawWorker, transition_items
from workflows.plan.run_plan import Plan
from workflows.report.similarity_figure import LayerSimilarity
from workflows.report.transition_view import ClassPaths
from workflows.stages.draw import DrawWorker, figure_items
from workflows.storage.graphs import graph_names
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

STALE = ("class-0", "image-2", "path-17", "junction-2-3", "junction-1-0", "transitions-4", "parts", "boxes")


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_figures_that_nobody_asks_for_any_more_are_removed(
    digits_run: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_until(digits_run, tmp_path / "run", "count")
    figures = root / "figures"
    (figures / "list-dropped").mkdir(parents=True)
    for name in (*STALE, "notes", "list-dropped/class-3", "list-dropped/parts"):
        for ending in ("png", "svg"):
            (figures / f"{name}.{ending}").write_text("old")
    table = root / "boxes.parquet"
    table.write_text("old")
    fields = ("mine.classes=['3']", "mine.images=['9']")
    assert command(run_arguments(root, digits_weights, *fields)) == 0
    assert not table.exists()
    told = capsys.readouterr().out
    assert "boxes.parquet and its figures are of the graphs before, and are removed: run boxes again" in told
    names = {path.stem for path in figures.iterdir()}
    assert names == {"class-3", "image-9", SIMILARITY, FIT, "notes"}
    assert set(ledger(root, "draw").items) == {"class:3", "image:9", SIMILARITY, FIT}
    # The matrices do not depend on the graphs.
    for ending in ("png", "svg"):
        drawn = figures / f"{SIMILARITY}.{ending}"
        assert drawn.read_bytes() == (digits_run / "figures" / drawn.name).read_bytes()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_figures_are_drawn_for_who_asks_and_stay(
    digits_run: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_until(digits_run, tmp_path / "run", "mine")
    boxes = root / "boxes.parquet"

    def drawn(*figures: str) -> set[str]:
        assert command(run_arguments(root, digits_weights, f"draw.figures={list(figures)}")) == 0
        return {path.stem for path in (root / "figures").glob("*.png")}

    assert drawn("none") == set()
    boxes.write_text("of the same graphs")
    first = drawn("class:3")
    assert first == {"class-3"}
    written = (root / "figures" / "class-3.png").stat().st_mtime_ns
    own = f"image-{TRAINING_IMAGE}"
    assert drawn("asked", "class:8") == {"class-3", "class-8", own, SIMILARITY, FIT}
    assert drawn("none") == {"class-3", "class-8", own, SIMILARITY, FIT}
    assert (root / "figures" / "class-3.png").stat().st_mtime_ns == written
    assert boxes.exists()
    assert command(run_arguments(root, digits_weights, "draw.figures=image:0")) != 0
    assert "draw.figures: must name graphs of the run, got image:0, which is not mined" in capsys.readouterr().err
    # Another graph of the same name is another figure.
    assert command(run_arguments(root, digits_weights, "draw.figures=none", "mine.top=2")) == 0
    assert not list((root / "figures").glob("*.*"))
    assert not boxes.exists()


def test_a_run_of_mixtures_has_its_graphs_and_its_matrices(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    items = figure_items(folder, folder.settings(), Plan.read(folder))
    assert items == [*graph_names(digits_run), SIMILARITY, FIT]


def test_the_matrices_hold_the_tables_of_the_run(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    worker = SimilarityDrawWorker(folder.settings(), plan, folder)
    words = read_table(folder.table("words")).to_pylist()
    for layer, row in zip(plan.layers, read_table(folder.table("layers")).to_pylist(), strict=True):
        found: LayerSimilarity = worker._similarity(layer)
        own = [word for word in words if word["layer"] == layer.name]
        assert found.title == layer.given
        assert found.distances.shape == (layer.words, layer.words)
        expected = [-1 if word["dominant_class"] is None else word["dominant_class"] for word in own]
        assert found.dominant.tolist() == expected
        measured = row["column_dominant_share"], row["column_ratio"]
        assert (found.dominant_share, found.ratio) == measured
        assert len(found.order) == row["used"]


def test_a_chain_has_paths_junctions_and_transition_graphs(chain_run: Path) -> None:
    folder = RunFolder.open(chain_run)
    settings, plan = folder.settings(), Plan.read(folder)
    items = figure_items(folder, settings, plan)
    assert [item for item in items if item.startswith("transitions:")] == ["transitions:1", "transitions:8"]
    every = settings.model_copy(update={"mine": settings.mine.model_copy(update={"classes": ("all",)})})
    labels = set(read_table(folder.images_table, ["label"], [("split", "=", "validation")])["label"].to_pylist())
    assert transition_items(folder, every, plan) == [f"transitions:{label}" for label in sorted(labels)]
    kinds = {item.partition(":")[0] for item in items}
    assert kinds == {"class", "image", "path", "junction", "transitions", SIMILARITY, FIT}
    for item in items:
        assert folder.figure(item, "png").stat().st_size > 5000, item
        assert folder.figure(item, "svg").stat().st_size > 5000, item


def test_asked_classes_bound_the_transition_graphs(chain_run: Path) -> None:
    folder = RunFolder.open(chain_run)
    settings = folder.settings()
    mine = settings.mine.model_copy(update={"classes": ("3", "8")})
    asked = settings.model_copy(update={"mine": mine})
    assert transition_items(folder, asked, Plan.read(folder)) == ["transitions:3", "transitions:8"]


def test_transition_graphs_count_the_paths_of_the_class(chain_run: Path) -> None:
    folder = RunFolder.open(chain_run)
    plan = Plan.read(folder)
    worker = TransitionDrawWorker(folder.settings(), plan, folder)
    found, labels = worker._validation
    images = read_table(folder.images_table).to_pylist()[plan.train_images :]
    paths = read_table(folder.table("paths")).to_pylist()
    expected: dict[int, list[int]] = {}
    for row in paths:
        expected.setdefault(row["image"], []).append(row["word"])
    assert found.tolist() == [expected[row["image"]] for row in images]
    assert labels.tolist() == [row["label"] for row in images]
    of_class = ClassPaths(3, found[labels == 3])
    wrong = [row["predicted"] != 3 for row in images if row["label"] == 3]
    assert of_class.wrong.tolist() == wrong


@pytest.mark.slow
def test_one_worker_draws_every_kind_and_the_same_again(chain_run: Path, tmp_path: Path) -> None:
    root = copy_until(chain_run, tmp_path / "run", "mine")
    folder = RunFolder(root)
    settings, plan = folder.settings(), Plan.read(folder)
    worker = DrawWorker(settings, plan, folder)
    items = figure_items(folder, settings, plan)
    for kind in ("class", "path", "junction", "transitions", SIMILARITY, FIT):
        item = next(item for item in items if item.startswith(kind))
        worker(item)
        for ending in ("png", "svg"):
            drawn = folder.figure(item, ending)
            assert drawn.read_bytes() == (chain_run / "figures" / drawn.name).read_bytes(), drawn.name
