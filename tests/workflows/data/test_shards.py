from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.data.shards import Shard, plan_shards
from workflows.errors import SettingsError


@given(st.integers(0, 5000), st.integers(1, 700))
@settings(deadline=None)
def test_shards_cover_every_image_once_and_the_last_is_short(n_images: int, size: int) -> None:
    shards = plan_shards(n_images, size)
    assert [image for shard in shards for image in range(shard.first, shard.stop)] == list(range(n_images))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(len(shard) == size for shard in shards[:-1])
    assert all(shard.first % size == 0 and len(shard) > 0 for shard in shards)


def test_a_shard_of_the_usual_run() -> None:
    assert plan_shards(21_000, 500)[-1] == Shard(index=41, first=20_500, stop=21_000)


@pytest.mark.parametrize(("n_images", "size", "words"), [(5, 0, "images_per_shard"), (-1, 5, "n_images")])
def test_impossible_numbers_are_refused(n_images: int, size: int, words: str) -> None:
    with pytest.raises(SettingsError, match=f"{words} must be at least"):
        plan_shards(n_images, size)
