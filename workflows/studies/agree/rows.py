"""Rows of agreement, word_matches and consensus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.trust.agreement import HALF, LayerOverlaps, consensus_shares, covered_ratios, covered_shares, drawn_overlap
from gmm_ops.trust.paired_bootstrap import bootstrap_ratios
from workflows.studies.agree.worker import AgreementPart, ComparedLayer, Subject
from workflows.words.matched_words import MatchedWords, match_overlapping

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class LayerAgreement:
    """A layer, what was found there, and whose graphs.

    Attributes:
        layer: as every run has it.
        found: sums over the images, and a row for each of ``groups``.
        groups: (n,) place of the class of each image; -1: of none.
        subject: what is compared.
        class_names: of all classes.
        seed: of the bootstrap.
    """

    layer: ComparedLayer
    found: LayerOverlaps
    groups: Int[Tensor, " n"]
    subject: Subject
    class_names: Sequence[str]
    seed: int

    def pairs(self) -> list[tuple[int, tuple[int, int]]]:
        """Number of every pair of runs, and their places."""
        return list(enumerate(combinations(range(len(self.subject.names)), 2)))

    def pair_key(self, one: int, other: int) -> Row:
        """Key columns of two runs."""
        layers, names = self.layer.layers, self.subject.names
        key = {"scope": self.subject.scope, "layer": layers[one].name, "other_layer": layers[other].name}
        return {**key, "run": names[one], "other_run": names[other]}

    def class_key(self, place: int) -> Row:
        """Key columns of a class."""
        label = self.subject.classes[place]
        return {"class": label, "class_name": self.class_names[label], "images": int((self.groups == place).sum())}

    @cached_property
    def matches(self) -> tuple[list[MatchedWords], list[MatchedWords]]:
        """Of every pair of runs; and with the second run's columns shuffled."""
        return [*map(match_overlapping, self.found.words)], [*map(match_overlapping, self.found.shuffled)]

    def graph(self, place: int, run: int) -> list[int]:
        """Words of the graph of a class, best first."""
        return [word for word in self.layer.choices.chosen[place, run, 0].tolist() if word >= 0]


def layer_agreements(
    part: AgreementPart, subject: Subject, class_names: Sequence[str], seed: int
) -> list[LayerAgreement]:
    """All layers, lowest first."""
    groups = torch.from_numpy(subject.groups)
    return [
        LayerAgreement(layer, found, groups, subject, class_names, seed)
        for layer, found in zip(subject.layers, part.layers, strict=True)
    ]


def agreement_rows(own: LayerAgreement) -> Iterator[Row]:
    """Of every pair of runs: of the dictionaries, then of the graphs of every class."""
    for number, (one, other) in own.pairs():
        key = own.pair_key(one, other)
        sizes = own.layer.choices.sizes[one], own.layer.choices.sizes[other]
        yield {**key, "images": len(own.groups), **_matched(own, number, *map(range, sizes)), "matched_chance": None}
        for place in range(len(own.subject.classes)):
            graphs = own.graph(place, one), own.graph(place, other)
            yield {
                **key,
                **own.class_key(place),
                **_matched(own, number, *graphs),
                **_covered(own, place, one, other),
            }


def _matched(own: LayerAgreement, number: int, words: Sequence[int], others: Sequence[int]) -> Row:
    """How many words of two graphs, or dictionaries, are each other's matches, and how far they overlap."""
    both = len(words) + len(others)
    row: Row = {"words": len(words), "other_words": len(others)}
    if not both:
        return row
    matched = [overlap for match, overlap in own.matches[0][number].of(words).values() if match in set(others)]
    by_chance = 2 * len(words) * len(others) / max(own.found.words[number].shape) / both
    return row | {
        "matched_share": 2 * len(matched) / both,
        "matched_chance": by_chance,
        "same_share": 2 * sum(overlap > HALF for overlap in matched) / both,
        "word_iou": _mean_overlap(own.matches[0][number], words, others),
        "word_iou_chance": _mean_overlap(own.matches[1][number], words, others),
    }


def _mean_overlap(matches: MatchedWords, words: Sequence[int], others: Sequence[int]) -> float:
    found = [overlap for _, overlap in (*matches.of(words).values(), *matches.reversed().of(others).values())]
    return sum(found) / (len(words) + len(others))


def _covered(own: LayerAgreement, place: int, one: int, other: int) -> Row:
    """How far the columns that two graphs cover are the same."""
    of_class = own.found.covered[own.groups == place]
    ratios = bootstrap_ratios(*covered_ratios(of_class, one, other, own.layer.positions), own.seed)
    (value, shuffled), (low, _), (high, _) = ratios.tolist()
    found = {"columns_iou": value, "columns_iou_low": low, "columns_iou_high": high, "columns_shuffled": shuffled}
    found["columns_chance"] = drawn_overlap(own.found.drawn[place], one, other)
    return {name: _known(number) for name, number in found.items()}


def match_rows(own: LayerAgreement) -> Iterator[Row]:
    """Every word with its match, of every pair of runs."""
    for number, (one, other) in own.pairs():
        key, found = own.pair_key(one, other), own.matches[0][number]
        sums = own.found.words[number].sum(dim=1).tolist(), own.found.words[number].sum(dim=0).tolist()
        for word, match, overlap in zip(found.word.tolist(), found.match.tolist(), found.overlap.tolist(), strict=True):
            counts = {"columns": sums[0][word], "other_columns": sums[1][match]}
            yield {**key, "word": word, "other_word": match, "iou": overlap, **counts}


def consensus_rows(own: LayerAgreement) -> Iterator[Row]:
    """Every node of every run, in how many others its columns are covered."""
    covered = covered_shares(own.found.again, own.found.columns)
    chance = own.found.product.double() / (own.found.columns * own.layer.positions)[..., None].clamp(min=1)
    shares, runs = consensus_shares(covered), len(own.subject.names)
    for place in range(len(own.subject.classes)):
        for run, name in enumerate(own.subject.names):
            others = [other for other in range(runs) if other != run]
            for rank, word in enumerate(own.graph(place, run)):
                share = _known(float(shares[place, run, rank]))
                means = [_known(float(one[place, run, rank, others].mean())) for one in (covered, chance)]
                yield {
                    "scope": own.subject.scope,
                    **own.class_key(place),
                    "run": name,
                    "layer": own.layer.layers[run].name,
                    "word": word,
                    "rank": rank,
                    "columns": int(own.found.columns[place, run, rank]),
                    "runs": len(others),
                    "covered_runs": None if share is None else round(share * len(others)),
                    "covered_share": share,
                    "columns_covered": None if share is None else means[0],
                    "columns_chance": None if share is None else means[1],
                    "stable": None if share is None else share >= HALF,
                }


def means_by_layer(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """By layer, means over classes and pairs of runs, where known; of the dictionaries ``all_words_...``."""
    layers = dict.fromkeys(row["layer"] for row in rows)
    found = []
    for layer in layers:
        graphs = [row for row in rows if row["layer"] == layer and row.get("class") is not None]
        whole = [row for row in rows if row["layer"] == layer and row.get("class") is None]
        means = {name: _mean([row.get(name) for row in graphs]) for name in _MEANS}
        of_words = {f"all_words_{name}": _mean([row.get(name) for row in whole]) for name in _OF_WORDS}
        found.append({"layer": layer, **of_words, **means})
    return found


_MEANS = (
    "matched_share", "matched_chance", "same_share", "word_iou", "word_iou_chance", "columns_iou", "columns_chance",
    "columns_shuffled",
)  # fmt: skip
_OF_WORDS = ("same_share", "word_iou", "word_iou_chance")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _known(value: float) -> float | None:
    """None of NaN: there was nothing to divide by."""
    return value if value == value else None
