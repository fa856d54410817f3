"""What actors do for unions: count what they are chosen by, then what they cover on the images that judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

from gmm_ops.units.concept_counts import (
    PATTERN_BITS,
    ConceptTally,
    OverlapCounts,
    mask_patterns,
)
from workflows.asking.image_parts import ImageShard
from workflows.data.masks.concept_masks import Labels
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.studies.dissect.image_maps import ImageMaps
from workflows.studies.dissect.workers import Subject, words_of

MOST_MEMBERS = 16
"""Of a union."""

_PATTERNS = 650
"""Sets of units that the pixels of an image show, of 32 candidates for a concept: measured on ResNet-50."""

_PIXELS_BYTES, _COUNT_BYTES = 4, 8


@dataclass(frozen=True)
class Candidates:
    """Units of one layer by concept: those that may join its union, or those that have.

    Attributes:
        units: (C, M) strongest or first first, -1 where there is no further one.
        thresholds: (C, M) that each is cut at.
    """

    units: Int[np.ndarray, "C M"]
    thresholds: Float[np.ndarray, "C M"]

    @classmethod
    def none(cls, concepts: int, most: int = PATTERN_BITS) -> Candidates:
        """To be filled."""
        return cls(np.full((concepts, most), -1, np.int64), np.zeros((concepts, most), np.float16))

    def marked(
        self, concept: int, maps: Float[np.ndarray, "D h w"], size: tuple[int, int]
    ) -> UInt32[np.ndarray, "H W"]:
        """At every pixel, as bits, which of the units of a concept exceed their thresholds."""
        known = self.units[concept] >= 0
        return mask_patterns(maps, self.units[concept][known], self.thresholds[concept][known].astype(float), size)


class ChoosingWorker:
    """What unions are chosen by, summed over the images of a shard that choose.

    Arrays, g being the place of a group of images (``Subject.groups``): ``images<g>``, how many there are;
    ``labels<g>`` (C,), pixels of every concept; ``units<g>_<i>_<c>`` (n, 3) of layer i and concept c: pattern, its
    pixels inside the concept, all its pixels, in images that carry a label of the concept's category; ``words<j>_...``,
    the counts of dictionary j.

    Args:
        settings, plan, folder: of the run.
        subject: what is dissected.
        candidates: of every layer.
    """

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, subject: Subject, candidates: Sequence[Candidates]
    ) -> None:
        self._maps = ImageMaps(settings, plan, folder, subject.layers)
        self._folder, self._subject, self._candidates = folder, subject, list(candidates)

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Of a shard."""
        subject, concepts = self._subject, len(self._subject.category)
        masks, words = subject.masks.read(shard.images), words_of(self._folder, subject, shard.images)
        images = np.zeros(len(subject.groups), np.int64)
        areas = np.zeros((len(subject.groups), concepts), np.int64)
        patterns: dict[tuple[int, int, int], list[np.ndarray]] = {}
        counts = [OverlapCounts.zero(one.words, 1, concepts, subject.categories) for one in subject.dictionaries]
        for row, (_, maps) in enumerate(self._maps(shard.images)):
            labels, own = masks[row].labels, [some[row] for some in words]
            groups = subject.groups_of(own)
            area = areas_of(labels, concepts)
            images[groups] += 1
            areas[groups] += area
            tally = ConceptTally(subject.category, labels)
            for number, layer in enumerate(subject.layers):
                for concept in carried_concepts(subject, area, self._candidates[number]):
                    shown = self._candidates[number].marked(concept, maps[layer.name], labels.shape[1:])
                    own_rows = pattern_rows(shown, inside_of(labels, concept))
                    for group in groups:
                        patterns.setdefault((group, number, concept), []).append(own_rows)
            for number, some in enumerate(own):
                tally.words(counts[number], some)
        found = {f"images{group}": images[group] for group in range(len(images))}
        found |= {f"labels{group}": areas[group] for group in range(len(images))}
        for (group, number, concept), rows in patterns.items():
            found[f"units{group}_{number}_{concept}"] = summed_patterns(rows).astype(np.uint32)
        for number, one in enumerate(counts):
            found |= one.to_arrays(f"words{number}_")
        return found


@dataclass(frozen=True)
class Chosen:
    """Unions.

    Attributes:
        units: of every group of images and layer.
        words: (C, ``MOST_MEMBERS``) of every dictionary, -1 where there is no further one.
    """

    units: tuple[tuple[Candidates, ...], ...]
    words: tuple[Int[np.ndarray, "C M"], ...]


class JudgingWorker:
    """What the chosen unions cover, image by image.

    Arrays: ``image`` (n,), ``labels`` (n, C), ``groups`` (n, G); of group g and layer i ``units<g>_<i>``, of dictionary
    j ``words<j>``: rows (place of the image in the shard, concept, then for 1 to 16 members the pixels of the union
    inside the concept, then all of them), for the concepts of the categories that the image carries.

    Args:
        settings, plan, folder: of the run.
        subject: what is dissected.
        chosen: unions.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, subject: Subject, chosen: Chosen) -> None:
        self._maps = ImageMaps(settings, plan, folder, subject.layers)
        self._folder, self._subject, self._chosen = folder, subject, chosen

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Of a shard."""
        subject, chosen = self._subject, self._chosen
        masks, words = subject.masks.read(shard.images), words_of(self._folder, subject, shard.images)
        labels = np.stack([areas_of(one.labels, len(subject.category)) for one in masks])
        belongs = np.zeros((len(shard), len(subject.groups)), bool)
        names = [
            f"units{group}_{layer}" for group in range(len(subject.groups)) for layer in range(len(subject.layers))
        ]
        rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
        rows |= {f"words{number}": [] for number in range(len(subject.dictionaries))}
        for row, (_, maps) in enumerate(self._maps(shard.images)):
            own = [some[row] for some in words]
            groups = subject.groups_of(own)
            belongs[row, groups] = True
            for group in groups:
                for number, layer in enumerate(subject.layers):
                    taken = chosen.units[group][number]
                    for concept in carried_concepts(subject, labels[row], taken):
                        shown = taken.marked(concept, maps[layer.name], masks[row].labels.shape[1:])
                        covered = covered_by_units(shown, inside_of(masks[row].labels, concept))
                        rows[f"units{group}_{number}"].append(np.concatenate([[row, concept], covered])[None])
            tally = ConceptTally(subject.category, masks[row].labels)
            for number, some in enumerate(own):
                counts = OverlapCounts.zero(
                    subject.dictionaries[number].words, 1, len(subject.category), subject.categories
                )
                tally.words(counts, some)
                covered = covered_by_words(counts, chosen.words[number], subject.category)
                some_concepts = np.flatnonzero(counts.areas.sum(axis=(0, 1))[subject.category])
                head = np.stack([np.full(len(some_concepts), row), some_concepts], axis=1)
                rows[f"words{number}"].append(np.concatenate([head, covered[some_concepts]], axis=1))
        found = {"image": np.array(shard.images, np.int64), "labels": labels, "groups": belongs}
        empty = np.zeros((0, 2 + 2 * MOST_MEMBERS), np.int64)
        return found | {name: np.concatenate([empty, *some]).astype(np.uint32) for name, some in rows.items()}


def areas_of(labels: Labels, concepts: int) -> Int[np.ndarray, " C"]:
    """Pixels of every concept."""
    return np.bincount(labels.ravel(), minlength=concepts + 1)[1:].astype(np.int64)


def inside_of(labels: Labels, concept: int) -> Bool[np.ndarray, "H W"]:
    """Where a concept lies."""
    return np.asarray((labels == concept + 1).any(axis=0))


def carried_concepts(subject: Subject, area: Int[np.ndarray, " C"], units: Candidates) -> list[int]:
    """Concepts that have units, of the categories that an image carries a label of."""
    carried = np.isin(subject.category, subject.category[area > 0])
    return np.flatnonzero(carried & (units.units[:, 0] >= 0)).tolist()


def pattern_rows(shown: UInt32[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "n 3"]:
    """(pattern, pixels inside, all pixels) of the patterns that show a unit."""
    some = shown > 0
    kinds, place, area = np.unique(shown[some], return_inverse=True, return_counts=True)
    return np.stack([kinds, np.bincount(place, inside[some], len(kinds)), area], axis=1).astype(np.int64)


def summed_patterns(rows: Sequence[Int[np.ndarray, "n 3"]]) -> Int[np.ndarray, "m 3"]:
    """Rows of several images or shards with those of the same pattern added up."""
    joined = np.concatenate([np.zeros((0, 3), np.int64), *rows])
    kinds, place = np.unique(joined[:, 0], return_inverse=True)
    # In float64 sums of pixels are exact.
    sums = [np.bincount(place, joined[:, column], len(kinds)) for column in (1, 2)]
    return np.stack([kinds, *sums], axis=1).astype(np.int64)


def covered_by_units(shown: UInt32[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, " 2M"]:
    """Pixels of the first 1, 2, ... units together, inside the concept and then all."""
    kinds, both, area = pattern_rows(shown, inside).T
    first = np.log2(kinds & -kinds).astype(np.int64)  # the first member that covers a pixel
    sums = [np.bincount(first, pixels, MOST_MEMBERS).cumsum() for pixels in (both, area)]
    return np.concatenate(sums).astype(np.int64)


def covered_by_words(
    counts: OverlapCounts, members: Int[np.ndarray, "C M"], category: Int[np.ndarray, " C"]
) -> Int[np.ndarray, "C 2M"]:
    """The same of words, for every concept; they share the pixels out, so their pixels add up."""
    known = members >= 0
    both = counts.intersections[members, 0, np.arange(len(members))[:, None]] * known
    area = counts.areas[members, 0, category[:, None]] * known
    return np.concatenate([both.cumsum(axis=1), area.cumsum(axis=1)], axis=1)


def choosing_bytes(subject: Subject, images: int, copies: float) -> int:
    """Of a shard, at most: patterns of every concept in every image, and the counts of words.

    Args:
        subject: what is dissected.
        images: of the shard.
        copies: groups that an image belongs to, on average.
    """
    patterns = images * len(subject.category) * len(subject.layers) * _PATTERNS * 3 * _PIXELS_BYTES
    words = sum(one.words for one in subject.dictionaries) * (len(subject.category) + 2 * subject.categories)
    return int(patterns * copies) + words * _COUNT_BYTES


def judging_bytes(subject: Subject, images: int, copies: float) -> int:
    """The same of what unions of units and of words cover."""
    rows = images * len(subject.category) * len(subject.layers) * 2
    return int(rows * copies) * (2 + 2 * MOST_MEMBERS) * _PIXELS_BYTES + images * len(subject.category) * _COUNT_BYTES
