"""Rows of the tables of relevance, from its sums and from the tables of dissect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.units.rankings import agreement
from gmm_ops.units.relevance import ClassRelevance, Completeness, layer_shares, specific
from workflows.asking.unit_tables import DetectedUnits
from workflows.networks.unit_layers import UnitLayer
from workflows.storage.tables import read_table

MASKED, ABSOLUTE = "masked", "absolute"


def measure_of(means: ClassRelevance) -> str:
    """``masked`` where every class has a mask, else ``absolute``."""
    return MASKED if bool(means.masked_images.all()) else ABSOLUTE


def relevance_columns(
    means: ClassRelevance, classes: Sequence[int], names: Sequence[str], layers: Sequence[UnitLayer], split: str
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Columns of relevance.parquet: what classes or units have in common is held once.

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
    of_classes = {
        "class": pa.array(classes, pa.int32()),
        "class_name": pa.array([names[label] for label in classes], pa.string()),
        "images": pa.array(means.images.numpy()),
        "masked_images": pa.array(means.masked_images.numpy()),
    }
    of_units = {
        "layer": pa.array([layer.name for layer in layers for _ in range(layer.units)], pa.string()),
        "depth": pa.array(np.repeat([layer.depth for layer in layers], sizes)),
        "unit": pa.array(np.concatenate([np.arange(size) for size in sizes])),
        "split": pa.repeat(split, sum(sizes)),
        "measure": pa.repeat(measure, sum(sizes)),
    }
    values = {"signed": means.signed, "absolute": means.absolute, "masked": means.masked}
    values |= {"share": shares, "specific": special, "activation": means.activation}
    return (
        {name: pa.chunked_array([pa.repeat(one, sum(sizes)) for one in some]) for name, some in of_classes.items()}
        | {name: pa.chunked_array([some] * len(classes)) for name, some in of_units.items()}
        | {name: _or_null(one) for name, one in values.items()}
    )


@dataclass(frozen=True, eq=False)
class StoredRelevance:
    """relevance.parquet: rows of classes and units.

    Attributes:
        measure: ``masked`` or ``absolute``.
        classes, depth, unit: (n,) whose row it is.
        values: (n,) by the measure.
        activation: (n,) mean activation.
    """

    measure: str
    classes: Int[np.ndarray, " n"]
    depth: Int[np.ndarray, " n"]
    unit: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    activation: Float[np.ndarray, " n"]

    @classmethod
    def read(cls, path: Path) -> StoredRelevance:
        """Raises RunFolderError: the table is missing or damaged."""
        measure = read_table(path, ["measure"], [("unit", "=", 0)])["measure"][0].as_py()
        names = ("class", "depth", "unit", measure, "activation")
        table = read_table(path, names)
        return cls(measure, *(table[name].to_numpy() for name in names))

    def rows(self, label: int, layer: UnitLayer) -> Int[np.ndarray, " D"]:
        """Of the units of a layer for a class, in their order."""
        rows = np.flatnonzero((self.classes == label) & (self.depth == layer.depth))
        return rows[np.argsort(self.unit[rows])]


def completeness_rows(found: Completeness, layers: Sequence[UnitLayer]) -> list[dict[str, Any]]:
    """Rows of relevance_completeness.parquet. layers: in the order of its totals."""
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
    relevance: StoredRelevance, detected: Mapping[int, Sequence[DetectedUnits]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of relevance_agreement.parquet. detected: by class, what dissect says of it."""
    for label, layers in detected.items():
        for one in layers:
            rows = relevance.rows(label, one.layer)
            by_relevance, by_activation = (
                agreement(values[rows], one.iou, one.detects) for values in (relevance.values, relevance.activation)
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
    relevance: StoredRelevance, layers: Sequence[UnitLayer], classes: Sequence[int]
) -> Float[np.ndarray, "L C"]:
    """Summed relevance of each layer for each class, by the table's measure (ICQ Fig. 4). layers: by depth."""
    order = np.argsort(classes)
    column = order[np.searchsorted(np.asarray(classes)[order], relevance.classes)]
    row = np.searchsorted([layer.depth for layer in layers], relevance.depth)
    sums = np.bincount(row * len(classes) + column, relevance.values, len(layers) * len(classes))
    return sums.reshape(len(layers), len(classes))


def _or_null(values: Tensor) -> pa.Array:
    flat = values.flatten().numpy()
    return pa.array(flat, mask=np.isnan(flat))


def _known(value: float) -> float | None:
    return None if value != value else value
