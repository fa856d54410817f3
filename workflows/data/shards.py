"""Shards: the work items of a run, ranges of rows of the image index."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.errors import SettingsError


@dataclass(frozen=True)
class Shard:
    """Images [first, stop) of the index; one work item and one Zarr shard."""

    index: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def __str__(self) -> str:
        """As messages and ledgers call it."""
        return str(self.index)


def plan_shards(n_images: int, images_per_shard: int) -> list[Shard]:
    """Cut the index into shards of ``images_per_shard`` images; only the last one may be shorter.

    Raises:
        SettingsError: ``images_per_shard`` is below 1, or ``n_images`` below 0.
    """
    if images_per_shard < 1:
        raise SettingsError(f"extract.images_per_shard must be at least 1, came {images_per_shard}; 500 is usual")
    if n_images < 0:
        raise SettingsError(f"n_images must be at least 0, came {n_images}; give the number of rows of the index")
    starts = range(0, n_images, images_per_shard)
    return [Shard(i, first, min(first + images_per_shard, n_images)) for i, first in enumerate(starts)]
