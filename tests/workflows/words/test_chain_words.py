"""Words of a run with a hidden Markov model: most probable paths, whatever the shards, broken images or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gmm_ops.hmm.chain import Chain
from gmm_ops.hmm.model import HiddenMarkovModel
from tests.references.hmm import Enumerated, enumerate_paths
from tests.workflows.marked_digits import CLASSES, decode, make_run, settings_of
from workflows.data.shards import plan_shards
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.arrays import read_rows
from workflows.storage.chains import chain_path, load_chain, save_chain
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.words.chain_words import path_part, read_columns
from workflows.words.word_maps import FIELDS, words_path

SCOPE = "joint"


def made(root: Path, **options: Any) -> tuple[RunFolder, Settings, Plan]:
    settings = settings_of(root / "input", **options)
    folder, plan = make_run(root / "run", settings)
    decode(folder, settings)
    return folder, settings, plan


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Settings, Plan]:
    """A run with one broken picture in either split; for reading only."""
    return made(tmp_path_factory.mktemp("broken"), broken=True)


def rows_of(folder: RunFolder, settings: Settings, plan: Plan) -> list[dict[str, Any]]:
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    return [row for shard in shards for row in pq.read_table(path_part(folder, shard)).to_pylist()]


def maps_of(folder: RunFolder, plan: Plan) -> dict[tuple[str, str], np.ndarray]:
    return {
        (layer.name, name): read_rows(words_path(folder, SCOPE, layer.name, name), 0, plan.images)
        for layer in plan.layers
        for name in FIELDS
    }


def enumerated(model: HiddenMarkovModel, columns: list[torch.Tensor], image: int, predicted: int) -> Enumerated:
    values = [
        layer.log_densities(x[image : image + 1])[0].tolist() for layer, x in zip(model.layers, columns, strict=True)
    ]
    if model.shape.n_classes is not None:
        values.append([0.0 if label == predicted else -math.inf for label in range(CLASSES)])
    return enumerate_paths(model.chain.initial.tolist(), [table.tolist() for table in model.chain.transitions], values)


@pytest.mark.parametrize("output", ["fixed", "gaussian"])
def test_paths_and_word_maps_equal_the_enumeration(tmp_path: Path, output: str) -> None:
    folder, settings, plan = made(tmp_path, output=output)
    names = [layer.name for layer in plan.layers]
    assert names == ["relu1", "relu2", "relu3", "relu4"] + (["logits"] if output == "gaussian" else [])
    model, maps = load_chain(chain_path(folder, SCOPE)), maps_of(folder, plan)
    columns, images = read_columns(folder, plan, 0, plan.images), ImageColumns.read(folder, 0, plan.images)
    priors, levels = [share.log() for share in model.chain.marginals()], len(names) + 1
    rows = rows_of(folder, settings, plan)
    assert [row["image"] for row in rows] == np.repeat(np.arange(plan.images), levels).tolist()
    for image in range(0, plan.images, 29):
        expected = enumerated(model, columns, image, int(images.predicted[image]))
        *path, last = rows[image * levels : (image + 1) * levels]
        for level, row in enumerate(path):
            word = expected.path[level]
            assert (row["level"], row["layer"], row["word"]) == (level + 1, names[level], word)
            assert row["log_probability"] == pytest.approx(math.log(expected.gamma[level][word]), abs=1e-9)
            assert row["path_log_probability"] == pytest.approx(expected.log_joint - expected.log_likelihood, abs=1e-8)
            others = [(-value, k) for k, value in enumerate(expected.marginals[level]) if k != word]
            assert row["runner_up"] == min(others)[1]
            assert row["runner_up_log_odds"] == pytest.approx(expected.log_joint + min(others)[0], abs=1e-8)
            density = float(model.layers[level].log_densities(columns[level][image : image + 1])[0, word])
            seen = [maps[names[level], name][image, 0, 0] for name in FIELDS]
            assert seen[0] == word
            assert seen[1] == pytest.approx(expected.gamma[level][word], rel=1e-6)
            assert seen[2] == pytest.approx(float(priors[level][word]) + density, rel=1e-6)
        told = {name: last[name] for name in ("level", "layer", "word", "log_probability", "runner_up")}
        predicted = int(images.predicted[image])
        assert told == {"level": levels, "layer": "output", "word": predicted, "log_probability": 0, "runner_up": None}
        assert last["runner_up_log_odds"] is None
        assert last["path_log_probability"] == path[0]["path_log_probability"]


def test_the_size_of_the_shards_changes_no_bit(broken_run: tuple[RunFolder, Settings, Plan], tmp_path: Path) -> None:
    folder, settings, plan = broken_run
    other_folder, other, _ = made(tmp_path / "175", broken=True, shard=175)
    save_chain(chain_path(other_folder, SCOPE), load_chain(chain_path(folder, SCOPE)))
    decode(other_folder, other)
    assert rows_of(folder, settings, plan) == rows_of(other_folder, other, plan)
    left, right = maps_of(folder, plan), maps_of(other_folder, plan)
    for key, values in left.items():
        np.testing.assert_array_equal(values, right[key])


def test_broken_images_have_no_word_and_no_path(broken_run: tuple[RunFolder, Settings, Plan]) -> None:
    folder, settings, plan = broken_run
    broken = {5, plan.train_images + 5}
    for (_, name), values in maps_of(folder, plan).items():
        for image in broken:
            assert values[image, 0, 0] == (-1 if name == "word" else 0)
    with_path = {row["image"] for row in rows_of(folder, settings, plan)}
    assert with_path == set(range(plan.images)) - broken


def test_impossible_images_are_read_without_their_prediction(tmp_path: Path) -> None:
    folder, settings, plan = made(tmp_path)
    model = load_chain(chain_path(folder, SCOPE))
    *below, last = model.chain.transitions
    never = last.clone()
    never[2] = 0.0
    never /= never.sum(dim=0)
    save_chain(chain_path(folder, SCOPE), HiddenMarkovModel(Chain(model.chain.initial, (*below, never)), model.layers))
    records = decode(folder, settings)
    images = ImageColumns.read(folder, 0, plan.images)
    assert sum(record["impossible"] for record in records) == int((images.predicted == 2).sum()) > 0
    columns = read_columns(folder, plan, 0, plan.images)
    levels = len(plan.layers) + 1
    rows = rows_of(folder, settings, plan)
    for image in np.flatnonzero(images.predicted == 2)[:3].tolist():
        path = rows[image * levels : (image + 1) * levels]
        values = [
            layer.log_densities(x[image : image + 1])[0].tolist()
            for layer, x in zip(model.layers, columns, strict=True)
        ]
        blind = enumerate_paths(model.chain.initial.tolist(), [table.tolist() for table in below], values)
        assert tuple(row["word"] for row in path) == (*blind.path, 2)
        assert path[0]["log_probability"] == pytest.approx(math.log(blind.gamma[0][blind.path[0]]), abs=1e-6)
        assert {row["path_log_probability"] for row in path} == {-math.inf}
