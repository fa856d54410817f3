"""Relevance of the small digits run, end to end; its tables against slow loops over images."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from gmm_ops.units.relevance import ClassRelevance
from tests.end_to_end.small_digits import command
from workflows.asking.image_parts import ImageShard
from workflows.asking.registry import STUDIES
from workflows.asking.study import Asked
from workflows.asking.unit_tables import detected_units
from workflows.data.masks.concept_masks import Concept, read_masks
from workflows.errors import DataError, NetworkError, SettingsError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.schemas import SCHEMAS
from workflows.storage.study_folder import StudyFolder, StudyRecord, basis_of
from workflows.storage.tables import read_table, to_table
from workflows.studies.relevance.command import RelevanceRequest, concept_pairs, run_relevance, shown_by
from workflows.studies.relevance.rows import StoredRelevance, agreement_rows, layer_sums, relevance_columns
from workflows.studies.relevance.worker import ClassMasks, RelevanceWorker

CLASSES = ("3", "8")
IMAGES = 12
STEPS = 4


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=120), images=IMAGES, **how)


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("relevance") / "run")
    status = command(
        ["relevance", str(root), "--class", "3", "--class", "8", "--images", str(IMAGES), "--steps", str(STEPS)]
    )
    assert status == 0
    return root


def unit_network(root: Path) -> UnitNetwork:
    run = open_run(root)
    size = run.settings.preprocessing.channels, run.plan.input_height, run.plan.input_width
    return UnitNetwork.load(run.settings.network, run.plan.weights, size, run.plan.rewriting)


def slow_sums(root: Path) -> dict[int, tuple[np.ndarray, np.ndarray, int]]:
    """By class: signed and absolute conductance of all units in a row, image by image and step by step."""
    from workflows.data.network_inputs import NetworkInputs

    run, network = open_run(root), unit_network(root)
    images = chosen_images(root)
    labels = ImageColumns.read(run.folder, 0, run.plan.images).label
    inputs = NetworkInputs(run.settings, run.folder, (run.plan.input_height, run.plan.input_width), torch.device("cpu"))
    body = network.tapped([layer.name for layer in network.convolutions()])
    found: dict[int, list[np.ndarray]] = {}
    for image in images:
        ((_, pixels),) = inputs([image], 1)
        points = []
        for step in range(STEPS + 1):
            at = (inputs.black() + (pixels - inputs.black()) * step / STEPS).requires_grad_()
            logits, taps = body(at)
            points.append(([tap.detach() for tap in taps], torch.autograd.grad(logits[0, labels[image]], taps)))
        sums = []
        for layer in range(len(points[0][0])):
            total = sum(
                (points[k + 1][0][layer] - points[k][0][layer]) * (points[k][1][layer] + points[k + 1][1][layer]) / 2
                for k in range(STEPS)
            )
            sums.append(torch.stack([total.sum((0, 2, 3)), total.abs().sum((0, 2, 3))]).double())
        found.setdefault(int(labels[image]), []).append(torch.cat(sums, dim=1).numpy())
    return {label: (*np.mean(some, axis=0), len(some)) for label, some in found.items()}  # type: ignore[misc]


def chosen_images(root: Path) -> list[int]:
    from workflows.data.image_index import balanced_rows

    run = open_run(root)
    labels = ImageColumns.read(run.folder, 0, run.plan.images).label
    own = np.flatnonzero(np.isin(labels, [3, 8]) & (np.arange(len(labels)) < run.plan.train_images))
    return [int(image) for image in own[balanced_rows(labels[own], IMAGES, run.settings.seed)]]


def test_the_table_is_that_of_loops_over_images(root: Path) -> None:
    table = read_table(root / "relevance.parquet")
    assert table.schema.equals(SCHEMAS["relevance"])
    expected = slow_sums(root)
    rows = table.to_pydict()
    for label, (signed, absolute, images) in expected.items():
        own = np.array(rows["class"]) == label
        np.testing.assert_allclose(np.array(rows["signed"])[own], signed, rtol=1e-3, atol=2e-4 * np.abs(signed).max())
        np.testing.assert_allclose(np.array(rows["absolute"])[own], absolute, rtol=1e-3, atol=1e-4 * absolute.max())
        assert set(np.array(rows["images"])[own]) == {images}
    assert sorted(expected) == [3, 8]
    assert set(rows["class_name"]) == {"3", "8"}
    assert set(rows["split"]) == {"train"}
    assert set(rows["masked"]) == {None}
    names = [layer.name for layer in unit_network(root).convolutions()]
    assert list(dict.fromkeys(rows["layer"])) == names
    shares = np.array(rows["share"])[: sum(np.array(rows["layer"]) == names[0]) // 2]
    assert shares.sum() == pytest.approx(1.0)
    assert np.array(rows["specific"]).reshape(2, -1).sum(axis=0) == pytest.approx(0.0, abs=1e-12)


def test_completeness_is_told_of_every_layer(root: Path) -> None:
    rows = read_table(root / "relevance_completeness.parquet").to_pylist()
    errors = {row["layer"]: row for row in rows}
    assert errors["conv1"]["is_cut"]
    assert [row["layer"] for row in rows if row["kind"] == "join"] == ["layer1.0.add", "layer2.0.add", "layer3.0.add"]
    assert all(row["is_cut"] for row in rows if row["kind"] == "join")
    assert all(row["images"] == IMAGES for row in rows)
    through = [row["error_median"] for row in rows if not row["is_cut"]]
    assert errors["conv1"]["error_median"] < max(through)


def test_the_same_again_is_told_and_not_computed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ("relevance", "relevance_completeness")
    before = {path: path.stat().st_mtime_ns for path in (root / f"{name}.parquet" for name in tables)}
    request = ["relevance", str(root), "--class", "8", "--class", "3", "--images", str(IMAGES), "--steps", str(STEPS)]
    assert command([*request, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["images_looked_at"], summary["passes_an_image"]) == (IMAGES, 3 * (STEPS + 1))
    assert set(summary["tables"]) == {"relevance", "relevance_completeness", "relevance_agreement"}
    assert "relevance has answered this before" in captured.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (root / "figures" / "relevance.png").stat().st_size > 5000


def test_shards_and_batches_change_no_more_than_rounding(root: Path) -> None:
    run = open_run(root)
    worker = RelevanceWorker(run.settings, run.plan, run.folder, STEPS, "trapezoid", "logit", None)
    images = tuple(chosen_images(root)[:4])
    whole = worker(ImageShard(0, images)).units.by_class([3])
    parts = worker(ImageShard(0, images[:1])).units + worker(ImageShard(1, images[1:])).units
    np.testing.assert_allclose(parts.by_class([3]).absolute, whole.absolute, rtol=1e-4, atol=1e-6)


def test_masks_weigh_what_lies_within_them(root: Path, tmp_path: Path) -> None:
    """Boxes around the left half of every digit and around all of it; an image without a box takes no part."""
    run = open_run(root)
    images = chosen_images(root)[:4]
    table = read_table(run.folder.images_table, ["image", "path"])
    paths = dict(zip(table["image"].to_pylist(), table["path"].to_pylist(), strict=True))
    lines = ["image,obj_x0,obj_y0,obj_x1,obj_y1,part,part_x0,part_y0,part_x1,part_y1"]
    lines += [f"{paths[image]},0,0,32,32,left,0,0,16,32" for image in images[:3]]
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("\n".join(lines))
    size = run.plan.input_height, run.plan.input_width
    known = {image: paths[image] for image in images}
    source = read_masks(f"boxes:{boxes}", known, run.settings.data, run.settings.preprocessing, size)
    found = {}
    for concept in ("object", "left"):
        masks = ClassMasks(source, {3: source.number(concept)}, by_area=False)
        worker = RelevanceWorker(run.settings, run.plan, run.folder, STEPS, "trapezoid", "logit", masks)
        found[concept] = worker(ImageShard(0, tuple(images))).units.by_class([3])
    positions = torch.tensor([float(layer.positions) for layer in unit_network(root).convolutions()])
    units = torch.tensor([layer.units for layer in unit_network(root).convolutions()])
    whole, part = found["object"], found["left"]
    assert (int(whole.images), int(whole.masked_images)) == (4, 3)
    # With all of a picture in the mask a position weighs as many pixels as it stands for.
    pixels = (size[0] * size[1] / positions).repeat_interleave(units)
    alone = RelevanceWorker(run.settings, run.plan, run.folder, STEPS, "trapezoid", "logit", None)
    three = alone(ImageShard(0, tuple(images[:3]))).units.by_class([3])
    np.testing.assert_allclose(whole.masked[0], three.absolute[0] * pixels, rtol=1e-3, atol=1e-5)
    assert 0.2 < float(part.masked.sum() / whole.masked.sum()) < 0.8
    assert (part.masked <= whole.masked * (1 + 1e-6)).all()


def answer_by_hand(root: Path, name: str, finished: bool = True) -> None:
    """What a study keeps beside its tables when it stands on plan.json; it has done the first of two shards, or all."""
    own = StudyFolder(RunFolder.open(root), STUDIES[name])
    own.ask(StudyRecord({}, basis_of(own.run, own.study.version, [root / "plan.json"], ())))
    own.ledger.begin("made", total=2)
    own.ledger.record("paths 0")
    if finished:
        own.ledger.end()


def made_detectors(root: Path, rows: list[tuple[str, int, str, float]]) -> None:
    """What dissect would have written, in its essentials."""
    names = ("layer", "unit", "concept", "iou", "rank", "quantile")
    whole = [(*row, 0, 0.005) for row in rows] + [(*row, 0, 0.04) for row in rows[1:]]
    columns = {name: [row[place] for row in whole] for place, name in enumerate(names)}
    pq.write_table(pa.table(columns), root / "unit_concepts.parquet")


def test_agreement_stands_beside_chance_and_activation(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "run")
    table = read_table(copy / "relevance.parquet").to_pydict()
    own = (np.array(table["class"]) == 3) & (np.array(table["layer"]) == "layer2.0.conv1")
    absolute = np.array(table["absolute"])[own]
    best = np.argsort(-absolute)[:5].tolist()
    rows = [("layer2.0.bn1", unit, "3", 0.3 - 0.02 * place) for place, unit in enumerate(best)]
    made_detectors(copy, [*rows, ("layer2.0.bn1", best[-1], "8", 0.2), ("layer1.0.add", 0, "3", 0.9)])
    (found,) = detected_units(RunFolder.open(copy), unit_network(copy), "3")
    assert (found.layer.name, int(found.detects.sum())) == ("layer2.0.conv1", 5)
    stored = StoredRelevance.read(copy / "relevance.parquet")
    (row,) = agreement_rows(stored, {3: [found]}, [str(label) for label in range(10)])
    assert (row["detectors"], row["overlap"], row["chance"]) == (5, 1.0, 5 / 32)
    assert row["activation_overlap"] < 1.0
    assert row["correlation"] > 0.3
    run_relevance(asked(copy), RelevanceRequest(CLASSES, steps=STEPS))
    written = read_table(copy / "relevance_agreement.parquet").to_pylist()
    keys = [(one["class"], one["layer"], one["quantile"], one["detectors"]) for one in written]
    place = "layer2.0.conv1"
    assert keys == [(3, place, 0.005, 5), (3, place, 0.04, 4), (8, place, 0.005, 1), (8, place, 0.04, 1)]
    made_detectors(copy, [("layer2.0.bn1", 0, "object", 0.3), ("layer2.0.bn1", 1, "8", 0.2)])
    run_relevance(asked(copy), RelevanceRequest(CLASSES, steps=STEPS))
    written = read_table(copy / "relevance_agreement.parquet").to_pylist()
    assert {(one["class"], one["concept"]) for one in written} == {(3, "object"), (8, "8")}
    answer_by_hand(copy, "dissect", finished=False)
    how = asked(copy)
    run_relevance(how, RelevanceRequest(CLASSES, steps=STEPS))
    told = " ".join(how.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "agreement with dissect is left out, for dissect is unfinished (1 of 2 shards are done); ask" in told
    assert not read_table(copy / "relevance_agreement.parquet").num_rows


def test_agreement_is_with_the_concept_that_shows_a_class() -> None:
    names, source = ["zebra, horse", "tiger"], SimpleNamespace(concepts=(Concept("stripes", "part"),))
    assert shown_by(None, {1: "head"}, [0, 1], names) == {0: ["zebra, horse", "zebra", "object"], 1: ["head"]}
    assert shown_by(ClassMasks(source, {1: 0}, by_area=False), {}, [1], names) == {1: ["stripes"]}  # type: ignore[arg-type]


def test_columns_hold_what_classes_share_once() -> None:
    layers = [UnitLayer(name, depth, units, 1, 1, True, True) for name, depth, units in (("a", 3, 2), ("b", 7, 3))]
    values = torch.arange(10, dtype=torch.float64).reshape(2, 5)
    masked, counts = torch.full_like(values, torch.nan), torch.tensor([4, 5])
    means = ClassRelevance(counts, torch.tensor([0, 0]), values, values, masked, values)
    columns = relevance_columns(means, [8, 3], [str(label) for label in range(10)], layers, "train")
    assert not any(isinstance(column, list) for column in columns.values())
    rows = to_table(columns, "relevance", network="n").to_pylist()
    assert [(row["class"], row["class_name"], row["images"], row["layer"], row["depth"], row["unit"]) for row in rows][
        ::2
    ] == [
        (8, "8", 4, "a", 3, 0),
        (8, "8", 4, "b", 7, 0),
        (8, "8", 4, "b", 7, 2),
        (3, "3", 5, "a", 3, 1),
        (3, "3", 5, "b", 7, 1),
    ]
    assert [row["absolute"] for row in rows] == list(range(10))
    assert {(row["masked"], row["measure"], row["split"]) for row in rows} == {(None, "absolute", "train")}


def test_sums_of_layers_by_class() -> None:
    layers = [UnitLayer(name, depth, 2, 1, 1, True, True) for name, depth in (("a", 3), ("b", 7))]
    labels, depth, unit = np.repeat([3, 8], 4), np.tile([3, 3, 7, 7], 2), np.tile([0, 1], 4)
    stored = StoredRelevance("absolute", labels, depth, unit, np.arange(8.0), np.zeros(8))
    assert layer_sums(stored, layers, [8, 3]).tolist() == [[9.0, 1.0], [13.0, 5.0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": ()}, "--class: must name a class, or all; got none"),
        ({"classes": ("3",), "steps": 0}, "--steps: must be at least 1, got 0"),
        ({"classes": ("3",), "rule": "middle"}, "--rule: must be trapezoid or left, got 'middle'"),
        ({"classes": ("3",), "split": "test"}, "--split: must be train or validation or all, got 'test'"),
        ({"classes": ("3",), "output": "loss"}, "--output: must be logit or probability, got 'loss'"),
        ({"classes": ("3",), "normalise": "sum"}, "--normalise: must be none or mask_area, got 'sum'"),
    ],
)
def test_bad_requests_are_refused_by_their_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RelevanceRequest(**arguments)


def test_what_the_run_does_not_have_is_refused(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "run")
    with pytest.raises(DataError, match="--class: there is no class 'cat'; ids run from 0 to 9"):
        run_relevance(asked(copy), RelevanceRequest(("cat",)))
    with pytest.raises(
        DataError, match="masks: must be one of coco, boxes, broden, labels, colours, a colon and a path"
    ):
        run_relevance(asked(copy), RelevanceRequest(("3",), masks="pictures"))
    with pytest.raises(SettingsError, match="--mask-of: must be CLASS=CONCEPT, such as zebra=object, got 'zebra'"):
        concept_pairs(["zebra"])
    assert concept_pairs(["a=b=c"]) == {"a=b": "c"}
    settings = open_run(copy).settings.network.model_copy(update={"name": "tests.workflows.networks.sample_networks:x"})
    with pytest.raises(NetworkError):
        UnitNetwork.load(settings, "", (3, 8, 8), open_run(copy).plan.rewriting)
    with pytest.raises(SettingsError, match=r"--images: must be at least 10, got 3: images are spread evenly over 10"):
        run_relevance(Asked(copy, Console(file=io.StringIO()), images=3), RelevanceRequest(("all",)))
    assert read_table(copy / "relevance.parquet").num_rows, "what was refused has removed nothing"
