"""Rows of the tables of ablate, and means over classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from gmm_ops.errors import RefusedInput
from gmm_ops.units.ablation import AblationTally
from gmm_ops.units.rankings import best_first, units_taken
from workflows.studies.ablate.ablations import Ablation

MATTERS = 0.10
"""A unit matters to a class if it is in this share of its layer's units."""

FEW = 5
"""Fewer classes say too little of how classes differ."""

_KEYS = ("layers", "ranking", "selection", "replaced_by", "share")


def ablation_rows(
    ablations: Sequence[Ablation], tally: AblationTally, classes: Sequence[int], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of ablations.parquet: an intervention for each class that it is for."""
    every = [label for label, count in enumerate(tally.images.tolist()) if count]
    for place, one in enumerate(ablations):
        key = {name: getattr(one, name) for name in ("layers", "ranking", "selection", "draw", "replaced_by", "share")}
        key |= {"silenced": one.silenced, "units": one.units, "silenced_share": one.silenced / one.units}
        for label in classes if one.labels is None else one.labels:
            others = [other for other in every if other != label]
            yield {
                "class": label,
                "class_name": names[label],
                **key,
                **_accuracy("own", tally, place, [label]),
                **_accuracy("others", tally, place, others),
            }


def _accuracy(prefix: str, tally: AblationTally, place: int, classes: Sequence[int]) -> dict[str, Any]:
    try:
        outcome = tally.outcome(place, classes)
    except RefusedInput:
        return {f"{prefix}_images": 0}
    (low, high), fall = outcome.interval(), outcome.fall()
    return {
        f"{prefix}_images": outcome.images,
        f"{prefix}_before": outcome.before,
        f"{prefix}_accuracy": outcome.accuracy,
        f"{prefix}_accuracy_low": low,
        f"{prefix}_accuracy_high": high,
        f"{prefix}_fall": fall.difference,
        f"{prefix}_fall_low": fall.low,
        f"{prefix}_fall_high": fall.high,
    }


@dataclass(frozen=True)
class MeanOverClasses:
    """A mean over classes with its 95 % interval: Student's, or for few classes the mean of theirs."""

    mean: float
    low: float
    high: float


def means_over_classes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By group of layers, ranking, selection, replacement and share: accuracy and fall on the class and on others.

    Random units: the mean over draws is taken first.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _KEYS), []).append(row)
    found = []
    for key, group in groups.items():
        mean: dict[str, Any] = dict(zip(_KEYS, key, strict=True))
        mean["classes"] = len({one["class"] for one in group})
        mean["silenced"], mean["units"] = group[0]["silenced"], group[0]["units"]
        for whose in ("own", "others"):
            mean[f"{whose}_before"] = _mean(group, f"{whose}_before").mean
            for what in ("accuracy", "fall"):
                mean[f"{whose}_{what}"] = _mean(group, f"{whose}_{what}")
        found.append(mean)
    return found


def _mean(group: Sequence[Mapping[str, Any]], column: str) -> MeanOverClasses:
    by_class: dict[int, list[float]] = {}
    for row in group:
        if row.get(column) is not None:
            by_class.setdefault(row["class"], []).append(row[column])
    values = np.array([np.mean(some) for some in by_class.values()])
    if not len(values):
        return MeanOverClasses(float("nan"), float("nan"), float("nan"))
    if len(values) < FEW:
        ends = [
            [row[f"{column}_{end}"] for row in group if row.get(f"{column}_{end}") is not None]
            for end in ("low", "high")
        ]
        low, high = (float(np.mean(some)) if some else float("nan") for some in ends)
        return MeanOverClasses(float(values.mean()), low, high)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean, least = float(values.mean()), -1.0 if column.endswith("fall") else 0.0
    return MeanOverClasses(mean, max(mean - half, least), min(mean + half, 1.0))


def unit_class_rows(relevance: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of unit_classes.parquet: every unit with each class to which it matters. relevance: columns of its table."""
    table = {name: np.array(values) for name, values in relevance.items()}
    matters: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for layer in dict.fromkeys(relevance["layer"]):
        for label in dict.fromkeys(relevance["class"]):
            rows = np.flatnonzero((table["layer"] == layer) & (table["class"] == label))
            rows = rows[np.argsort(table["unit"][rows])]
            order = best_first(table["share"][rows])[: units_taken(MATTERS, len(rows))]
            for rank, unit in enumerate(order.tolist()):
                matters.setdefault((layer, unit), []).append((label, rank, int(rows[unit])))
    for (layer, unit), found in matters.items():
        helped = sum(bool(table["signed"][row] > 0) for _, _, row in found)
        for label, rank, row in found:
            signed = float(table["signed"][row])
            yield {
                "layer": layer,
                "depth": int(table["depth"][row]),
                "unit": unit,
                "class": label,
                "class_name": names[label],
                "rank": rank,
                "share": float(table["share"][row]),
                "signed": signed,
                "effect": "helps" if signed > 0 else "hurts",
                "classes": len(found),
                "helped": helped,
                "hurt": len(found) - helped,
            }
