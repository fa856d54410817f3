"""The images of a scope, and the chunks and shards that hold them, against plain searches."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.data.shards import plan_shards
from workflows.plan.scope import Scope
from workflows.storage.images_table import ImageColumns
from workflows.words.scope_images import ScopeImages, names_by_shard, ranges_of, shards_of


def images_of(seed: int, images: int = 200, classes: int = 7) -> ImageColumns:
    source = np.random.default_rng(seed)
    label = np.concatenate([np.sort(source.integers(0, classes, images // 2)) for _ in range(2)])
    return ImageColumns(label, source.integers(-1, classes, len(label)), np.ones(len(label)))


@pytest.mark.parametrize(
    "scope",
    [
        Scope("class-3", (1, 3, 4), False, (3,)),
        Scope("list-a", (0, 6), False, (0, 6)),
        Scope("list-b", (0, 6), True, (0, 6)),
        Scope("joint", tuple(range(7)), False, tuple(range(7))),
    ],
    ids=lambda scope: scope.name,
)
def test_members_and_assigned_images_are_those_of_the_masks(scope: Scope) -> None:
    for seed in range(5):
        images = images_of(seed)
        found = ScopeImages(images)
        assert found.members(scope).tolist() == np.flatnonzero(scope.contains(images.label)).tolist()
        assert found.assigned(scope).tolist() == np.flatnonzero(scope.assigns(images)).tolist()


@given(st.sets(st.integers(0, 99), min_size=1), st.sampled_from([(20, 5), (20, 20), (50, 10), (100, 1)]))
def test_ranges_are_whole_chunks_and_hold_the_images_chunks(chosen: set[int], sizes: tuple[int, int]) -> None:
    images, (shard, chunk) = np.array(sorted(chosen)), sizes
    ranges = list(ranges_of(images, *sizes))
    covered = [image for first, stop in ranges for image in range(first, stop)]
    assert covered == [image for image in range(0, 100) if image // chunk in {one // chunk for one in chosen}]
    assert all(first // shard == (stop - 1) // shard for first, stop in ranges)
    assert shards_of(images, shard) == sorted({image // shard for image in chosen})


def test_all_images_are_read_shard_by_shard() -> None:
    shards = plan_shards(230, 50)
    ranges = [(first, min(stop, 230)) for first, stop in ranges_of(np.arange(230), 50, 10)]
    assert ranges == [(shard.first, shard.stop) for shard in shards]
    assert list(ranges_of(np.empty(0, np.int64), 50, 10)) == []


def test_shards_name_the_scopes_that_they_hold() -> None:
    assert names_by_shard([("joint", [0, 1, 2]), ("class-3", [2]), ("list-a", [0])]) == {
        0: ["joint", "list-a"],
        1: ["joint"],
        2: ["joint", "class-3"],
    }


def test_a_thousand_classes_cost_no_thousand_passes() -> None:
    source = np.random.default_rng(0)
    label = np.repeat(np.arange(1000), 1000)
    predicted = np.where(source.random(len(label)) < 0.9, label, source.integers(0, 1000, len(label)))
    started = time.process_time()
    found = ScopeImages(ImageColumns(label, predicted, np.ones(len(label))))
    built = time.process_time() - started
    started = time.process_time()
    for m in range(1000):
        neighbours = tuple(sorted({m, (m + 1) % 1000, (m + 2) % 1000}))
        assert len(found.members(Scope(f"class-{m}", neighbours, False, (m,)))) == 3000
    assert time.process_time() - started < 20 * built, "a scope costs what its own images cost"
