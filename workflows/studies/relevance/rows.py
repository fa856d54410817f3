"""Rows of the tables of relevance, from its sums and from the tables of dissect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.units.rankings import agreement
from gmm_ops.units.relevance import ClassRelevance, Completeness, layer_shares, specific
from workflows.asking.unit_tables import DetectedUnits
from workflows.networks.unit_layers import UnitLayer

Columns = dict[str, list[Any]]

MASKED, ABSOLUTE = "masked", "absolute"


def measure_of(means: ClassRelevance) -> str:
    """``masked`` where every class has a mask, else ``absolute``."""
    return MASKED if bool(means.masked_images.all()) else ABSOLUTE


def relevance_columns(
    means: ClassRelevance, classes: Sequence[int], names: Sequence[str], layers: Sequence[UnitLayer], split: str
) -> Columns:
    """Columns of relevance.parquet.

    Args:
        means: a row for each class, all units in a row.
        classes: their ids.
        names: of all classes.
        layers: whose units they are.
        split: whose images were looked at.
    """
    measure = measure_of(means)
    sizes = [layer.units for layer in layers]
    shares = layer_shares(getattr(means, measure), sizes)
    special = specific(shares) if len(classes) > 1 else torch.full_like(shares, torch.nan)
    found: Columns = {"class": [], "class_name": [], "images": [], "masked_images": []}
    units = sum(sizes)
    for label, images, masked in zip(classes, means.images.tolist(), means.masked_images.tolist(), strict=True):
        for column, value in zip(found, (label, names[label], images, masked), strict=True):
            found[column] += [value] * units
    found["layer"] = [layer.name for layer in layers for _ in range(layer.units)] * len(classes)
    found["depth"] = [layer.depth for layer in layers for _ in range(layer.units)] * len(classes)
    found["unit"] = [unit for layer in layers for unit in range(layer.units)] * len(classes)
    found["split"] = [split] * units * len(classes)
    found["measure"] = [measure] * units * len(classes)
    values = {"signed": means.signed, "absolute": means.absolute, "masked": means.masked}
    values |= {"share": shares, "specific": special, "activation": means.activation}
    return found | {name: _or_null(one) for name, one in values.items()}


def completeness_rows(found: Completeness, layers: Sequence[UnitLayer]) -> list[dict[str, Any]]:
    """Rows of completeness.parquet. layers: in the order of its totals."""
    quartiles = found.quartiles()
    return [
        {
            "layer": layer.name,
            "depth": layer.depth,
            "kind": "convolution" if layer.is_convolution else "join",
            "is_cut": layer.is_cut,
            "units": layer.units,
            "images": len(found.images),
            "error_lower": float(lower),
            "error_median": float(middle),
            "error_upper": float(upper),
        }
        for layer, lower, middle, upper in zip(layers, *quartiles, strict=True)
    ]


def agreement_rows(
    relevance: Mapping[str, Sequence[Any]], detected: Mapping[int, Sequence[DetectedUnits]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of agreement.parquet. relevance: its columns. detected: by class, what dissect says of it."""
    table = {name: np.array(values) for name, values in relevance.items()}
    for label, layers in detected.items():
        for one in layers:
            rows = (table["class"] == label) & (table["layer"] == one.layer.name)
            measure = MASKED if (table["measure"][rows] == MASKED).all() else ABSOLUTE
            order = np.argsort(table["unit"][rows])
            by_relevance, by_activation = (
                agreement(table[name][rows][order].astype(np.float64), one.iou, one.detects)
                for name in (measure, "activation")
            )
            yield {
                "class": label,
                "class_name": names[label],
                "layer": one.layer.name,
                "depth": one.layer.depth,
                "concept": one.concept,
                "quantile": one.quantile,
                "units": len(one.iou),
                "detectors": by_relevance.detectors,
                "overlap": _known(by_relevance.overlap),
                "correlation": _known(by_relevance.correlation),
                "activation_overlap": _known(by_activation.overlap),
                "activation_correlation": _known(by_activation.correlation),
                "chance": by_relevance.chance,
            }


def layer_sums(
    relevance: Mapping[str, Sequence[Any]], layers: Sequence[str], classes: Sequence[int]
) -> Float[np.ndarray, "L C"]:
    """Summed relevance of each layer for each class, by the table's measure (ICQ Fig. 4)."""
    measure = relevance["measure"][0]
    sums = np.zeros((len(layers), len(classes)))
    rows = {layer: row for row, layer in enumerate(layers)}
    columns = {label: column for column, label in enumerate(classes)}
    for layer, label, value in zip(relevance["layer"], relevance["class"], relevance[measure], strict=True):
        sums[rows[layer], columns[label]] += value
    return sums


def _or_null(values: Tensor) -> list[float | None]:
    return [_known(value) for value in values.flatten().tolist()]


def _known(value: float) -> float | None:
    return None if value != value else value
