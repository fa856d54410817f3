"""What actors do for dissect: histograms of activations, then overlaps with masks; ``union_workers``: unions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int

from gmm_ops.records import Sums
from gmm_ops.units.code_histograms import CodeHistograms
from gmm_ops.units.concept_counts import ConceptTally, LabelCounts, OverlapCounts
from gmm_ops.units.unit_sums import StrongestImages, WordSums
from workflows.asking.image_parts import ImageShard
from workflows.data.masks.concept_masks import MaskSet
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.studies.dissect.image_maps import ImageMaps, Maps, columns_of
from workflows.words.word_maps import read_words

STRONGEST = 8
"""Images kept for each unit and word: those of the contact sheets."""

_AT_ONCE = 25
"""Images whose columns are counted together."""


@dataclass(frozen=True)
class Dictionary:
    """The words of one layer in one scope."""

    scope: str
    layer: str
    words: int


@dataclass(frozen=True)
class Subject:
    """What is dissected.

    Attributes:
        layers: whose units.
        dictionaries: of those layers.
        masks: on the run's images.
        category: (C,) of every concept, from 0.
        judging: ids of the images that judge unions; the others choose them.
    """

    layers: tuple[LayerPlan, ...]
    dictionaries: tuple[Dictionary, ...]
    masks: MaskSet
    category: Int[np.ndarray, " C"]
    judging: Int[np.ndarray, " m"]

    @property
    def categories(self) -> int:
        """G."""
        return int(self.category.max(initial=-1)) + 1

    @property
    def groups(self) -> tuple[str | None, ...]:
        """Sets of images that something is counted on: all of them, then those of each scope that has not all."""
        return (None, *dict.fromkeys(one.scope for one in self.dictionaries if one.scope != JOINT))

    def group(self, dictionary: Dictionary) -> int:
        """Place of its images among ``groups``."""
        return 0 if dictionary.scope == JOINT else self.groups.index(dictionary.scope)

    def groups_of(self, words: Sequence[Int[np.ndarray, "h w"]]) -> list[int]:
        """Groups that an image belongs to. words: its map in every dictionary; a scope gives its own images words."""
        shown = {self.group(one) for one, own in zip(self.dictionaries, words, strict=True) if (own >= 0).any()}
        return sorted({0, *shown})


def words_of(folder: RunFolder, subject: Subject, images: Sequence[int]) -> list[Int[np.ndarray, "n h w"]]:
    """Word maps of images near each other, for each dictionary."""
    rows = [image - images[0] for image in images]
    first, stop = images[0], images[-1] + 1
    return [read_words(folder, one.scope, one.layer, first, stop).numpy()[rows] for one in subject.dictionaries]


class HistogramWorker:
    """Histograms of the float16 codes of every unit: of layer i the arrays ``<i>_...``."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, subject: Subject, shift: int) -> None:
        self._maps = ImageMaps(settings, plan, folder, subject.layers)
        self._layers, self._shift = subject.layers, shift

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Of a shard."""
        totals = [CodeHistograms.zero(layer.units, self._shift) for layer in self._layers]
        waiting: list[Maps] = []
        for place, (_, maps) in enumerate(self._maps(shard.images), start=1):
            waiting.append(maps)
            if len(waiting) == _AT_ONCE or place == len(shard):
                for number, layer in enumerate(self._layers):
                    columns = np.concatenate([columns_of(one[layer.name]) for one in waiting])
                    batch = CodeHistograms.from_batch(torch.from_numpy(columns), self._shift)
                    totals[number] = totals[number].merge(batch)
                waiting = []
        return {k: v for number, total in enumerate(totals) for k, v in total.to_arrays(f"{number}_").items()}


@dataclass(frozen=True)
class UnitTally(Sums):
    """Masks of units on some images.

    Attributes:
        labels: of these images.
        units: of every layer.
    """

    labels: LabelCounts
    units: tuple[OverlapCounts, ...]

    @classmethod
    def zero(cls, subject: Subject, shares: int) -> Self:
        """The neutral element."""
        concepts, groups = len(subject.category), subject.categories
        units = tuple(OverlapCounts.zero(layer.units, shares, concepts, groups) for layer in subject.layers)
        return cls(LabelCounts.zero(concepts, groups), units)


@dataclass(frozen=True)
class DissectSums(Sums):
    """What a shard adds to the tables.

    Attributes:
        choosing, judging: of the images that choose unions, and of those that judge them.
        scopes: labels of the images of every group but the first.
        words, members: of every dictionary.
        strongest_units, strongest_words: by the largest activation, and by the number of positions.
    """

    choosing: UnitTally
    judging: UnitTally
    scopes: tuple[LabelCounts, ...]
    words: tuple[OverlapCounts, ...]
    members: tuple[WordSums, ...]
    strongest_units: tuple[StrongestImages, ...]
    strongest_words: tuple[StrongestImages, ...]

    @classmethod
    def zero(cls, subject: Subject, shares: int) -> Self:
        """The neutral element."""
        concepts, groups = len(subject.category), subject.categories
        units = {layer.name: layer.units for layer in subject.layers}
        return cls(
            UnitTally.zero(subject, shares),
            UnitTally.zero(subject, shares),
            tuple(LabelCounts.zero(concepts, groups) for _ in subject.groups[1:]),
            tuple(OverlapCounts.zero(one.words, 1, concepts, groups) for one in subject.dictionaries),
            tuple(WordSums.zero(one.words, units[one.layer]) for one in subject.dictionaries),
            tuple(StrongestImages.zero(layer.units, STRONGEST) for layer in subject.layers),
            tuple(StrongestImages.zero(one.words, STRONGEST) for one in subject.dictionaries),
        )

    @cached_property
    def whole(self) -> UnitTally:
        """Of all images."""
        return self.choosing + self.judging

    def labels(self, group: int) -> LabelCounts:
        """Of the images of a group."""
        return self.scopes[group - 1] if group else self.whole.labels


class TallyWorker:
    """Overlaps of units and words with concepts.

    Args:
        settings, plan, folder: of the run.
        subject: what is dissected.
        thresholds: (D, Q) of every layer.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        subject: Subject,
        thresholds: Sequence[Float[np.ndarray, "D Q"]],
    ) -> None:
        self._maps = ImageMaps(settings, plan, folder, subject.layers)
        self._folder, self._subject, self._thresholds = folder, subject, list(thresholds)

    def __call__(self, shard: ImageShard) -> DissectSums:
        """Of a shard."""
        subject = self._subject
        total = DissectSums.zero(subject, self._thresholds[0].shape[1])
        words = words_of(self._folder, subject, shard.images)
        places = {layer.name: number for number, layer in enumerate(subject.layers)}
        highest: list[list[np.ndarray]] = [[] for _ in subject.layers]
        masks = subject.masks.read(shard.images)
        judging = np.isin(shard.images, subject.judging)
        for row, (_, maps) in enumerate(self._maps(shard.images)):
            tally = ConceptTally(subject.category, masks[row].labels)
            half = total.judging if judging[row] else total.choosing
            groups = subject.groups_of([own[row] for own in words])
            for labels in (half.labels, *(total.scopes[group - 1] for group in groups if group)):
                tally.labels(labels)
            for number, layer in enumerate(subject.layers):
                tally.units(half.units[number], maps[layer.name], self._thresholds[number])
                highest[number].append(maps[layer.name].max(axis=(1, 2)))
            for number, one in enumerate(subject.dictionaries):
                tally.words(total.words[number], words[number][row])
                columns = columns_of(maps[subject.layers[places[one.layer]].name])
                total.members[number].add(columns, words[number][row].ravel())
        return self._with_strongest(total, shard.images, highest, words)

    def _with_strongest(
        self, total: DissectSums, images: Sequence[int], highest: list[list[np.ndarray]], words: list[np.ndarray]
    ) -> DissectSums:
        units = tuple(StrongestImages.from_batch(np.stack(some), images, STRONGEST) for some in highest)
        counts = [
            np.stack([np.bincount(some[some >= 0], minlength=one.words) for some in maps.reshape(len(maps), -1)])
            for one, maps in zip(self._subject.dictionaries, words, strict=True)
        ]
        shown = tuple(
            StrongestImages.from_batch(np.where(some > 0, some, -np.inf), images, STRONGEST) for some in counts
        )
        return replace(total, strongest_units=units, strongest_words=shown)
