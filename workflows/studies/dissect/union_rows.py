"""The table of unions: of single concepts, and means over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gmm_ops.units.unions import Interval
from workflows.asking.image_parts import Parts
from workflows.asking.study import StudyContext
from workflows.data.masks.concept_masks import Concept
from workflows.studies.dissect.joined_masks import (
    JudgedUnion,
    UnionCounts,
    UnionJudge,
    described,
    difference,
    split_images,
)
from workflows.studies.dissect.rows import Row
from workflows.studies.dissect.workers import Candidates, Subject


def write_unions(study: StudyContext, subject: Subject, parts: Parts, candidates: Sequence[Candidates]) -> None:
    """Choose unions, judge them, write the table, and tell the means."""
    images = np.sort(np.concatenate([part["image"] for part in parts]))
    choose, judge = split_images(images, study.plan.train_images)
    counts = UnionCounts.join(parts, judge, subject)
    judges = UnionJudge(counts, subject.category, study.settings.seed)
    wanted = judges.concepts()
    numbers = {"images_chosen": len(choose), "images_judged": len(judge)}
    rows: list[Row] = []
    told: list[dict[str, Any]] = []
    of_units: dict[str, list[JudgedUnion]] = {}
    for number, layer in enumerate(subject.layers):
        found = [judges.units(number, concept) for concept in wanted]
        members = [
            [
                (
                    int(candidates[number].units[one.concept, place]),
                    float(candidates[number].thresholds[one.concept, place]),
                )
                for place in one.union.members
            ]
            for one in found
        ]
        key = {"scope": None, "layer": layer.name, "masks": "units", **numbers}
        rows += _concept_rows(key, subject.masks.concepts, found, members)
        rows += _mean_rows(key, judges, found, None, told)
        of_units[layer.name] = found
    for number, one in enumerate(subject.dictionaries):
        found = [judges.words(number, concept) for concept in wanted]
        key = {"scope": one.scope, "layer": one.layer, "masks": "words", **numbers}
        rows += _concept_rows(
            key, subject.masks.concepts, found, [[(word, None) for word in of.union.members] for of in found]
        )
        rows += _mean_rows(key, judges, found, of_units[one.layer], told)
    study.write_table("unions", rows)
    study.tell(unions=told, unions_chosen_on=len(choose), unions_judged_on=len(judge), concepts=len(wanted))


def _mean_rows(
    key: Row,
    judges: UnionJudge,
    found: Sequence[JudgedUnion],
    units: Sequence[JudgedUnion] | None,
    told: list[dict[str, Any]],
) -> list[Row]:
    """Means over concepts: of the best single masks, and of unions."""
    rows = []
    for single in (True, False) if found else ():
        mean = judges.mean(found, single)
        size = 1 if single else max(len(one.union.members) for one in found)
        row = {**key, "size": size, **_ends("iou", mean[0])}
        record = {"layer": key["layer"], "masks": key["masks"], "scope": key["scope"], "single": single}
        record["iou"] = described(mean[0])
        if units is not None:
            apart = difference(mean, judges.mean(units, single))
            row |= _ends("difference", apart)
            record["difference"] = described(apart)
        rows.append(row)
        told.append(record)
    return rows


def _ends(name: str, value: Interval) -> Row:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _concept_rows(
    key: Row, concepts: Sequence[Concept], unions: Sequence[JudgedUnion], members: Sequence[Sequence[tuple[int, Any]]]
) -> Iterator[Row]:
    """Rows of unions of single concepts.

    Args:
        key: scope, layer, masks and numbers of images.
        concepts: by number.
        unions: that were judged.
        members: of each, (unit or word, threshold).
    """
    for union, own in zip(unions, members, strict=True):
        concept = concepts[union.concept]
        for place, ((member, threshold), interval) in enumerate(zip(own, union.iou, strict=True)):
            yield {
                **key,
                "concept": concept.name,
                "category": concept.category,
                "size": place + 1,
                "member": member,
                "threshold": threshold,
                "iou_chosen": union.union.iou[place],
                "iou": interval.value,
                "iou_low": interval.low,
                "iou_high": interval.high,
            }
