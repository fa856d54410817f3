"""Rows of the tables of a class: patterns, their parents, the places that count as found, the objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from gmm_ops.explanatory.pattern_fitting import PatternFit
from gmm_ops.explanatory.pattern_layer import PatternLayer
from gmm_ops.explanatory.pattern_places import valid_patterns
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, Top, TurnedObjects, shard_rows
from workflows.storage.tables import to_table

Columns = Mapping[str, Any]

_EDGES_AT_ONCE = 4_096


@dataclass(frozen=True)
class PatternKey:
    """Which class, and which kind of top."""

    label: int
    class_name: str
    top: Top

    def columns(self, length: int, named: bool = False) -> dict[str, Any]:
        """The key columns, so many rows long."""
        found = {"class": np.full(length, self.label, np.int32), "top": [self.top] * length}
        return found | ({"class_name": [self.class_name] * length} if named else {})


def pattern_rows(
    key: PatternKey, layer: PatternedLayer, fit: PatternFit, means: np.ndarray, found: np.ndarray
) -> pa.Table:
    """Rows of patterns.parquet of a layer.

    Args:
        key: of them.
        layer: which.
        fit: its patterns.
        means: (V,) mean score over objects.
        found: (V,) objects in which each is valid.
    """
    own = fit.layer
    units, count = own.deviations.shape
    mass = own.masses.sum(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    rows = {
        **key.columns(own.count, named=True),
        "layer": [layer.name] * own.count,
        **_numbers(units, count),
        "y": own.means[..., 0].flatten().numpy(),
        "x": own.means[..., 1].flatten().numpy(),
        "sd": own.deviations.flatten().numpy(),
        "mass": own.masses.flatten().numpy(),
        "score": means,
        "objects": found.astype(np.int32),
        "parents": (own.parents >= 0).sum(dim=-1).flatten().numpy().astype(np.int32),
        "log_likelihood": np.repeat((fit.likelihood[:, -1] / mass).numpy(), count),
    }
    return to_table(rows, "patterns")


def _numbers(units: int, count: int) -> dict[str, np.ndarray]:
    number = np.arange(units * count)
    return {"unit": (number // count).astype(np.int32), "pattern": (number % count).astype(np.int32)}


def edge_tables(
    key: PatternKey,
    files: PatternFiles,
    lower: PatternedLayer,
    upper: PatternedLayer,
) -> pa.Table:
    """Rows of pattern_edges.parquet between two layers."""
    patterns, above = files.patterns(key.top, lower.name), files.patterns(key.top, upper.name)
    weights = _weights(patterns, above)
    child, slot = np.nonzero(patterns.parents.flatten(0, 1).numpy() >= 0)
    parent = patterns.parents.flatten(0, 1).numpy()[child, slot]
    moments = _edge_moments(files, key.top, lower.name, upper.name, child, parent)
    count, count_above = patterns.deviations.shape[1], above.deviations.shape[1]
    rows = {
        **key.columns(len(child)),
        "layer": [lower.name] * len(child),
        "unit": (child // count).astype(np.int32),
        "pattern": (child % count).astype(np.int32),
        "parent_layer": [upper.name] * len(child),
        "parent_unit": (parent // count_above).astype(np.int32),
        "parent_pattern": (parent % count_above).astype(np.int32),
        **moments,
        "weight": pa.array(weights[child, slot].astype(np.float32)),
    }
    return to_table(rows, "pattern_edges")


def _weights(patterns: PatternLayer, above: PatternLayer) -> np.ndarray:
    """(V, M) shares of the parents in the mean that shifts a pattern."""
    parents = patterns.parents.flatten(0, 1)
    precision = above.deviations.flatten().double().pow(-2)[parents.clamp(min=0)]
    precision = torch.where(parents >= 0, precision, 0.0)
    shares: np.ndarray = (precision / precision.sum(dim=1, keepdim=True).clamp(min=1e-300)).numpy()
    return shares


def _edge_moments(
    files: PatternFiles, top: Top, lower: str, upper: str, child: np.ndarray, parent: np.ndarray
) -> dict[str, Any]:
    """Mean displacement of each edge and its spread, over the objects on which both ends have a place."""
    sums, squares, known = np.zeros((len(child), 2)), np.zeros(len(child)), np.zeros(len(child))
    objects = len(files.objects().objects)
    for first in range(0, objects, shard_rows()):
        rows = slice(first, first + shard_rows())
        places, above = files.places(top, lower, rows).places.numpy(), files.places(top, upper, rows).places.numpy()
        for edge in range(0, len(child), _EDGES_AT_ONCE):
            some = slice(edge, edge + _EDGES_AT_ONCE)
            away = (places[:, child[some]] - above[:, parent[some]]).astype(np.float64)
            there = ~np.isnan(away).any(axis=2)
            away = np.where(there[..., None], away, 0.0)
            sums[some] += away.sum(axis=0)
            squares[some] += (away**2).sum(axis=(0, 2))
            known[some] += there.sum(axis=0)
    mean = sums / np.maximum(known, 1)[:, None]
    spread = np.sqrt(np.maximum(squares / np.maximum(known, 1) - (mean**2).sum(axis=1), 0.0))
    absent = known == 0
    values = {"dy": mean[:, 0], "dx": mean[:, 1], "sd": spread}
    return {name: pa.array(one.astype(np.float32), mask=absent) for name, one in values.items()}


@dataclass(frozen=True)
class PlacedObjects:
    """Rows of pattern_places.parquet of some objects; of each pattern the sum of its scores, and where it is valid."""

    rows: pa.Table
    totals: Float[np.ndarray, " V"]
    valid: Int[np.ndarray, " V"]


def placed_objects(
    key: PatternKey, files: PatternFiles, turned: TurnedObjects, layer: PatternedLayer, first: int
) -> PlacedObjects:
    """The places of a layer that count as found, on a file of objects from ``first`` on."""
    count = files.patterns(key.top, layer.name).deviations.shape[1]
    found = files.places(key.top, layer.name, slice(first, first + shard_rows()))
    valid = valid_patterns(found.scores).numpy()
    rows, patterns = np.nonzero(valid)
    places = found.places.numpy()[rows, patterns]
    on_photo = turned.objects.on_photo(rows + first, places.astype(np.float64), turned.signs)
    table = {
        **key.columns(len(rows)),
        "image": turned.objects.images[rows + first],
        "object": (rows + first).astype(np.int32),
        "layer": [layer.name] * len(rows),
        "unit": (patterns // count).astype(np.int32),
        "pattern": (patterns % count).astype(np.int32),
        "y": places[:, 0],
        "x": places[:, 1],
        "score": found.scores.numpy()[rows, patterns],
        "photo_y": on_photo[:, 0].astype(np.float32),
        "photo_x": on_photo[:, 1].astype(np.float32),
    }
    totals = found.scores.double().sum(dim=0).numpy()
    return PlacedObjects(to_table(table, "pattern_places"), totals, valid.sum(axis=0))


def object_rows(label: int, class_name: str, turned: TurnedObjects) -> Columns:
    """Rows of pattern_objects.parquet."""
    objects = turned.objects
    edges = {name: objects.boxes[:, place].astype(np.int32) for place, name in enumerate(("x0", "y0", "x1", "y1"))}
    return {
        "class": np.full(len(objects), label, np.int32),
        "class_name": [class_name] * len(objects),
        "object": np.arange(len(objects), dtype=np.int32),
        "image": objects.images,
        **edges,
        "mirrored": turned.signs < 0,
        "margin": pa.array(turned.margins, mask=np.isnan(turned.margins)),
        "learned": turned.learned,
    }
