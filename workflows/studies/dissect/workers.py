"""What actors do for dissect: histograms of activations, then overlaps with masks, then what unions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int

from gmm_ops.records import Sums
from gmm_ops.units.code_histograms import CodeHistograms
from gmm_ops.units.concept_counts import (
    ConceptTally,
    LabelCounts,
    OverlapCounts,
    mask_patterns,
    nearest_positions,
)
from gmm_ops.units.unit_sums import StrongestImages, WordSums
from workflows.asking.image_parts import ImageShard
from workflows.data.masks.concept_masks import Labels, MaskSet
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings
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
    """

    layers: tuple[LayerPlan, ...]
    dictionaries: tuple[Dictionary, ...]
    masks: MaskSet
    category: Int[np.ndarray, " C"]

    @property
    def categories(self) -> int:
        """G."""
        return int(self.category.max(initial=-1)) + 1


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
class DissectSums(Sums):
    """What a shard adds to the tables.

    Attributes:
        labels: of its masks.
        units: of every layer.
        words, members: of every dictionary.
        strongest_units, strongest_words: by the largest activation, and by the number of positions.
    """

    labels: LabelCounts
    units: tuple[OverlapCounts, ...]
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
            LabelCounts.zero(concepts, groups),
            tuple(OverlapCounts.zero(layer.units, shares, concepts, groups) for layer in subject.layers),
            tuple(OverlapCounts.zero(one.words, 1, concepts, groups) for one in subject.dictionaries),
            tuple(WordSums.zero(one.words, units[one.layer]) for one in subject.dictionaries),
            tuple(StrongestImages.zero(layer.units, STRONGEST) for layer in subject.layers),
            tuple(StrongestImages.zero(one.words, STRONGEST) for one in subject.dictionaries),
        )


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
        for row, (_, maps) in enumerate(self._maps(shard.images)):
            tally = ConceptTally(subject.category, masks[row].labels)
            tally.labels(total.labels)
            for number, layer in enumerate(subject.layers):
                tally.units(total.units[number], maps[layer.name], self._thresholds[number])
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
        return DissectSums(total.labels, total.units, total.words, total.members, units, shown)


@dataclass(frozen=True)
class Candidates:
    """Units of one layer that may join a union, by concept.

    Attributes:
        units: (C, M) strongest first, -1 where there is no further one.
        thresholds: (C, M) that each is cut at.
    """

    units: Int[np.ndarray, "C M"]
    thresholds: Float[np.ndarray, "C M"]


class UnionWorker:
    """What unions are chosen and judged by, image by image.

    Arrays: ``image`` (n,), ``labels`` (n, C); of layer i rows ``units<i>`` (image, concept, pattern, inside, area), in
    images that carry a label of the concept's category; of dictionary j ``area<j>`` (n, K) and rows ``words<j>``
    (image, word, concept, inside). The image of a row is its place in the shard.
    """

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, subject: Subject, candidates: Sequence[Candidates]
    ) -> None:
        self._maps = ImageMaps(settings, plan, folder, subject.layers)
        self._folder, self._subject, self._candidates = folder, subject, list(candidates)

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Of a shard."""
        subject = self._subject
        masks, words = subject.masks.read(shard.images), words_of(self._folder, subject, shard.images)
        concepts = len(subject.category)
        labels = [np.bincount(one.labels.ravel(), minlength=concepts + 1)[1:] for one in masks]
        units: list[list[np.ndarray]] = [[] for _ in subject.layers]
        of_words: list[list[np.ndarray]] = [[] for _ in subject.dictionaries]
        areas: list[list[np.ndarray]] = [[] for _ in subject.dictionaries]
        for row, (_, maps) in enumerate(self._maps(shard.images)):
            carried = np.unique(subject.category[labels[row] > 0])
            for number, layer in enumerate(subject.layers):
                wanted = np.flatnonzero(np.isin(subject.category, carried))
                rows = _pattern_rows(maps[layer.name], self._candidates[number], masks[row].labels, wanted)
                units[number].append(_with_image(row, rows))
            for number, one in enumerate(subject.dictionaries):
                area, rows = _word_rows(words[number][row], one.words, masks[row].labels)
                areas[number].append(area)
                of_words[number].append(_with_image(row, rows))
        found = {"image": np.array(shard.images, np.int64), "labels": np.stack(labels).astype(np.int64)}
        found |= {f"units{number}": np.concatenate(rows) for number, rows in enumerate(units)}
        found |= {f"words{number}": np.concatenate(rows) for number, rows in enumerate(of_words)}
        return found | {f"area{number}": np.stack(rows) for number, rows in enumerate(areas)}


def _with_image(image: int, rows: Int[np.ndarray, "n m"]) -> Int[np.ndarray, "n m1"]:
    return np.concatenate([np.full((len(rows), 1), image, np.int64), rows], axis=1)


def _pattern_rows(
    maps: Float[np.ndarray, "D h w"], candidates: Candidates, labels: Labels, wanted: Int[np.ndarray, " m"]
) -> Int[np.ndarray, "n 4"]:
    """(concept, pattern, inside, area) of patterns that show a candidate."""
    found = [np.zeros((0, 4), np.int64)]
    for concept in wanted.tolist():
        known = candidates.units[concept] >= 0
        size = (labels.shape[1], labels.shape[2])
        limits = candidates.thresholds[concept][known].astype(np.float64)
        patterns = mask_patterns(maps, candidates.units[concept][known], limits, size)
        shown = patterns > 0
        inside = (labels[:, shown] == concept + 1).any(axis=0)
        kinds, place, area = np.unique(patterns[shown], return_inverse=True, return_counts=True)
        both = np.bincount(place, inside, minlength=len(kinds)).astype(np.int64)
        found.append(np.stack([np.full(len(kinds), concept), kinds, both, area], axis=1).astype(np.int64))
    return np.concatenate(found)


def _word_rows(
    words: Int[np.ndarray, "h w"], count: int, labels: Labels
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, "n 3"]]:
    """Pixels of every word, and (word, concept, inside) where a word meets a concept."""
    rows, columns = (nearest_positions(low, high) for low, high in zip(words.shape, labels.shape[1:], strict=True))
    wide = words[rows[:, None], columns].astype(np.int64)
    area = np.bincount(wide[wide >= 0], minlength=count)
    meets = (labels > 0) & (wide >= 0)
    span = int(labels.max(initial=0)) + 1
    keys, inside = np.unique(np.broadcast_to(wide, labels.shape)[meets] * span + labels[meets], return_counts=True)
    return area, np.stack([keys // span, keys % span - 1, inside], axis=1)
