"""Which images a scope reads, found without a pass over all images for every scope."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from workflows.plan.scope import Scope
from workflows.storage.images_table import ImageColumns

Ids = Int[np.ndarray, " n"]


class ScopeImages:
    """The images of a run by their class, so that those of a scope cost as much as they are.

    Args:
        images: labels and predictions of all images.
    """

    def __init__(self, images: ImageColumns) -> None:
        self.total, self._images = len(images.label), images
        self._by_label = _ByClass(images.label)
        self._by_prediction = _ByClass(images.predicted)

    def members(self, scope: Scope) -> Ids:
        """S_T and S_V of the scope together, ascending ids."""
        return np.arange(self.total) if scope.holds_all else self._by_label.of(scope.labels)

    def predicted(self, ids: Ids) -> Ids:
        """What the network calls some images; -1 without a prediction."""
        return self._images.predicted[ids]

    def assigned(self, scope: Scope) -> Ids:
        """Images that get words, see ``Scope.assigns``."""
        if scope.holds_all:
            return np.arange(self.total)
        return np.union1d(self._by_label.of(scope.labels), self._by_prediction.of(scope.explains))

    def blocks(self, scope: Scope, ranges: Sequence[tuple[int, int]], small: int) -> tuple[MemberBlock, ...]:
        """The images of a scope in some ranges: one block where the ranges hold no more than ``small``, else one each.

        Args:
            scope: whose images.
            ranges: ascending, of ``ranges_of``.
            small: images.
        """
        together = sum(stop - first for first, stop in ranges) <= small
        return tuple(self._block(scope, part) for part in ([ranges] if together else [[one] for one in ranges]))

    def _block(self, scope: Scope, ranges: Sequence[tuple[int, int]]) -> MemberBlock:
        ids = np.concatenate([np.empty(0, np.int64), *(np.arange(first, stop) for first, stop in ranges)])
        label, predicted = self._images.label[ids], self._images.predicted[ids]
        member = scope.contains(label)
        return MemberBlock(tuple(ranges), member, ids[member], label[member], predicted[member])


@dataclass(frozen=True)
class MemberBlock:
    """Images that are read together: those of some ranges that a scope holds, with what is known of them.

    Attributes:
        ranges: first image and the one behind the last, ascending.
        member: (N,) bool, which of all images of the ranges.
        ids, label, predicted: (n,) int64, of those; -1 without a label, or a prediction.
    """

    ranges: tuple[tuple[int, int], ...]
    member: Bool[np.ndarray, " N"]
    ids: Ids
    label: Ids
    predicted: Ids

    @property
    def classes(self) -> Ids:
        """The label, or the predicted class of an image without one."""
        return np.where(self.label < 0, self.predicted, self.label)

    def __len__(self) -> int:
        return len(self.member)


def shards_of(images: Ids, images_per_shard: int) -> list[int]:
    """Indices of the shards that hold some of the images."""
    return np.unique(images // images_per_shard).tolist()


def ranges_of(images: Ids, images_per_shard: int, images_per_chunk: int) -> Iterator[tuple[int, int]]:
    """First image and the one behind the last of every run of chunks that hold some of the images, shard by shard.

    Chunks are read whole, so a run begins and ends with one; it may reach beyond the last image of the run folder.
    """
    chunks = np.unique(images // images_per_chunk)
    shard = chunks // (images_per_shard // images_per_chunk)
    breaks = np.flatnonzero((np.diff(chunks) > 1) | (np.diff(shard) > 0)) + 1
    for run in np.split(chunks, breaks) if len(chunks) else ():
        yield int(run[0]) * images_per_chunk, (int(run[-1]) + 1) * images_per_chunk


def names_by_shard(shards_of_names: Iterable[tuple[str, Sequence[int]]]) -> dict[int, list[str]]:
    """Names that each shard serves, from the shards that every name (of a scope, of a fit) has images in."""
    found: dict[int, list[str]] = {}
    for name, shards in shards_of_names:
        for shard in shards:
            found.setdefault(shard, []).append(name)
    return dict(sorted(found.items()))


class _ByClass:
    """Ids of images in order of their class; a class is one range."""

    def __init__(self, classes: Int[np.ndarray, " N"]) -> None:
        self._order = np.argsort(classes, kind="stable")
        self._classes = classes[self._order]

    def of(self, classes: Sequence[int]) -> Ids:
        first, stop = (np.searchsorted(self._classes, np.asarray(classes), side) for side in ("left", "right"))
        ranges = [self._order[start:end] for start, end in zip(first, stop, strict=True)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *ranges])).astype(np.int64)
