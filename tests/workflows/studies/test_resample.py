"""``inference-graphs resample`` on the small digits run: invariance, tables, checkpoints, what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.end_to_end.small_digits import command
from tests.references import resampling as slow
from tests.workflows.report.test_unit_figures import texts
from workflows.asking.study import Asked
from workflows.data.image_index import validation_mask
from workflows.errors import DataError, NetworkError, SettingsError
from workflows.networks.attribution.resampled import noisy_copies
from workflows.plan.run_plan import Plan
from workflows.report.selection_figures import steps_of
from workflows.run import open_run
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.resample.command import run_resample
from workflows.studies.resample.copies import ResampleWorker
from workflows.studies.resample.patch_classifier import rows_for_halves
from workflows.studies.resample.request import ResampleRequest, asked_layers
from workflows.studies.resample.scores import METRICS, Resampling

TABLES = ("selections", "selection_means", "secondary", "selection_epochs")
SMALL = ResampleRequest(copies=4, tops=(2, 4), layers=("1", "layer2.0.conv1"), secondary=False)


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=200), **how)


def told(how: Asked) -> str:
    return " ".join(how.console.file.getvalue().split())  # type: ignore[attr-defined]


def rows(root: Path, name: str, **wanted: Any) -> list[dict[str, Any]]:
    found = read_table(root / f"{name}.parquet").to_pylist()
    return [row for row in found if all(row[key] == value for key, value in wanted.items())]


@pytest.fixture
def root(digits_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits_run, tmp_path / "run")


def write_boxes(root: Path) -> Path:
    """A box around the left half of every validation image but one, the whole of another."""
    plan = Plan.read(RunFolder.open(root))
    paths = read_table(root / "images.parquet")["path"].to_pylist()[plan.train_images + 1 :]
    lines = ["image,part,obj_x0,obj_y0,obj_x1,obj_y1,part_x0,part_y0,part_x1,part_y1"]
    for place, path in enumerate(paths):
        lines.append(f"{path},,0,0,{32 if place == 0 else 12},32,,,,")
    table = root.parent / "boxes.csv"
    table.write_text("\n".join(lines))
    return table


@pytest.mark.slow
def test_from_the_command_to_tables_and_figures(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = write_boxes(root)
    arguments = ["resample", str(root), "--images", "12", "--n", "4", "--top", "2", "--layers", "2-3", "--json"]
    assert command([*arguments, "--masks", f"boxes:{os.path.relpath(boxes)}", "--metric", "all"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["forward_passes_per_image"] == 1 + 2 * 4 + 5
    assert (summary["images"], len(summary["layers"])) == (12, 2)
    assert set(summary["tables"]) == set(TABLES)
    assert {Path(path).stem for path in summary["figures"]} >= {"resample"}
    assert summary["seconds_per_1000_images"] > 0
    selections = rows(root, "selections")
    assert {row["metric"] for row in selections} == set(METRICS)
    placed = [row for row in selections if row["touches"] is not None]
    assert placed
    for row in placed:
        share = max(0, min(row["x1"], 12) - row["x0"]) / (row["x1"] - row["x0"])
        assert row["overlap"] == pytest.approx(1.0 if row["object_share"] == 1 else share, abs=1e-9)
        assert row["touches"] == (row["overlap"] > 0)
    of_weights = {(row["layer"], row["rank"], row["unit"]) for row in selections if row["metric"] == "weight_sum"}
    assert len(of_weights) == 4, "weights are the same for every image"
    assert {row["retest"] for row in selections if row["metric"] == "activation_sum"} == {1.0}
    means = rows(root, "selection_means", **{"layer": None, "class": None, "selected_for": "image", "objects": "all"})
    assert len(means) == 9
    differences = {row["metric"]: row["touch_difference"] for row in means}
    assert differences["random"] == 0
    assert [row["images"] for row in rows(root, "secondary")] == [4] * 9, "two classes have two images"
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows(root, "secondary"))
    page = (Path(__file__).parents[3] / "infra" / "docs" / "resample.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    query = query.replace("runs/animals-resnet50", str(root)).replace("top = 5", "top = 2")
    assert duckdb.sql(query).fetchall()
    assert command([*arguments[:-1], "--masks", f"boxes:{boxes}", "--metric", "all"]) == 0
    assert "resample has answered this before" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_same_bits_from_any_number_of_actors_and_any_part(root: Path, tmp_path: Path) -> None:
    other = shutil.copytree(root, tmp_path / "other")
    run_resample(asked(root, images=10), SMALL)
    settings = json.loads((other / "run.json").read_text())
    settings["settings"]["runtime"]["actors"] = 1
    (other / "run.json").write_text(json.dumps(settings))
    run_resample(asked(other, images=20), SMALL)
    for name in ("image", "metric"):
        assert read_table(root / "selections.parquet")[name].to_pylist()
    key = ("image", "layer", "metric", "top", "rank")
    few, many = (
        {tuple(row[name] for name in key): row for row in rows(one, "selections") if row["image"] is not None}
        for one in (root, other)
    )
    assert set(few) < set(many)
    assert all(many[place] == row for place, row in few.items())


def test_a_worker_is_the_slow_twin_of_itself(digits_run: Path) -> None:
    """Scores of a real image against the loops over its copies, drawn again from the same seed."""
    run = open_run(digits_run)
    layers, _ = asked_layers(run, ResampleRequest(layers=("layer2.0.conv1",)))
    how = Resampling(layers, ("correlation", "precision", "random"), copies=7, tops=(3,))
    worker = ResampleWorker(run.settings, run.plan, run.folder, how, run.plan.weights, None)
    (pixels,) = worker.pictures.of([510], 1)
    draws, _ = worker._draws(510, pixels, 3)
    state = np.random.SeedSequence([run.settings.seed, 1, 510, 0]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]) % 2**63)
    copies = torch.cat(list(noisy_copies(torch.from_numpy(pixels).float(), 7, 0.1, 25, generator, False)))
    assert copies.std(dim=0)[16, 16].mean() == pytest.approx(float(pixels[16, 16].mean()) * 0.1, rel=0.8)
    with torch.inference_mode():
        logits, maps = worker.network(worker.preprocessor.normalise(copies.clone()))
    responses = maps["layer2.0.conv1"].double().numpy()
    found = draws[0]["layer2.0.conv1"].own
    expected = slow.correlation(responses, logits[:, 3].double().numpy(), "position")
    np.testing.assert_allclose(found["correlation"].numpy(), expected, rtol=1e-6, atol=1e-7, equal_nan=True)
    expected = slow.precision(responses, "inverse_of_mean", 0.1, 0.0)
    np.testing.assert_allclose(found["precision"].numpy(), expected, rtol=1e-6, equal_nan=True)


@pytest.mark.slow  # four second classifiers
def test_over_checkpoints(root: Path, tmp_path: Path) -> None:
    weights = torch.load(Plan.read(RunFolder.open(root)).weights, weights_only=True)
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    for epoch, share in ((1, 0.3), (2, 0.0), (10, 0.0)):
        noise = torch.Generator().manual_seed(epoch)
        torch.save(
            {
                name: value + share * value.std() * torch.randn(value.shape, generator=noise)
                if value.ndim > 1
                else value
                for name, value in weights.items()
            },
            kept / f"epoch-{epoch}.pt",
        )
    request = ResampleRequest(
        copies=2, tops=(3,), layers=("2",), metrics=("activation_sum",), checkpoints=f"{kept}/*.pt"
    )
    run_resample(asked(root, images=12), request)
    epochs = rows(root, "selection_epochs", layer=None, metric="activation_sum")
    steps = {(row["checkpoint"], row["compared"]): row["agreement"] for row in epochs}
    assert list(steps) == [
        ("epoch-1", "run"), ("epoch-10", "epoch-2"), ("epoch-2", "epoch-1"), ("epoch-2", "run"), ("run", "epoch-10"),
    ]  # fmt: skip
    assert steps["run", "epoch-10"] == steps["epoch-10", "epoch-2"] == steps["epoch-2", "run"] == 1, "equal weights"
    assert steps["epoch-1", "run"] == steps["epoch-2", "epoch-1"] < 1
    assert {row["checkpoint"] for row in rows(root, "secondary")} == {None, "epoch-1", "epoch-2", "epoch-10"}
    order = ["epoch-1", "epoch-2", "epoch-10", "run"]
    drawn = steps_of(read_table(root / "selection_epochs.parquet"), order, 3)
    own = {name: row["agreement"] for (metric, name), row in drawn.items() if metric == "activation_sum"}
    assert own == {"epoch-2": steps["epoch-2", "epoch-1"], "epoch-10": 1, "run": 1}, "the first has none before it"
    shown = texts(root / "figures" / "resample-epochs.svg")
    assert [text for text in shown if text in order] == order * 2


@pytest.mark.parametrize(("classes", "limit", "taken"), [(100, 85, 42), (100, 250, 100), (3, 4, 2), (3, 100, 3)])
def test_patches_of_many_classes_have_two_halves(classes: int, limit: int, taken: int) -> None:
    """An image alone of its class is in one half only; with 100 classes and 85 images all would be."""
    labels = np.concatenate([np.repeat(np.arange(classes), 5), [classes, classes + 1]])  # two classes of one image
    rows = rows_for_halves(labels, limit, seed=3)
    counts = np.bincount(labels[rows])
    assert (np.count_nonzero(counts), counts[counts > 0].min() > 1, len(rows) <= limit) == (taken, True, True)
    half = validation_mask(labels[rows], 0.5, 3)
    assert set(labels[rows][half]) == set(labels[rows][~half]), "every class is in both halves"
    assert (np.diff(rows) > 0).all()
    assert not len(rows_for_halves(np.arange(9), 4, seed=3)), "no class has two images"
    assert not len(rows_for_halves(np.zeros(0, np.int64), 4, seed=3))


def test_a_black_image_has_no_selection(root: Path) -> None:
    """Noise times nothing is nothing: no unit varies, and the others go on."""

    run = open_run(root)
    layers, _ = asked_layers(run, SMALL)
    how = Resampling(layers, ("correlation", "precision", "random"), copies=4, tops=(2,))
    worker = ResampleWorker(run.settings, run.plan, run.folder, how, run.plan.weights, None)
    black = np.zeros((32, 32, 3), np.uint8)
    draws, pooled = worker._draws(510, black, 0)
    found = list(worker._rows(510, black, draws))
    assert {how.metrics[int(row["metric"])] for row in found} == {"random"}
    assert all(np.isnan(one).all() for one in pooled)


@pytest.mark.slow
def test_images_and_classes_that_are_asked_for(root: Path) -> None:
    how = asked(root)
    run_resample(how, ResampleRequest(("510", "600"), copies=2, tops=(2,), layers=("2",), secondary=False))
    assert {row["image"] for row in rows(root, "selections")} - {None} == {510, 600}
    assert "no --masks, so nothing is said of where patches lie" in told(how)
    how = asked(root, images=2)
    run_resample(how, ResampleRequest((), ("3", "8"), copies=2, tops=(2,), layers=("2",), metrics=("precision",)))
    assert {row["class"] for row in rows(root, "selections")} == {3, 8}
    told_apart = [(row["accuracy"], row["majority"]) for row in rows(root, "secondary")]
    assert told_apart == [(None, None)] * 2, "no class has an image to learn from and one to test"
    assert "resample was asked otherwise before" in told(how)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"copies": 1}, SettingsError, "--n: must be at least 2, got 1; one copy has neither variance nor correlation"),
        ({"metrics": ("corelation",)}, SettingsError, "--metric: must be of .*, got 'corelation'; did you mean corr"),
        ({"sigma": 0.0}, SettingsError, "--sigma: must be above 0, got 0; without noise nothing varies"),
        ({"tops": (0,)}, SettingsError, "--top: must be numbers of at least 1, got 0"),
        ({"layers": ("conv9_9",)}, NetworkError, "the network has no layer 'conv9_9'"),
        ({"layers": ("40",)}, NetworkError, "--layers: must be convolutions 1 to 7, lower first, got '40'"),
        ({"layers": ("output",)}, NetworkError, "--layers: must have maps of units .N, D, H, W., got 'linear'"),
        ({"checkpoints": "/nowhere/*.pt"}, SettingsError, "--checkpoints: must fit files of weights, .*keep_epochs"),
        ({"ids": ("99999",)}, DataError, "--image: '99999' is no image"),
        ({"classes": ("ten",)}, DataError, "--class: there is no class 'ten'"),
        ({"masks": "boxes:/nowhere.csv"}, DataError, "there is no such file"),
        ({"masks": "circles:x"}, DataError, "masks: must be one of coco, boxes, broden, labels, colours"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(digits_run: Path, tmp_path: Path, change: Any, kind: Any, words: str) -> None:
    root = shutil.copytree(digits_run, tmp_path / "run")
    before = sorted(path.name for path in root.iterdir() if path.name != ".lock")
    with pytest.raises(kind, match=words):
        run_resample(asked(root), ResampleRequest(**{"layers": ("2",), **change}))
    assert sorted(path.name for path in root.iterdir() if path.name not in ("resample", ".lock")) == before


def test_boxes_of_other_photos_are_refused(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("image,part,obj_x0,obj_y0,obj_x1,obj_y1,part_x0,part_y0,part_x1,part_y1\nx.jpg,,0,0,5,5,,,,\n")
    request = ResampleRequest(layers=("2",), masks=f"boxes:{other}")
    with pytest.raises(DataError, match="must know an image of the run, got none of its 1 photos"):
        run_resample(asked(root), request)


def test_numbers_of_units_are_numbers(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["resample", str(digits_run), "--top", "five"]) == 2
    assert "--top: must be numbers with commas between, got 'five'; give 5,20" in capsys.readouterr().err
