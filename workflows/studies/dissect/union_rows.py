"""The table of unions: of single concepts, and means over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gmm_ops.units.unions import Interval
from workflows.asking.image_parts import Parts
from workflows.asking.study import StudyContext
from workflows.data.masks.concept_masks import Concept
from workflows.storage.states import open_states
from workflows.studies.dissect.joined_masks import ChosenUnions, JudgedUnion, UnionJudge, described, difference
from workflows.studies.dissect.rows import Row
from workflows.studies.dissect.union_workers import Candidates
from workflows.studies.dissect.workers import Subject


def write_unions(
    study: StudyContext, subject: Subject, chosen: ChosenUnions, parts: Parts, candidates: Sequence[Candidates]
) -> None:
    """Judge the chosen unions, write the table, and tell the means.

    Args:
        study: at work.
        subject: what is dissected.
        chosen: unions.
        parts: of ``JudgingWorker``.
        candidates: of every layer, that units were chosen from.
    """
    rows: list[Row] = []
    told: list[dict[str, Any]] = []
    with open_states(parts.paths) as read:
        for group in range(len(subject.groups)):
            judge = UnionJudge(read, group, chosen.labels[group], study.settings.seed)
            if group == 0:
                study.tell(concepts=len(judge.concepts()))
            if judge.images and chosen.images[group]:
                rows += _group_rows(subject, chosen, candidates, group, judge, told)
    study.write_table("unions", rows)
    study.tell(unions=told)


def _group_rows(
    subject: Subject,
    chosen: ChosenUnions,
    candidates: Sequence[Candidates],
    group: int,
    judge: UnionJudge,
    told: list[dict[str, Any]],
) -> Iterator[Row]:
    """Rows on the images of one group: of the units of each layer, then of the words of its dictionaries."""
    concepts, scope = subject.masks.concepts, subject.groups[group]
    numbers = {"images_chosen": int(chosen.images[group]), "images_judged": judge.images}
    dictionaries = [(number, one) for number, one in enumerate(subject.dictionaries) if subject.group(one) == group]
    with_words = {one.layer for _, one in dictionaries}
    of_units: dict[str, list[JudgedUnion]] = {}
    for number, layer in enumerate(subject.layers):
        if scope is not None and layer.name not in with_words:
            continue
        found = of_units[layer.name] = judge.judge(f"units{group}_{number}", chosen.units[group][number])
        key = {"scope": scope, "layer": layer.name, "masks": "units", **numbers}
        yield from _concept_rows(key, concepts, found, [_cut_units(candidates[number], one) for one in found])
        yield from _mean_rows(key, judge, found, None, told)
    for number, one in dictionaries:
        found = judge.judge(f"words{number}", chosen.words[number])
        key = {"scope": one.scope, "layer": one.layer, "masks": "words", **numbers}
        members = [[(word, None) for word in of.union.members] for of in found]
        yield from _concept_rows(key, concepts, found, members)
        yield from _mean_rows(key, judge, found, of_units[one.layer], told)


def _cut_units(candidates: Candidates, judged: JudgedUnion) -> list[tuple[int, float]]:
    """Units of a union, and what they are cut at."""
    here = (judged.concept, list(judged.union.members))
    return list(zip(candidates.units[here].tolist(), candidates.thresholds[here].tolist(), strict=True))


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
