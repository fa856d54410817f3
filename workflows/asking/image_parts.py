"""Phases of a study: shards of images, and what they add up to, one file a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from gmm_ops.records import Record, Sums
from workflows.storage.states import load_state, save_state

PartSums = TypeVar("PartSums", bound=Sums)

SHARDS = 32
"""So many work items at least, where there are images enough: actors to share them, and little to lose."""

LEAST_IMAGES = 8
"""Of a work item, where there are so many."""


@dataclass(frozen=True)
class ImageShard:
    """One work item: some images of the run, ascending ids that lie in one shard of its arrays."""

    index: int
    images: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        return str(self.index)


@dataclass(frozen=True, eq=False)
class Phase:
    """One pass over images; a study has one or several, each of which may use what the one before has found.

    Attributes:
        name: of its parts.
        images: (n,) ascending ids.
        passes: of the network, for each image, counted in forward passes: forward and backward are 3.
        part_bytes: of what one shard adds up to, at most.
    """

    name: str
    images: Int[np.ndarray, " n"]
    passes: float = 1.0
    part_bytes: int = 0


@dataclass(frozen=True)
class Parts:
    """What the shards of a phase have given, in their order; read one at a time."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (load_state(path) for path in self.paths)

    def sum(self, record: type[PartSums]) -> PartSums:
        """All parts as one record, merged in order; ``record`` is the type that the worker returned."""
        first, *rest = self.paths
        total = record.from_arrays(load_state(first))
        for path in rest:
            total = total.merge(record.from_arrays(load_state(path)))
        return total


def cut_images(images: Int[np.ndarray, " n"], batch: int, images_per_shard: int) -> list[ImageShard]:
    """Work items of a phase: none crosses a shard of the run's arrays, and none depends on the actors."""
    size = int(np.clip(-(-len(images) // SHARDS), min(LEAST_IMAGES, batch), images_per_shard))
    homes = np.split(images, np.flatnonzero(np.diff(images // images_per_shard)) + 1)
    pieces = [piece.tolist() for home in homes for piece in np.array_split(home, max(1, round(len(home) / size)))]
    return [ImageShard(index, tuple(piece)) for index, piece in enumerate(pieces)]


class PartWorker:
    """Runs in an actor: one shard in, its part on the disk, whole or not at all."""

    def __init__(self, worker: Callable[..., Any], inputs: dict[str, Any], paths: dict[int, Path]) -> None:
        self._work, self._paths = worker(**inputs), paths

    def __call__(self, shard: ImageShard) -> dict[str, Any]:
        """What the driver must know of the part."""
        found = self._work(shard)
        save_state(self._paths[shard.index], found.to_arrays() if isinstance(found, Record) else found)
        return {"images": len(shard), "bytes": self._paths[shard.index].stat().st_size}


def item_of(phase: Phase, shard: ImageShard) -> str:
    """Key of a part in the ledger of its study."""
    return f"{phase.name} {shard.index}"
