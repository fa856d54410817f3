"""Unions of units and of words for every concept: chosen on some images, judged on others, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gmm_ops.units.concept_counts import PATTERN_BITS, LabelCounts, OverlapCounts
from gmm_ops.units.unions import (
    Interval,
    Union,
    bootstrap_weights,
    greedy_union,
    interval,
    pattern_sets,
    pooled_iou,
    strongest,
)
from workflows.studies.dissect.workers import Candidates, Subject

MOST_MEMBERS = 16
"""Of a union."""

MOST_IMAGES = 1_000
"""That unions are chosen on, and judged on."""


@dataclass(frozen=True)
class UnionCounts:
    """All that the actors have counted, image by image.

    Attributes:
        images: (n,) ids.
        judged: (n,) whether an image judges; the others choose.
        labels: (n, C) pixels of every concept.
        units: (rows, 5) of every layer, see ``UnionWorker``, with the place of the image in ``images``.
        words: (rows, 4) of every dictionary.
        areas: (n, K) of every dictionary.
    """

    images: Int[np.ndarray, " n"]
    judged: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, "n C"]
    units: tuple[Int[np.ndarray, "rows 5"], ...]
    words: tuple[Int[np.ndarray, "rows 4"], ...]
    areas: tuple[Int[np.ndarray, "n K"], ...]

    @classmethod
    def join(
        cls, parts: Iterable[dict[str, np.ndarray]], judges: Int[np.ndarray, " m"], subject: Subject
    ) -> UnionCounts:
        """The parts of all shards, in their order."""
        listed = list(parts)
        starts = np.cumsum([0, *(len(part["image"]) for part in listed)])
        for part, start in zip(listed, starts, strict=False):
            for name, rows in part.items():
                if name.startswith(("units", "words")):
                    rows[:, 0] += start
        joined = {name: np.concatenate([part[name] for part in listed]) for name in listed[0]}
        images = joined["image"]
        return cls(
            images,
            np.isin(images, judges),
            joined["labels"],
            tuple(joined[f"units{number}"] for number in range(len(subject.layers))),
            tuple(joined[f"words{number}"] for number in range(len(subject.dictionaries))),
            tuple(joined[f"area{number}"] for number in range(len(subject.dictionaries))),
        )


@dataclass(frozen=True)
class JudgedUnion:
    """A union, and how it does on the images that judge.

    Attributes:
        concept: its number.
        union: members, and IoU where they were chosen.
        iou: of the first 1, 2, ... members, with its interval over images.
        both, together: (sizes, images) pixels of intersection and union in each image that judges.
    """

    concept: int
    union: Union
    iou: tuple[Interval, ...]
    both: Int[np.ndarray, "sizes images"]
    together: Int[np.ndarray, "sizes images"]


def candidates_of(
    overlaps: OverlapCounts, labels: LabelCounts, category: Int[np.ndarray, " C"], thresholds: Float[np.ndarray, "D Q"]
) -> Candidates:
    """The units with the largest IoU with every concept, each at the threshold where it has it."""
    iou = overlaps.iou(labels, category)
    units = np.full((len(category), PATTERN_BITS), -1, np.int64)
    limits = np.zeros(units.shape, np.float16)
    for concept in range(len(category)):
        places, shares = strongest(iou[:, :, concept], PATTERN_BITS)
        units[concept, : len(places)] = places
        limits[concept, : len(places)] = thresholds[places, shares]
    return Candidates(units, limits)


def split_images(images: Int[np.ndarray, " n"], train_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that choose, and images that judge: training and validation images; every second one without either.

    At most ``MOST_IMAGES`` of both, evenly spread over the ids.
    """
    held_out = images >= train_images
    if min(held_out.sum(), (~held_out).sum()) < 2:
        held_out = np.arange(len(images)) % 2 == 1
    return _some(images[~held_out]), _some(images[held_out])


def _some(images: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    count = min(len(images), MOST_IMAGES)
    return images[np.arange(count) * len(images) // max(count, 1)]


class UnionJudge:
    """Chooses and judges.

    Args:
        counts: of the images.
        category: (C,) of every concept.
        seed: of the resamples, the same for all unions, so that differences are paired.
    """

    def __init__(self, counts: UnionCounts, category: Int[np.ndarray, " C"], seed: int) -> None:
        self._counts, self._category = counts, category
        self._weights = bootstrap_weights(int(counts.judged.sum()), seed)
        groups = int(category.max(initial=-1)) + 1
        shown = counts.labels > 0
        self._carried = np.stack([shown[:, category == group].any(axis=1) for group in range(groups)], axis=1)

    def concepts(self) -> list[int]:
        """Those with a pixel both where unions are chosen and where they are judged."""
        judged = self._counts.judged
        known = self._counts.labels[judged].any(axis=0) & self._counts.labels[~judged].any(axis=0)
        return np.flatnonzero(known).tolist()

    def units(self, layer: int, concept: int) -> JudgedUnion:
        """Of units of a layer; members are places among its candidates."""
        rows = self._counts.units[layer]
        rows = rows[rows[:, 1] == concept]
        image, _, pattern, inside, area = rows.T
        choosing = ~self._counts.judged[image]
        shown = pattern_sets(pattern, PATTERN_BITS)
        label = int(self._counts.labels[~self._counts.judged, concept].sum())
        found = greedy_union(shown[choosing], inside[choosing], area[choosing], label, MOST_MEMBERS)
        covered = np.cumsum(shown[:, list(found.members)], axis=1) > 0
        return self._judge(concept, found, image, covered, inside, area)

    def words(self, dictionary: int, concept: int) -> JudgedUnion:
        """Of words of a dictionary."""
        areas, rows = self._counts.areas[dictionary], self._counts.words[dictionary]
        rows = rows[rows[:, 2] == concept]
        here = self._carried[:, self._category[concept]]
        judged, words = self._counts.judged, areas.shape[1]
        inside = np.zeros(areas.shape, np.int64)
        inside[rows[:, 0], rows[:, 1]] = rows[:, 3]
        area = areas * here[:, None]
        label = int(self._counts.labels[~judged, concept].sum())
        found = greedy_union(
            np.eye(words, dtype=bool), inside[~judged].sum(0), area[~judged].sum(0), label, MOST_MEMBERS
        )
        image, word = np.nonzero(area)
        covered = np.cumsum(word[:, None] == np.array(found.members, np.int64), axis=1) > 0
        return self._judge(concept, found, image, covered, inside[image, word], area[image, word])

    def _judge(
        self,
        concept: int,
        found: Union,
        image: Int[np.ndarray, " rows"],
        covered: Bool[np.ndarray, "rows sizes"],
        inside: Int[np.ndarray, " rows"],
        area: Int[np.ndarray, " rows"],
    ) -> JudgedUnion:
        images = len(self._counts.images)
        sizes = range(len(found.members))
        sums = [[np.bincount(image, of * covered[:, size], images) for size in sizes] for of in (inside, area)]
        both, masked = (np.array(some, np.int64).reshape(len(sizes), images)[:, self._counts.judged] for some in sums)
        together = masked + self._counts.labels[self._counts.judged, concept] - both
        whole = pooled_iou(both.T, together.T)[0]
        resampled = pooled_iou(both.T, together.T, self._weights)
        iou = tuple(interval(float(whole[size]), resampled[:, size]) for size in sizes)
        return JudgedUnion(concept, found, iou, both, together)

    def mean(
        self, unions: Sequence[JudgedUnion], single: bool = False
    ) -> tuple[Interval, Float[np.ndarray, " resamples"]]:
        """Mean IoU over concepts, with its resamples. single: of the first members alone."""
        place = 0 if single else -1
        kept = [union for union in unions if len(union.both)]
        if not kept:
            return Interval(0.0, 0.0, 0.0), np.zeros(len(self._weights))
        both, together = (np.stack([getattr(one, of)[place] for one in kept], axis=1) for of in ("both", "together"))
        # A concept for which nothing was chosen has IoU 0; one without a pixel in a resample is left out of its mean.
        whole = float(pooled_iou(both, together)[0].sum() / len(unions))
        share = len(kept) / len(unions)
        resampled = np.nanmean(pooled_iou(both, together, self._weights), axis=1) * share
        return interval(whole, resampled), resampled


def difference(words: tuple[Interval, np.ndarray], units: tuple[Interval, np.ndarray]) -> Interval:
    """Words minus units, paired by resample."""
    return interval(words[0].value - units[0].value, words[1] - units[1])


def described(value: Interval) -> dict[str, Any]:
    """For JSON."""
    return {"value": round(value.value, 6), "low": round(value.low, 6), "high": round(value.high, 6)}
