"""Unions of units and of words for every concept: chosen on some images, judged on others, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gmm_ops.units.concept_counts import PATTERN_BITS, OverlapCounts
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
from workflows.studies.dissect.union_workers import MOST_MEMBERS, Candidates, Chosen, summed_patterns
from workflows.studies.dissect.workers import DissectSums, Subject

MOST_IMAGES = 1_000
"""That unions are chosen on, and judged on."""

Read = Callable[[str], list[np.ndarray]]
"""The arrays of a name, of all parts; see ``open_states``."""


def candidates_of(
    found: DissectSums, subject: Subject, thresholds: Sequence[Float[np.ndarray, "D Q"]]
) -> list[Candidates]:
    """Of every layer the units with the largest IoU with each concept, each at the threshold where it has it.

    The images that choose have the only say. Concepts without a pixel in either half have no candidate.
    """
    choosing = found.choosing
    wanted = np.flatnonzero((choosing.labels.areas > 0) & (found.judging.labels.areas > 0)).tolist()
    made = []
    for counts, values in zip(choosing.units, thresholds, strict=True):
        iou, one = counts.iou(choosing.labels, subject.category), Candidates.none(len(subject.category))
        for concept in wanted:
            places, shares = strongest(iou[:, :, concept], PATTERN_BITS)
            one.units[concept, : len(places)] = places
            one.thresholds[concept, : len(places)] = values[places, shares]
        made.append(one)
    return made


def held_out(images: Int[np.ndarray, " n"], train_images: int) -> Bool[np.ndarray, " n"]:
    """Which images judge: validation images; every second one where there are no training or no validation images."""
    judging = images >= train_images
    if min(judging.sum(), (~judging).sum()) < 2:
        judging = np.arange(len(images)) % 2 == 1
    return np.asarray(judging)


def some_images(images: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """At most ``MOST_IMAGES``, evenly spread over the ids."""
    count = min(len(images), MOST_IMAGES)
    return images[np.arange(count) * len(images) // max(count, 1)]


@dataclass(frozen=True)
class ChosenUnions:
    """Unions of every concept, and what they were chosen on.

    Attributes:
        images: (G,) how many of every group.
        labels: (G, C) pixels of every concept in them.
        units: of every group and layer, by concept; members are places among the candidates.
        words: of every dictionary, by concept.
    """

    images: Int[np.ndarray, " G"]
    labels: Int[np.ndarray, "G C"]
    units: tuple[tuple[tuple[Union, ...], ...], ...]
    words: tuple[tuple[Union, ...], ...]

    def members(self, candidates: Sequence[Candidates]) -> Chosen:
        """For the actors: which units, cut where, and which words."""
        units = tuple(
            tuple(_taken(unions, one) for unions, one in zip(layers, candidates, strict=True)) for layers in self.units
        )
        return Chosen(units, tuple(_padded(unions) for unions in self.words))


def _taken(unions: Sequence[Union], candidates: Candidates) -> Candidates:
    found = Candidates.none(len(unions), MOST_MEMBERS)
    for concept, union in enumerate(unions):
        places = list(union.members)
        found.units[concept, : len(places)] = candidates.units[concept, places]
        found.thresholds[concept, : len(places)] = candidates.thresholds[concept, places]
    return found


def _padded(unions: Sequence[Union]) -> Int[np.ndarray, "C M"]:
    found = np.full((len(unions), MOST_MEMBERS), -1, np.int64)
    for concept, union in enumerate(unions):
        found[concept, : len(union.members)] = union.members
    return found


def choose_unions(read: Read, subject: Subject) -> ChosenUnions:
    """From the parts of ``ChoosingWorker``, a concept at a time: the patterns of one are held, not those of all."""
    groups, concepts = range(len(subject.groups)), range(len(subject.category))
    labels = np.stack([np.sum(read(f"labels{group}"), axis=0) for group in groups])

    def of_units(group: int, layer: int, concept: int) -> Union:
        pattern, inside, area = summed_patterns(read(f"units{group}_{layer}_{concept}")).T
        shown = pattern_sets(pattern, PATTERN_BITS)
        return greedy_union(shown, inside, area, int(labels[group, concept]), MOST_MEMBERS)

    units = tuple(
        tuple(tuple(of_units(group, layer, one) for one in concepts) for layer in range(len(subject.layers)))
        for group in groups
    )
    words = tuple(_of_words(read, subject, number, labels) for number in range(len(subject.dictionaries)))
    images = np.array([np.sum(read(f"images{group}")) for group in groups], np.int64)
    return ChosenUnions(images, labels, units, words)


def _of_words(read: Read, subject: Subject, number: int, labels: Int[np.ndarray, "G C"]) -> tuple[Union, ...]:
    """Unions of the words of a dictionary, by concept."""
    dictionary, prefix = subject.dictionaries[number], f"words{number}_"
    names = OverlapCounts.zero(0, 1, 0, 0).to_arrays(prefix)
    counts = OverlapCounts.from_arrays({name: np.sum(read(name), axis=0) for name in names}, prefix)
    single, area = np.eye(dictionary.words, dtype=bool), labels[subject.group(dictionary)]
    inside, masked = counts.intersections[:, 0], counts.areas[:, 0, subject.category]
    return tuple(
        greedy_union(single, inside[:, one], masked[:, one], int(area[one]), MOST_MEMBERS)
        for one in range(len(subject.category))
    )


@dataclass(frozen=True)
class JudgedUnion:
    """A union, and how it does on the images that judge.

    Attributes:
        concept: its number.
        union: members, and IoU where they were chosen.
        iou: of the first 1, 2, ... members, with its interval over images.
        both, together: (2, images) pixels of intersection and union in each image that judges, of the first member and
            of all of them; (0, images) where nothing was chosen.
    """

    concept: int
    union: Union
    iou: tuple[Interval, ...]
    both: Int[np.ndarray, "ends images"]
    together: Int[np.ndarray, "ends images"]


class UnionJudge:
    """Judges on the images of one group.

    Args:
        read: parts of ``JudgingWorker``.
        group: its place.
        chosen: (C,) pixels of every concept in the images of the group that chose.
        seed: of the resamples, the same for all unions, so that differences are paired.
    """

    def __init__(self, read: Read, group: int, chosen: Int[np.ndarray, " C"], seed: int) -> None:
        self._read, self._chosen = read, chosen
        belongs = [part[:, group] for part in read("groups")]
        self._own = np.flatnonzero(np.concatenate(belongs))
        self._starts = np.cumsum([0, *map(len, belongs)])
        self._labels = np.concatenate(read("labels"))[self._own]
        self._weights = bootstrap_weights(len(self._own), seed) if len(self._own) else np.zeros((0, 0), np.int64)

    @property
    def images(self) -> int:
        """How many judge."""
        return len(self._own)

    def concepts(self) -> list[int]:
        """Those with a pixel both where unions are chosen and where they are judged."""
        return np.flatnonzero((self._chosen > 0) & self._labels.any(axis=0)).tolist()

    def judge(self, name: str, unions: Sequence[Union]) -> list[JudgedUnion]:
        """The unions of ``concepts``. name: of the arrays of what they cover."""
        parts = self._read(name)
        rows = np.concatenate(parts).astype(np.int64)
        rows[:, 0] += np.repeat(self._starts[:-1], [len(part) for part in parts])
        rows = rows[np.argsort(rows[:, 1], kind="stable")]
        ends = np.searchsorted(rows[:, 1], np.arange(len(unions) + 1))
        return [self._judged(one, unions[one], rows[ends[one] : ends[one + 1]]) for one in self.concepts()]

    def _judged(self, concept: int, union: Union, rows: Int[np.ndarray, "rows 34"]) -> JudgedUnion:
        sizes = len(union.members)
        sums = np.zeros((2, self._starts[-1], sizes), np.int64)
        sums[:, rows[:, 0]] = rows[:, 2:].reshape(len(rows), 2, MOST_MEMBERS).swapaxes(0, 1)[:, :, :sizes]
        both, masked = sums[:, self._own]
        together = masked + self._labels[:, concept, None] - both
        whole = pooled_iou(both, together)[0]
        resampled = pooled_iou(both, together, self._weights)
        iou = tuple(interval(float(whole[size]), resampled[:, size]) for size in range(sizes))
        ends = [0, sizes - 1] if sizes else []
        return JudgedUnion(concept, union, iou, both.T[ends], together.T[ends])

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
