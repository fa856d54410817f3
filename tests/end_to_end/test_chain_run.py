"""A run with a hidden Markov model on real digits, against every path counted and weighed one after the other."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_ops.hmm.model import HiddenMarkovModel
from tests.end_to_end.killing import Driver, address_of_local_ray, ledger
from tests.end_to_end.small_chain import TABLES, chain_arguments
from tests.end_to_end.small_digits import SCOPE, activations, command, copy_until, word_maps
from tests.references.hmm import Enumerated, enumerate_paths
from tests.references.rectified_gaussian import log_density
from workflows.pipeline import STAGES
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

Row = dict[str, Any]


def rows(root: Path, table: str) -> list[Row]:
    return read_table(root / f"{table}.parquet").to_pylist()


def model_of(root: Path) -> HiddenMarkovModel:
    return load_chain(chain_path(RunFolder.open(root), SCOPE))


def words_of_images(root: Path) -> dict[int, list[int]]:
    """Words of every image from the lowest layer to the prediction."""
    found: dict[int, list[int]] = {}
    for row in rows(root, "paths"):
        found.setdefault(row["image"], []).append(row["word"])
        assert row["level"] == len(found[row["image"]])
    return found


def enumerated(model: HiddenMarkovModel, columns: list[np.ndarray], predicted: int) -> Enumerated:
    """Everything about one image by enumeration, its columns as they are stored."""
    values = []
    for layer, column in zip(model.layers, columns, strict=True):
        means, deviations = layer.mean.tolist(), layer.variance.sqrt().tolist()
        words = zip(means, deviations, strict=True)
        values.append([float(log_density(column.tolist(), mean, deviation)) for mean, deviation in words])
    classes = len(model.chain.transitions[-1])
    values.append([0.0 if label == predicted else -math.inf for label in range(classes)])
    return enumerate_paths(model.chain.initial.tolist(), [table.tolist() for table in model.chain.transitions], values)


def test_the_chain_is_the_hidden_layers_and_the_prediction(chain_run: Path) -> None:
    plan = Plan.read(RunFolder.open(chain_run))
    assert [layer.name for layer in plan.layers] == ["relu1", "relu2", "relu3"]
    assert [(layer.units, layer.positions, layer.words) for layer in plan.layers] == [
        (64, 1, 5),
        (48, 1, 6),
        (32, 1, 7),
    ]
    assert all(layer.rectified for layer in plan.layers)
    assert model_of(chain_run).chain.n_states == (5, 6, 7, 10)


def test_paths_equal_the_enumeration_of_all_paths(chain_run: Path) -> None:
    model, stored = model_of(chain_run), activations(chain_run)
    images = {row["image"]: row for row in rows(chain_run, "images")}
    by_image: dict[int, list[Row]] = {}
    for row in rows(chain_run, "paths"):
        by_image.setdefault(row["image"], []).append(row)
    assert set(by_image) == set(images)
    wrong = [image for image, row in images.items() if row["predicted"] != row["label"]]
    for image in (0, 250, 499, 640, *wrong[:2]):
        expected = enumerated(model, [maps[image, 0] for maps in stored.values()], images[image]["predicted"])
        path = by_image[image]
        assert tuple(row["word"] for row in path) == expected.path
        share = expected.log_joint - expected.log_likelihood
        for level, row in enumerate(path):
            assert row["path_log_probability"] == pytest.approx(share, abs=1e-6)
            gamma = expected.gamma[level][row["word"]]
            assert row["log_probability"] == pytest.approx(math.log(gamma), abs=1e-6)
            others = [value for word, value in enumerate(expected.marginals[level]) if word != row["word"]]
            if row["layer"] == OUTPUT:
                assert row["runner_up"] is None
                continue
            assert expected.marginals[level][row["runner_up"]] == max(others)
            assert row["runner_up_log_odds"] == pytest.approx(expected.log_joint - max(others), abs=1e-6)


def test_word_maps_are_the_paths(chain_run: Path) -> None:
    words = words_of_images(chain_run)
    for level, maps in enumerate(word_maps(chain_run).values()):
        assert [words[image][level] for image in range(len(maps))] == maps[:, 0, 0].tolist()


def test_transitions_hold_the_model_and_count_the_paths(chain_run: Path) -> None:
    model, plan, words = model_of(chain_run), Plan.read(RunFolder.open(chain_run)), words_of_images(chain_run)
    names = [*(layer.name for layer in plan.layers), OUTPUT]
    found = {(r["lower_layer"], r["lower_word"], r["upper_word"]): r for r in rows(chain_run, "transitions")}
    assert len(found) == 5 * 6 + 6 * 7 + 7 * 10
    for level, table in enumerate(model.chain.transitions):
        train, validation = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for image, path in words.items():
            (train if image < plan.train_images else validation)[path[level], path[level + 1]] += 1
        for upper, lower in np.ndindex(*table.shape):
            row = found[names[level], lower, upper]
            assert row["upper_layer"] == names[level + 1]
            assert row["probability"] == pytest.approx(float(table[upper, lower]), abs=1e-12)
            assert (row["train_images"], row["validation_images"]) == (train[lower, upper], validation[lower, upper])


def left_at(path: list[int], own: set[tuple[int, int, int]]) -> int:
    """First level, from 1, whose branch is not one of the class's."""
    branches = zip([-1, *path], path, strict=False)
    return next(level for level, (lower, upper) in enumerate(branches, start=1) if (level, lower, upper) not in own)


def test_triage_finds_the_first_branch_that_no_right_image_takes(chain_run: Path) -> None:
    words = words_of_images(chain_run)
    images = rows(chain_run, "images")
    plan = Plan.read(RunFolder.open(chain_run))
    taken: dict[int, set[tuple[int, int, int]]] = {label: set() for label in range(10)}
    for row in images[: plan.train_images]:
        if row["label"] == row["predicted"]:
            path = words[row["image"]]
            taken[row["label"]].update(
                (level, lower, upper) for level, (lower, upper) in enumerate(zip([-1, *path], path, strict=False), 1)
            )
    wrong = {row["image"]: row for row in images if row["label"] != row["predicted"]}
    found = {row["image"]: row for row in rows(chain_run, "triage")}
    assert set(found) == set(wrong)
    assert len(wrong) > 5
    names = [*(layer.name for layer in plan.layers), OUTPUT]
    for image, row in found.items():
        path = words[image]
        level = left_at(path, taken[wrong[image]["label"]])
        assert row["level"] == level
        assert row["upper_layer"] == names[level - 1]
        assert row["upper_word"] == path[level - 1]
        below = f"{names[level - 2]}:{path[level - 2]}" if level > 1 else "start"
        assert row["junction"] == below
        assert row["log_odds"] is not None, "every branch of a class continues somewhere"


def test_junctions_add_up_to_the_errors(chain_run: Path) -> None:
    triage = rows(chain_run, "triage")
    errors = Counter((row["level"], row["junction"]) for row in triage if row["split"] == "validation")
    trained = Counter((row["level"], row["junction"]) for row in triage if row["split"] == "train")
    junctions = rows(chain_run, "junctions")
    assert [row["rank"] for row in junctions] == list(range(len(junctions)))
    assert {(row["level"], row["junction"]): row["errors"] for row in junctions if row["errors"]} == dict(errors)
    assert {(r["level"], r["junction"]): r["train_errors"] for r in junctions if r["train_errors"]} == dict(trained)
    counts = [row["errors"] for row in junctions]
    assert counts == sorted(counts, reverse=True)
    assert junctions[-1]["cumulative_share"] == pytest.approx(1)


def test_figures_of_paths_junctions_classes_and_layers(chain_run: Path) -> None:
    names = {path.name for path in (chain_run / "figures").glob("*.png")}
    wrong = [r["image"] for r in rows(chain_run, "triage") if r["split"] == "validation"][:2]
    assert {f"path-{image}.png" for image in wrong} <= names
    assert {f"transitions-{label}.png" for label in (1, 8)} <= names
    assert {"similarity.png", "fit.png"} <= names
    with_word = [row for row in rows(chain_run, "junctions") if row["lower_word"] is not None][:2]
    assert {f"junction-{row['level'] - 1}-{row['lower_word']}.png" for row in with_word} <= names


@pytest.mark.slow
def test_actors_and_shards_change_no_table(chain_run: Path, chain_weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    other = ("extract.images_per_shard=75", "runtime.actors=1", "runtime.fit_actors=2")
    assert command(chain_arguments(root, chain_weights, *other, until="paths")) == 0
    model, expected = model_of(root), model_of(chain_run)
    for layer, twin in zip(model.layers, expected.layers, strict=True):
        assert float((layer.mean - twin.mean).abs().max()) < 1e-6
    for table in ("paths", "triage", "junctions"):
        for row, twin in zip(rows(root, table), rows(chain_run, table), strict=True):
            assert row == pytest.approx(twin, abs=1e-6), table


@pytest.mark.slow
def test_a_driver_killed_in_the_stages_of_the_chain_goes_on(
    chain_run: Path, chain_weights: Path, tmp_path: Path, local_ray: object
) -> None:
    root = tmp_path / "run"
    arguments = [*chain_arguments(root, chain_weights, "count.scheduler=threads"), "--address", address_of_local_ray()]
    drivers: list[Driver] = []
    moments = {
        "fit": lambda: any(root.glob("mixtures/joint/*state*")),
        "words": lambda: len(ledger(root, "words").items) >= 3,
        "paths": lambda: ledger(root, "paths").fingerprint is not None,
    }
    try:
        for stage, moment in moments.items():
            drivers.append(Driver(arguments, tmp_path / "log.txt"))
            drivers[-1].wait_until(moment, f"the middle of {stage}")
            drivers[-1].kill()
            assert not ledger(root, stage).done, stage
        drivers.append(Driver(arguments, tmp_path / "log.txt"))
        assert drivers[-1].finish() == 0, drivers[-1].output()
    finally:
        for driver in drivers:
            driver.reap()
    for table in TABLES:
        left, right = (read_table(folder / f"{table}.parquet") for folder in (root, chain_run))
        assert left.equals(right, check_metadata=True), table
    kept = {str(path.relative_to(chain_run)) for path in chain_run.rglob("*") if path.is_file()}
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == kept


def test_another_triage_runs_from_the_paths_on(chain_run: Path, chain_weights: Path, tmp_path: Path) -> None:
    root = copy_until(chain_run, tmp_path / "run", list(STAGES)[-1])
    begun = {stage: ledger(root, stage).seconds for stage in ("extract", "fit", "words")}
    assert command(chain_arguments(root, chain_weights, "triage.min_images=30", until="paths")) == 0
    assert {stage: ledger(root, stage).seconds for stage in begun} == begun, "an earlier stage was begun again"
    before = {row["image"]: row["level"] for row in rows(chain_run, "triage")}
    after = {row["image"]: row["level"] for row in rows(root, "triage")}
    assert after != before
    assert all(after[image] <= level for image, level in before.items()), "fewer branches of its own, left no later"


def test_show_prints_the_path(chain_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = next(row for row in rows(chain_run, "triage") if row["split"] == "validation")
    capsys.readouterr()
    assert command(["show", str(chain_run), "--image", str(wrong["image"])]) == 0
    told = capsys.readouterr().out
    for name in ("dense1", "dense2", "dense3", "runner-up", "lost by"):
        assert name in told, told
    assert f"true label {wrong['label_name']}" in told
    assert f"Leaves the paths of {wrong['label_name']}" in told
    assert command(["show", str(chain_run), "--image", "3"]) == 0, "an image without a mined graph has a path"
    assert "dense2" in capsys.readouterr().out
