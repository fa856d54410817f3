"""Rows of pattern_words and pattern_word_measures: which words lie where the patterns of a class sit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_measures import jackknife_interval
from gmm_ops.explanatory.pattern_words import TopWords, WordTally, smoothed_ratios
from workflows.asking.pattern_files import PatternedLayer, Top, TurnedObjects, shard_rows
from workflows.plan.run_plan import LayerPlan
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.tables import to_table
from workflows.studies.patterns.measures import GROUPS, NEAR
from workflows.studies.patterns.placed_words import (
    SOURCES,
    LayerPlaces,
    PlacedWords,
    matched_layers,
    part_ratios,
    scaling_of,
)
from workflows.studies.patterns.rows import PatternKey
from workflows.studies.patterns.subject import Subject

LEAST_SHARE = 0.1
"""Of a pattern's objects: words that lie there less often have no row, but for the most frequent."""

LEAST_OBJECTS = 10
"""With a word at a pattern: the words of fewer say too little of what it shows to be averaged."""


@dataclass(frozen=True, eq=False)
class LayerWords:
    """What has been found of a layer.

    Attributes:
        layer, matched: with patterns, and with words.
        means: (V, 2) mean places of its patterns.
        tops: by source the most frequent words.
        parts: by source (P, R, V) mean over objects of how much likelier the word is in a part than on objects.
        listed: rows of pattern_words.
    """

    layer: PatternedLayer
    matched: LayerPlan
    means: Float[Tensor, "V 2"]
    tops: Mapping[str, TopWords]
    parts: Mapping[str, Float[Tensor, "P R V"]]
    listed: pa.Table

    @property
    def known(self) -> Tensor:
        """(V,) whether a pattern has words on enough objects to be averaged."""
        return self.tops["patterns"].objects[0] >= LEAST_OBJECTS


class WordJoin:
    """One class and one scope: whose words lie where patterns sit.

    Args:
        subject: the class.
        turned: its objects.
        scope: name of a scope that the run has.
    """

    def __init__(self, subject: Subject, turned: TurnedObjects, scope: str) -> None:
        self._subject, self._turned, self.scope = subject, turned, scope
        study, objects = subject.study, turned.objects
        scaling = scaling_of(study, objects.images)
        self._matched = matched_layers(study, subject.layers)
        self._words = {one.name: PlacedWords(study, turned, scope, one, scaling) for one in self._matched}
        self._groups = torch.from_numpy(np.unique(objects.images, return_inverse=True)[1] % GROUPS)
        shown = self._shown(next(iter(self._words.values())))
        asked = torch.zeros(len(objects), dtype=torch.bool)
        asked[torch.from_numpy(turned.judged())] = True
        self.judged, self._lost = shown & asked, int((~shown & asked).sum())
        self._parts = {name: part_ratios(words, self._groups, self.judged) for name, words in self._words.items()}
        if self._lost:
            study.say(f"{subject.class_name}: {self._lost:,} of {int(asked.sum()):,} objects show no word of {scope}: "
                      "left out")  # fmt: skip
        pairs = (f"{one.name} with {two.given}" for one, two in zip(subject.layers, self._matched, strict=True))
        study.say(f"{subject.class_name}: words of {scope} at patterns, by the nearest stride: {', '.join(pairs)}")

    def _shown(self, words: PlacedWords) -> Tensor:
        """(n,) whether an object lies at all where its photo has words."""
        objects, found = self._turned.objects, []
        for first in range(0, len(objects), shard_rows()):
            found.append(
                words.shares(slice(first, min(first + shard_rows(), len(objects))), objects.boxes).sum(dim=1) > 0
            )
        return torch.cat(found)

    def told(self) -> dict[str, Any]:
        """For programs."""
        layers = {one.name: two.name for one, two in zip(self._subject.layers, self._matched, strict=True)}
        return {
            "scope": self.scope,
            "layers": layers,
            "objects": int(self.judged.sum()),
            "objects_left_out": self._lost,
        }

    def layer_words(self, top: Top, place: int) -> LayerWords:
        """Words at all patterns of a layer, some patterns at a time."""
        layer, matched = self._subject.layers[place], self._matched[place]
        units = self._subject.files.patterns(top, layer.name).means
        means, count = units.reshape(-1, 2).double(), units.shape[1]
        own = LayerPlaces(self._subject.files, top, layer, means, self._words[matched.name], self._groups, self.judged)
        listed = list[pa.Table]()
        by_source, by_part = ({name: list[Any]() for name in SOURCES} for _ in range(2))
        for some, tallies in own.tallies():
            listed.append(self._listed(top, layer, count, matched, some, tallies))
            for source, tally in tallies.items():
                left = tally.left_out()
                by_source[source].append(TopWords.of(left, self._pseudo_count, LOG_UNIT.base))
                by_part[source].append(_weighted(left, self._parts[matched.name]))
        joined = {name: _side_by_side(blocks) for name, blocks in by_source.items()}
        parts = {name: torch.cat(blocks, dim=2) for name, blocks in by_part.items()}
        return LayerWords(layer, matched, means, joined, parts, pa.concat_tables(listed))

    @property
    def _pseudo_count(self) -> float:
        return self._subject.study.settings.mine.pseudo_count

    def _key(self, top: Top) -> PatternKey:
        return PatternKey(self._subject.label, self._subject.class_name, top)

    def _listed(
        self,
        top: Top,
        layer: PatternedLayer,
        count: int,
        matched: LayerPlan,
        some: slice,
        tallies: Mapping[str, WordTally],
    ) -> pa.Table:
        """Rows of pattern_words of some patterns, most frequent word first. count: patterns of a unit."""
        counts, constant = (tallies[name].counts.sum(dim=0) for name in ("patterns", "constant"))
        objects, whole = counts.sum(dim=1, keepdim=True), constant.sum(dim=1, keepdim=True)
        chance = tallies["patterns"].chance.sum(dim=0) / objects
        ratios = smoothed_ratios(counts, chance, self._pseudo_count, LOG_UNIT.base)
        order = np.argsort(-counts.numpy(), axis=1, kind="stable")
        ranked = np.take_along_axis(counts.numpy(), order, axis=1)
        kept = (ranked > 0) & ((ranked >= LEAST_SHARE * objects.numpy()) | (np.arange(ranked.shape[1]) == 0))
        row, rank = np.nonzero(kept)
        word, number = order[row, rank], row + some.start
        steady = (constant / whole).numpy()[row, word]
        columns = {
            **self._key(top).columns(len(row)),
            "layer": [layer.name] * len(row),
            "unit": (number // count).astype(np.int32),
            "pattern": (number % count).astype(np.int32),
            "scope": [self.scope] * len(row),
            "word_layer": [matched.name] * len(row),
            "word": word.astype(np.int32),
            "rank": rank.astype(np.int32),
            "objects": objects.numpy()[row, 0].astype(np.int32),
            "share": ranked[row, rank] / objects.numpy()[row, 0],
            "constant_share": pa.array(steady, mask=np.isnan(steady)),
            "object_share": chance.numpy()[row, word],
            "log_ratio": ratios.numpy()[row, word],
        }
        return to_table(columns, "pattern_words")

    def measures(self, top: Top, found: Sequence[LayerWords]) -> Iterator[dict[str, Any]]:
        """Rows of pattern_word_measures: all patterns, and the tenth that sits nearest to each part."""
        for one in found:
            key = {"class": self._subject.label, "top": top, "layer": one.layer.name, "scope": self.scope}
            key["word_layer"] = one.matched.name
            chosen = {None: one.known.nonzero()[:, 0]} | dict(self._nearest(one))
            for (part, rows), source in itertools.product(chosen.items(), SOURCES):
                own = one.tops[source]
                row: dict[str, Any] = {**key, "part": part, "source": source, "patterns": len(rows)}
                row |= measured("share", own.shares[:, rows].nanmean(dim=1))
                row |= measured("log_ratio", own.ratios[:, rows].nanmean(dim=1))
                if part is not None:
                    place = list(self._turned.objects.parts).index(part)
                    row |= measured("part_log_ratio", one.parts[source][place][:, rows].nanmean(dim=1))
                yield row

    def _nearest(self, one: LayerWords) -> Iterator[tuple[str, Int[Tensor, " v"]]]:
        known = one.known.nonzero()[:, 0]
        objects = self._turned.objects
        boxes = torch.from_numpy(objects.part_boxes(self._turned.signs))[self.judged]
        middles = ((boxes[..., :2] + boxes[..., 2:]) / 2).nanmean(dim=0)
        for place, part in enumerate(objects.parts):
            if not bool(middles[place].isnan().any()):
                away = torch.linalg.vector_norm(one.means[known] - middles[place], dim=1)
                nearest = away.sort(stable=True).indices[: max(1, round(NEAR * len(known)))]
                yield part, known[nearest]


def _weighted(left: WordTally, ratios: Float[Tensor, "P R K"]) -> Float[Tensor, "P R V"]:
    """Mean over a pattern's objects of how much likelier the word there is in each part than on objects."""
    objects = left.counts.sum(dim=2)
    return torch.einsum("rvk,prk->prv", left.counts.double(), ratios) / objects


def _side_by_side(blocks: Sequence[TopWords]) -> TopWords:
    names = ("words", "objects", "shares", "ratios")
    return TopWords(*(torch.cat([getattr(one, name) for one in blocks], dim=1) for name in names))


def measured(name: str, means: Float[Tensor, " R"]) -> dict[str, float | None]:
    """A measure with its jackknife interval over groups of photos: row 0 is that of all."""
    middle, *without = means.tolist()
    values = (middle, *jackknife_interval(middle, without))
    columns = (name, f"{name}_low", f"{name}_high")
    return {column: value if math.isfinite(value) else None for column, value in zip(columns, values, strict=True)}
