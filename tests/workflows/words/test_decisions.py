"""Decisions and errors: those of the core on all readable validation images, whoever else asks, however often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from gmm_ops.discriminative.classifier import paired_difference
from gmm_ops.discriminative.histogram import hard_histograms, soft_histograms
from gmm_ops.fitting.collective import LONE
from tests.workflows.made_labelled import (
    IMAGES,
    JOINT,
    TRAIN,
    Made,
    labels,
    make,
    patch_activations,
    predictions,
    readable,
    settings_of,
)
from tests.workflows.words.decided import decided
from workflows.data.shards import Shard
from workflows.errors import DataError
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.plan.scope import Scope
from workflows.stages.errors import error_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, write_table
from workflows.studies.sweep.cells import Losses, SweepRequest, refuse_impossible
from workflows.words import decisions
from workflows.words.decisions import WAYS, DecisionsWorker, FittedLayer, decisions_part, shards_to_decide, way_column
from workflows.words.shard_names import ShardNames, names_left

pytestmark = pytest.mark.slow

PAIR = Scope("class-2", (2, 5), False, (2,))
LIST = Scope("list-some", (2, 5), True, (2, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "run", settings_of())


@pytest.fixture(scope="module")
def fits(made: Made) -> list[FittedLayer]:
    """Three scopes, and a second dictionary of the first as a sweep has it."""
    few = replace(made[1].layers[0], words=6)
    elsewhere = RunFolder(made[2].root / "sweep" / "words-6")
    return [
        fitted(made, FittedLayer("joint", JOINT, made[1].layers[0], made[2])),
        fitted(made, FittedLayer("pair", PAIR, made[1].layers[0], made[2])),
        fitted(made, FittedLayer("list", LIST, made[1].layers[0], made[2])),
        fitted(made, FittedLayer("few", JOINT, few, elsewhere)),
    ]


@pytest.fixture(scope="module")
def rows(made: Made, fits: list[FittedLayer], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return decided(*made, fits, tmp_path_factory.mktemp("parts"))


def fitted(made: Made, fit: FittedLayer) -> FittedLayer:
    settings, plan, folder = made
    inputs = {"settings": settings, "plan": plan, "folder": folder, "layer": fit.layer, "scope": fit.scope}
    worker = DiscriminativeFit(rank=0, world=1, out=fit.out, **inputs)
    worker.restore(None)
    worker.advance(10**6, LONE)
    worker.result()
    return fit


def of(rows: pa.Table, fit: FittedLayer) -> dict[str, np.ndarray]:
    found = [row for row in rows.to_pylist() if all(row[name] == value for name, value in fit.key.items())]
    return {name: np.array([row[name] for row in found]) for name in rows.column_names}


def test_decisions_are_those_of_the_arrays_on_readable_images(rows: pa.Table, fits: list[FittedLayer]) -> None:
    images = readable(range(TRAIN, IMAGES))
    columns, label = torch.from_numpy(patch_activations()[images]), labels()[images]
    for fit in (fits[0], fits[3]):
        found = of(rows, fit)
        np.testing.assert_array_equal(found["image"], images)
        np.testing.assert_array_equal(found["label"], label)
        np.testing.assert_array_equal(found["network_label"], predictions()[images])
        assert set(found["network"]) == {"made-labels"}
        for loss, histogram in WAYS:
            mixture, layer = fit.load()[loss]
            shares = (soft_histograms if histogram == "soft" else hard_histograms)(mixture, columns)
            np.testing.assert_array_equal(found[way_column(loss, histogram)], layer.labels(shares).numpy())


def test_a_scope_decides_about_its_own_images_in_its_own_labels(rows: pa.Table, fits: list[FittedLayer]) -> None:
    images = readable(range(TRAIN, IMAGES))
    members = images[np.isin(labels()[images], PAIR.labels)]
    pair, listed = of(rows, fits[1]), of(rows, fits[2])
    np.testing.assert_array_equal(pair["image"], members)
    np.testing.assert_array_equal(pair["label"], labels()[members])
    outside = ~np.isin(predictions()[members], PAIR.labels)
    assert outside.any(), "some predictions lie outside the scope"
    np.testing.assert_array_equal(pair["network_label"], np.where(outside, -2, predictions()[members]))
    assert set(pair["discriminative_soft"]) == {2, 5}
    np.testing.assert_array_equal(listed["image"], images)
    in_list = np.isin(labels()[images], LIST.labels)
    np.testing.assert_array_equal(listed["label"], np.where(in_list, labels()[images], -1))
    predicted = np.isin(predictions()[images], LIST.labels)
    np.testing.assert_array_equal(listed["network_label"], np.where(predicted, predictions()[images], -1))
    assert set(listed["generative_hard"]) <= {2, 5, -1}


def test_a_fit_decides_the_same_alone_and_among_others(
    made: Made, rows: pa.Table, fits: list[FittedLayer], tmp_path: Path
) -> None:
    alone = decided(*made, fits[1:2], tmp_path)
    together = of(rows, fits[1])
    for name, values in of(alone, fits[1]).items():
        np.testing.assert_array_equal(values, together[name], err_msg=name)


@pytest.mark.parametrize("limit", [0, 10_000])
def test_fits_that_are_not_kept_decide_the_same(
    made: Made, rows: pa.Table, fits: list[FittedLayer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Each has 24 x 6 or 6 x 6 means and 24 or 6 columns of a linear layer, for both losses."""
    monkeypatch.setattr(decisions, "HELD_BYTES", limit)
    assert decided(*made, fits, tmp_path).equals(rows)


def test_rows_of_a_shard_are_added_to_and_never_doubled(
    made: Made, rows: pa.Table, fits: list[FittedLayer], tmp_path: Path
) -> None:
    """More classes later, and a try that ended between the file and the ledger."""
    worker, shard = DecisionsWorker(*made, fits, tmp_path), Shard(15, 600, 640)
    for names in (("pair",), ("joint", "few"), ("pair", "few"), ("list",)):
        worker(ShardNames(shard, names))
    here = rows.filter(pa.compute.less(rows["image"], 640))
    assert read_table(decisions_part(tmp_path, 15)).equals(here)


def test_only_shards_with_validation_images_are_asked_for(made: Made, fits: list[FittedLayer]) -> None:
    wanted = shards_to_decide(*made, fits)
    assert sorted(wanted) == [15, 16, 17], "three of 18 shards of 40 images hold the last 120"
    for index, names in wanted.items():
        here = slice(max(TRAIN, 40 * index), 40 * index + 40)
        assert ("pair" in names) == bool(PAIR.contains(labels()[here]).any())
        assert {"joint", "list", "few"} <= set(names)


def test_a_shard_serves_the_names_that_it_has_not_served() -> None:
    wanted = {3: ["a", "b"], 4: ["a"], 5: ["b", "c"]}
    done = {3: {"names": ["a", "b"]}, 4: {"names": []}, 5: {"names": ["b"]}}
    assert names_left(wanted, done) == {4: ("a",), 5: ("c",)}
    assert names_left(wanted, {"shard 4": {"names": ["a"]}}, lambda index: f"shard {index}") == {
        3: ("a", "b"),
        5: ("b", "c"),
    }


def test_errors_are_counted_with_their_pairs(rows: pa.Table, fits: list[FittedLayer], tmp_path: Path) -> None:
    """Against a count image by image."""
    path = tmp_path / "it's [a] table.parquet"
    write_table(path, rows, "decisions")
    found = {(row["scope"], row["words"], row["loss"], row["histogram"]): row for row in error_rows(path)}
    assert len(found) == 4 * len(fits)
    for fit in fits:
        own = of(rows, fit)
        wrong = {way: torch.from_numpy(own[way_column(*way)] != own["label"]) for way in WAYS}
        for loss, histogram in WAYS:
            row = found[fit.scope.name, fit.layer.words, loss, histogram]
            count = int(wrong[loss, histogram].sum())
            assert (row["images"], row["errors"], row["error"]) == (len(own["image"]), count, count / len(own["image"]))
            assert row["network_errors"] == (own["network_label"] != own["label"]).sum()
            if loss == "generative":
                assert "difference" not in row
                continue
            pair = paired_difference(wrong[loss, histogram], wrong["generative", histogram])
            assert (row["difference"], row["difference_low"], row["difference_high"], row["tie"]) == (
                pair.difference,
                pair.low,
                pair.high,
                pair.is_tie,
            )
    write_table(path, [], "decisions")
    assert list(error_rows(path)) == []
    joint = found["joint", 24, "discriminative", "soft"]
    assert joint["error"] < found["joint", 24, "generative", "soft"]["error"]


@pytest.mark.parametrize("losses", ["both", "generative"])
def test_a_sweep_without_readable_validation_images_is_refused(tmp_path: Path, losses: Losses) -> None:
    settings, _, folder = make(tmp_path / "run", settings_of())
    request = SweepRequest((4,), losses)
    refuse_impossible(folder, settings, request)
    table = read_table(folder.images_table)
    broken = pa.compute.greater_equal(table["image"], TRAIN)
    predicted = pa.compute.if_else(broken, pa.scalar(None, pa.int32()), table["predicted"])
    write_table(
        folder.images_table, table.set_column(table.column_names.index("predicted"), "predicted", predicted), "images"
    )
    if losses == "generative":
        refuse_impossible(folder, settings, request)
        return
    with pytest.raises(DataError, match="needs validation images for its errors, and none can be read: repair some"):
        refuse_impossible(folder, settings, request)
