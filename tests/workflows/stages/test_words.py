"""The words stage in this process: how much of the word maps of many scopes is in memory at once."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from workflows.data.shards import Shard, plan_shards
from workflows.plan.run_plan import Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.stages.words import WordsWorker, create_word_maps
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder
from workflows.words.shard_names import ShardNames
from workflows.words.word_maps import FIELDS, words_path

MANY = 60


@pytest.fixture
def copied(digits_run: Path, tmp_path: Path) -> tuple[Settings, Plan, RunFolder]:
    """A run whose dictionaries of all classes many lists have as well."""
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    for scope in lists(MANY):
        shutil.copytree(folder.root / "mixtures" / "joint", folder.root / "mixtures" / scope.name)
    settings = folder.settings()
    runtime = settings.runtime.model_copy(update={"device": "cpu"})
    return settings.model_copy(update={"runtime": runtime}), Plan.read(folder), folder


def lists(count: int) -> list[Scope]:
    return [Scope(f"list-{number}", (number % 10,), True, (number % 10,)) for number in range(count)]


def peak_of(settings: Settings, plan: Plan, folder: RunFolder, scopes: Sequence[Scope], shards: Sequence[Shard]) -> int:
    """Bytes of Python and numpy for the word maps of the second shard, its dictionaries held since the first."""
    for scope in scopes:
        create_word_maps(settings, plan, folder, scope.name)
    worker = WordsWorker(settings, plan, folder, scopes)
    names = tuple(scope.name for scope in scopes)
    worker(ShardNames(shards[0], names))
    tracemalloc.start()
    try:
        worker(ShardNames(shards[1], names))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_maps_of_one_scope_are_held_at_a_time(copied: tuple[Settings, Plan, RunFolder]) -> None:
    settings, plan, folder = copied
    assert plan.stores_everything
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    few, many = (peak_of(settings, plan, folder, lists(count), shards) for count in (1, MANY))
    largest = max(layer.positions for layer in plan.layers) * len(shards[1]) * 12
    assert many < few + 10 * largest, f"{MANY} scopes, but not {MANY} times their maps"
    for layer in plan.layers:
        for field in FIELDS:
            ours, joint = (
                read_rows(words_path(folder, scope, layer.name, field), shards[1].first, shards[1].stop)
                for scope in (f"list-{MANY - 1}", "joint")
            )
            np.testing.assert_array_equal(ours, joint)
