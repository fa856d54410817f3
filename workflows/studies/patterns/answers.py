"""The answer for a class: patterns learned, tables written, judged on the parts that the file of boxes names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_places import PatternPlaces
from workflows.asking.pattern_files import PatternFiles, Top, TurnedObjects, shard_rows
from workflows.storage.tables import to_table
from workflows.studies.patterns.joined_words import word_tables
from workflows.studies.patterns.learning import StoredUpper
from workflows.studies.patterns.measures import (
    Judged,
    JudgedPatterns,
    best_places,
    map_purity,
    near_measures,
    one_side,
    place_measures,
    region_purity,
)
from workflows.studies.patterns.object_maps import ObjectResponses
from workflows.studies.patterns.rows import PatternKey, edge_tables, object_rows, pattern_rows, placed_objects
from workflows.studies.patterns.subject import Subject

Seen = Mapping[Top, list[StoredUpper | None]]
"""By kind of top what each layer sees above itself, lowest first."""

SOURCES = ("patterns", "constant", "centre")


@dataclass(frozen=True)
class Learned:
    """What has been learned of a class.

    Attributes:
        deviations: of the units of every layer, lowest first.
        turned: its objects.
        seen: above every layer.
    """

    deviations: tuple[Float[np.ndarray, " D"], ...]
    turned: TurnedObjects
    seen: Seen

    def maps(self, subject: Subject, place: int) -> ObjectResponses:
        """F of a layer on all objects, turned."""
        return subject.crops.maps(place, self.deviations[place], (self.turned.signs < 0).astype(np.int64))


@dataclass(frozen=True)
class Answer:
    """Of one class.

    Attributes:
        learned: what figures are drawn from.
        tables: rows by the name of their table.
        told: what programs may want to know.
    """

    learned: Learned
    tables: Mapping[str, pa.Table]
    told: dict[str, Any]


def answer(subject: Subject) -> Answer:
    """Learn, place and judge."""
    deviations = subject.crops.run()
    turned = subject.turn(deviations)
    seen = {top: subject.learn(top, turned, deviations) for top in subject.request.tops}
    found, judged = Learned(deviations, turned, seen), Judged.of(turned)
    tables = _tables(subject, turned)
    tables["pattern_measures"] = to_table(list(_measured(subject, found, judged)), "pattern_measures")
    words, told = word_tables(subject, turned)
    return Answer(found, tables | words, _told(subject, turned, judged) | ({"words": told} if told else {}))


def _tables(subject: Subject, turned: TurnedObjects) -> dict[str, pa.Table]:
    files, layers = subject.files, subject.layers
    tables: dict[str, list[pa.Table]] = {"patterns": [], "pattern_edges": []}
    for top in subject.request.tops:
        key = PatternKey(subject.label, subject.class_name, top)
        totals, valid = _placed(subject, key, turned)
        for place, layer in enumerate(layers):
            means = totals[place] / len(turned.objects)
            tables["patterns"].append(pattern_rows(key, layer, files.fit(top, layer.name), means, valid[place]))
            if place + 1 < len(layers):
                tables["pattern_edges"].append(edge_tables(key, files, layer, layers[place + 1]))
    objects = to_table(object_rows(subject.label, subject.class_name, turned), "pattern_objects")
    return {"pattern_objects": objects} | {name: joined_tables(name, some) for name, some in tables.items()}


def _placed(
    subject: Subject, key: PatternKey, turned: TurnedObjects
) -> tuple[list[Float[np.ndarray, " V"]], list[Int[np.ndarray, " V"]]]:
    """Write the places that count, a part for each file of objects; by layer each pattern's scores, and how often."""
    totals: list[Any] = [0.0] * len(subject.layers)
    valid: list[Any] = [0] * len(subject.layers)
    for number, first in enumerate(range(0, len(turned.objects), shard_rows())):
        found = [placed_objects(key, subject.files, turned, layer, first) for layer in subject.layers]
        subject.write_places(key.top, number, pa.concat_tables([one.rows for one in found]))
        for place, one in enumerate(found):
            totals[place], valid[place] = totals[place] + one.totals, valid[place] + one.valid
    return totals, valid


def joined_tables(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one schema as one."""
    return pa.concat_tables(tables) if tables else to_table([], name)


@dataclass(frozen=True)
class _UnitMaps:
    """F of one unit on some of the judged objects."""

    responses: ObjectResponses

    def __call__(self, unit: int, rows: Int[np.ndarray, " r"]) -> Float[Tensor, "r H W"]:
        own = replace(self.responses, rows=self.responses.rows[rows], units=(unit, unit + 1))
        return own[0 : len(rows)][:, 0]


def _measured(subject: Subject, found: Learned, judged: Judged) -> Iterator[dict[str, Any]]:
    """Rows of pattern_measures.parquet; none where no object shows a part."""
    names = list(subject.objects.parts)
    for place, layer in enumerate(subject.layers):
        every = found.maps(subject, place)
        peaks = subject.peaks(place, every)
        if not bool(judged.shown.any()):
            continue
        rows = torch.from_numpy(judged.rows)
        peaks = PatternPlaces(peaks.places[rows], peaks.scores[rows])
        maps = _UnitMaps(replace(every, rows=judged.rows))
        key = {"class": subject.label, "layer": layer.name}
        _, best = best_places([peaks])
        yield {**key, "source": "peaks", **place_measures(peaks, judged)[0]}
        for part, row in zip(names, near_measures(best, judged), strict=True):
            yield {**key, "source": "peaks", "part": part, **row}
        whole = map_purity(peaks.scores, layer.grid, maps, judged)
        yield {**key, "source": "maps", "objects": len(judged.rows), "pairs": 0, "purity": whole}
        for top in subject.request.tops:
            own = _judged_patterns(subject, top, place, found, judged)
            for part, row in zip(names, near_measures(own.found, judged), strict=True):
                yield {**key, "top": top, "source": "patterns", "part": part, **row}
            for name, row in zip(SOURCES, place_measures(own.found, judged), strict=True):
                if name == "patterns":
                    row["purity"] = region_purity(own, maps, judged)
                yield {**key, "top": top, "source": name, **row}


@dataclass(frozen=True)
class _JudgedBlocks:
    """Places of a layer's patterns on the judged objects, a file at a time; may be gone through again and again."""

    files: PatternFiles
    top: Top
    layer: str
    rows: Int[np.ndarray, " m"]

    def __iter__(self) -> Iterator[PatternPlaces]:
        size = shard_rows()
        for first in range(0, int(self.rows[-1]) + 1, size):
            block = self.files.places(self.top, self.layer, slice(first, first + size))
            own = self.rows[(self.rows >= first) & (self.rows < first + size)] - first
            yield PatternPlaces(block.places[own], block.scores[own])


def _judged_patterns(subject: Subject, top: Top, place: int, found: Learned, judged: Judged) -> JudgedPatterns:
    layer, above = subject.layers[place], found.seen[top][place]

    upper = None if above is None else above.rows(judged.rows)
    blocks = _JudgedBlocks(subject.files, top, layer.name, judged.rows)
    return JudgedPatterns(*best_places(blocks), subject.files.patterns(top, layer.name), layer.grid, upper)


def _told(subject: Subject, turned: TurnedObjects, judged: Judged) -> dict[str, Any]:
    """Times an object and core, the law of EM, and how well the objects face one way."""
    items = {
        str(item): record
        for item, record in subject.study.ledger.items().items()
        if str(item).startswith(f"class {subject.label} ") and "em_seconds" in record
    }
    objects, learned = len(subject.objects), max(int(turned.learned.sum()), 1)

    def seconds(name: str, over: int) -> dict[str, float]:
        return {
            top: round(sum(one[name] for item, one in items.items() if item.split()[2] == top) / over, 4)
            for top in subject.request.tops
        }

    signs = turned.signs[judged.rows]
    return {
        "class": subject.class_name,
        "objects": objects,
        "photos": len(np.unique(turned.objects.images)),
        "learned": learned,
        "mirrored": int((turned.signs < 0).sum()),
        "em_seconds_an_object": seconds("em_seconds", learned),
        "inference_seconds_an_object": seconds("inference_seconds", objects),
        "largest_fall_of_a_likelihood": max((record["fall"] for record in items.values()), default=0.0),
        "part_on_one_side": dict(one_side(judged, list(turned.objects.parts), signs)),
    }
