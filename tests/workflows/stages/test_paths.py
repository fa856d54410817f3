"""Error triage on real digits: an image that carries a planted feature leaves where the feature is amplified."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.references.branches import Left, count_branches, departure
from tests.workflows.marked_digits import (
    CLASSES,
    DEPTH,
    TRAIN,
    VALIDATION,
    context_of,
    decode,
    find_paths,
    make_run,
    settings_of,
)
from workflows.data.shards import plan_shards
from workflows.errors import RunFolderError
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.stages import paths
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.chain_words import path_part, read_columns
from workflows.words.triage import branches_path

TABLES = ("paths", "transitions", "triage", "junctions")
NAMES = ["zero", "one", "two"]
ZEROS = CLASSES * TRAIN
"""Image id of the first zero of S_V."""
MARKED = ZEROS + VALIDATION
"""Image id of its marked twin: images of one class follow each other."""


def finished(root: Path, **options: Any) -> tuple[RunFolder, Settings, Plan]:
    settings = settings_of(root / "input", **options)
    folder, plan = make_run(root / "run", settings)
    decode(folder, settings)
    find_paths(folder, settings)
    return folder, settings, plan


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Settings, Plan]:
    """A run with one broken picture in either split; for reading only."""
    return finished(tmp_path_factory.mktemp("chain"), broken=True)


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Settings, Plan]:
    return finished(tmp_path_factory.mktemp("gaussian"), output="gaussian")


def rows(folder: RunFolder, table: str) -> list[dict[str, Any]]:
    return read_table(folder.table(table)).to_pylist()


def words_of(folder: RunFolder) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows(folder, "paths"):
        found.setdefault(row["image"], []).append(row["word"])
    return found


def expected_departures(folder: RunFolder, plan: Plan, min_images: int) -> dict[int, Left]:
    """Every readable image by plain loops over all paths."""
    images = [row for row in rows(folder, "images") if row["status"] == "ok"]
    words = words_of(folder)
    right = [row for row in images if row["split"] == "train" and row["label"] == row["predicted"]]
    counts = count_branches([words[row["image"]] for row in right], [row["label"] for row in right])
    model, columns = load_chain(chain_path(folder, "joint")), read_columns(folder, plan, 0, plan.images)
    tables = [table.tolist() for table in model.chain.transitions]
    found = {}
    for row in images:
        image = row["image"]
        if row["label"] == row["predicted"] and row["split"] == "train":
            continue
        layers = zip(model.layers, columns, strict=True)
        values = [layer.log_densities(x[image : image + 1])[0].tolist() for layer, x in layers]
        path = words[image]
        found[image] = departure(model.chain.initial.tolist(), tables, values, path, row["label"], counts, min_images)
    return found


@pytest.mark.parametrize("amplified", [2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_marked_images_leave_where_the_marker_is_amplified(tmp_path: Path, amplified: int) -> None:
    folder, _, _ = finished(tmp_path, amplified=amplified)
    words, images = words_of(folder), rows(folder, "images")
    planted = [MARKED + i for i in range(VALIDATION) if images[ZEROS + i]["predicted"] == 0]
    assert len(planted) > 0.9 * VALIDATION
    triage = {row["image"]: row for row in rows(folder, "triage")}
    for image in planted:
        row = triage[image]
        assert (row["label_name"], row["predicted_name"], row["split"]) == ("zero", "one", "validation")
        assert (row["level"], row["upper_layer"]) == (amplified, f"relu{amplified}")
        assert (row["lower_layer"], row["lower_word"]) == (f"relu{amplified - 1}", words[image][amplified - 2])
        assert row["junction"] == f"relu{amplified - 1}:{row['lower_word']}"
        assert row["upper_word"] == words[image][amplified - 1]
        # Silent below: the word is one of the zeros'. Loud above: from there on it is one of the ones'.
        labels = [labels_of(images, words, level, word) for level, word in enumerate(words[image][:-1], start=1)]
        assert labels == [{0}] * (amplified - 1) + [{1}] * (DEPTH - amplified + 1)
        assert labels_of(images, words, amplified, row["expected_word"]) == {0}
        assert row["log_odds"] > 10
    junctions = rows(folder, "junctions")
    assert junctions[0]["level"] == amplified
    assert (junctions[0]["label_name"], junctions[0]["predicted_name"]) == ("zero", "one")
    at_level = sum(row["errors"] for row in junctions if row["level"] == amplified)
    assert len(planted) <= at_level <= len(planted) + 2


def labels_of(images: list[dict[str, Any]], words: dict[int, list[int]], level: int, word: int) -> set[int]:
    """Classes of the training images whose path comes by a word."""
    training = (row for row in images if row["split"] == "train")
    return {row["label"] for row in training if words[row["image"]][level - 1] == word}


@pytest.mark.parametrize(
    ("output", "min_images"),
    [
        ("fixed", 1),
        ("gaussian", 4),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("fixed", 4), ("gaussian", 1))),
    ],
)
def test_triage_equals_plain_loops(
    request: pytest.FixtureRequest, tmp_path: Path, output: str, min_images: int
) -> None:
    source, settings, plan = request.getfixturevalue("run" if output == "fixed" else "gaussian_run")
    shutil.copytree(source.root, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    settings = settings.model_copy(update={"triage": settings.triage.model_copy(update={"min_images": min_images})})
    find_paths(folder, settings)
    expected = expected_departures(folder, plan, min_images)
    images = rows(folder, "images")
    names = [None, *(layer.name for layer in plan.layers), "output"]
    wrong = [row["image"] for row in images if row["status"] == "ok" and row["label"] != row["predicted"]]
    triage = rows(folder, "triage")
    assert [row["image"] for row in triage] == wrong
    for row in triage:
        left = expected[row["image"]]
        assert (row["level"], row["lower_word"], row["upper_word"]) == (left.level, left.lower, left.taken)
        assert row["expected_word"] == left.expected
        assert (row["lower_layer"], row["upper_layer"]) == (names[left.level - 1], names[left.level])
        assert row["junction"] == ("start" if left.level == 1 else f"{row['lower_layer']}:{left.lower}")
        if left.log_odds is None:
            assert row["log_odds"] is None
        else:
            assert row["log_odds"] == pytest.approx(left.log_odds, rel=1e-9, abs=1e-7)
    if output == "gaussian":
        last = [row for row in triage if row["upper_layer"] == "output"]
        assert all(row["log_odds"] is None for row in last)
    _check_junctions(rows(folder, "junctions"), expected, images, words_of(folder))


def _check_junctions(
    junctions: list[dict[str, Any]],
    expected: dict[int, Left],
    images: list[dict[str, Any]],
    words: dict[int, list[int]],
) -> None:
    """Every row from the images that leave there, one after the other."""
    every = [(images[image], left) for image, left in expected.items() if left.level]
    assert {(row["level"], row["lower_word"]) for row in junctions} == {(left.level, left.lower) for _, left in every}
    total, explained = sum(map(_is_error, (image for image, _ in every))), 0
    in_validation = [words[row["image"]] for row in images if row["split"] == "validation" and row["status"] == "ok"]
    for rank, row in enumerate(junctions):
        key = row["level"], row["lower_word"]
        here = [(image, left) for image, left in every if (left.level, left.lower) == key]
        errors = [(image, left) for image, left in here if _is_error(image)]
        explained += len(errors)
        assert (row["rank"], row["errors"]) == (rank, len(errors))
        assert row["train_errors"] == sum(image["split"] == "train" for image, _ in here)
        assert row["correct_leaving"] == len(here) - row["errors"] - row["train_errors"]
        assert row["share"] == pytest.approx(len(errors) / total)
        assert row["cumulative_share"] == pytest.approx(explained / total)
        by = [path for path in in_validation if row["level"] == 1 or path[row["level"] - 2] == row["lower_word"]]
        assert row["images"] == len(by)
        odds = [left.log_odds for _, left in errors if left.log_odds is not None]
        assert row["mean_log_odds"] == (pytest.approx(np.mean(odds)) if odds else None)
        confusions = Counter((image["label_name"], image["predicted_name"]) for image, _ in errors)
        assert row["confusions"] == max(confusions.values(), default=0)
        ranked = sorted(confusions, key=lambda pair: (-confusions[pair], *map(NAMES.index, pair)))
        commonest = ranked[0] if ranked else (None, None)
        assert (row["label_name"], row["predicted_name"]) == commonest
    assert explained == total
    order = [(-row["errors"], -row["train_errors"], row["level"], row["lower_word"] or 0) for row in junctions]
    assert order == sorted(order)


def _is_error(image: dict[str, Any]) -> bool:
    """A misclassified image of S_V: those of S_T are not what a junction explains."""
    return image["split"] == "validation" and image["label"] != image["predicted"]


@pytest.mark.parametrize("output", ["fixed", "gaussian"])
def test_transitions_are_the_model_and_the_counts(request: pytest.FixtureRequest, output: str) -> None:
    folder, _, plan = request.getfixturevalue("run" if output == "fixed" else "gaussian_run")
    model, words = load_chain(chain_path(folder, "joint")), words_of(folder)
    names = [*(layer.name for layer in plan.layers), "output"]
    cells = {(row["lower_layer"], row["lower_word"], row["upper_word"]): row for row in rows(folder, "transitions")}
    states = [*(layer.words for layer in plan.layers), CLASSES]
    assert len(cells) == sum(lower * upper for lower, upper in pairwise(states))
    for level in range(len(states) - 1):
        train = Counter((p[level], p[level + 1]) for i, p in words.items() if i < plan.train_images)
        validation = Counter((p[level], p[level + 1]) for i, p in words.items() if i >= plan.train_images)
        for lower, upper in np.ndindex(states[level], states[level + 1]):
            row = cells[names[level], lower, upper]
            assert row["upper_layer"] == names[level + 1]
            assert (row["train_images"], row["validation_images"]) == (train[lower, upper], validation[lower, upper])
            came = sum(count for (low, _), count in train.items() if low == lower)
            share = train[lower, upper] / max(1, came)
            given = level < len(model.chain.transitions)
            assert row["probability"] == (float(model.chain.transitions[level][upper, lower]) if given else share)


@pytest.mark.parametrize("shard", [175, pytest.param(25, marks=pytest.mark.slow)])
def test_the_size_of_the_shards_changes_no_bit(
    run: tuple[RunFolder, Settings, Plan], tmp_path: Path, shard: int
) -> None:
    folder, _, _ = run
    settings = settings_of(tmp_path / "input", broken=True, shard=shard)
    other, _ = make_run(tmp_path / "run", settings)
    shutil.copy(chain_path(folder, "joint"), chain_path(other, "joint"))
    decode(other, settings)
    find_paths(other, settings)
    for table in TABLES:
        assert read_table(other.table(table)).equals(read_table(folder.table(table))), table


def test_a_stage_that_was_stopped_goes_on_with_what_is_left(
    run: tuple[RunFolder, Settings, Plan], tmp_path: Path
) -> None:
    source, settings, _ = run
    shutil.copytree(source.root, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    ledger = folder.ledger("paths").path
    kept = ledger.read_text().splitlines(keepends=True)
    assert [line.split('"')[3] for line in kept[1:-1]] == ["paths", "branches", "transitions", "triage"]
    ledger.write_text("".join(kept[:3]))
    for table in ("transitions", "triage", "junctions"):
        folder.table(table).unlink()
    before = folder.table("paths").stat().st_mtime_ns
    find_paths(folder, settings)
    assert folder.table("paths").stat().st_mtime_ns == before
    for table in TABLES:
        assert read_table(folder.table(table)).equals(read_table(source.table(table))), table


def test_a_missing_part_is_named(run: tuple[RunFolder, Settings, Plan], tmp_path: Path) -> None:
    source, settings, plan = run
    shutil.copytree(source.root, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    folder.ledger("paths").path.unlink()
    folder.table("paths").unlink()
    path_part(folder, plan_shards(plan.images, settings.extract.images_per_shard)[3]).unlink()
    with pytest.raises(RunFolderError, match=r"000003.parquet' is missing: run the stage that writes it"):
        find_paths(folder, settings)
    assert not folder.table("paths").exists()
    shutil.copytree(source.path_parts, folder.path_parts, dirs_exist_ok=True)
    find_paths(folder, settings)
    ledger = folder.ledger("paths").path
    before, _, _ = ledger.read_text().partition('{"item": "transitions"')
    ledger.write_text(before)
    branches_path(folder).unlink()
    with pytest.raises(RunFolderError, match=r"branches.npz' are missing: delete the ledger of the paths stage"):
        find_paths(folder, settings)


def test_a_run_without_a_chain_has_no_paths(run: tuple[RunFolder, Settings, Plan], tmp_path: Path) -> None:
    _, settings, _ = run
    without = settings.model_copy(update={"hmm": None})
    folder = RunFolder(tmp_path / "run")
    paths.run(context_of(folder, without, "paths"))
    assert folder.ledger("paths").content().total == 0
    assert not any(folder.table(table).exists() for table in TABLES)


def test_the_layers_are_the_hidden_ones(run: tuple[RunFolder, Settings, Plan]) -> None:
    _, _, plan = run
    assert [layer.name for layer in plan.layers] == [f"relu{i}" for i in range(1, DEPTH + 1)]
