"""From the parts of shards to the rows of selections, of images and of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from gmm_ops.units.selections import chance_jaccard, jaccard, top_units
from workflows.asking.image_parts import Parts
from workflows.studies.resample.copies import POOLED
from workflows.studies.resample.scores import CORRELATION, UNSTABLE, Resampling

_HIDDEN = ("layer_score", "layer_null_score")
_ARRAYS = ("images", *POOLED)


@dataclass(frozen=True)
class Found:
    """What one set of weights selects.

    Attributes:
        checkpoint: name of the weights; None: the run's own.
        images: (n,) ids, ascending.
        classes: (n,) whose logit was explained.
        rows: columns of equal length, layers and metrics by their places.
        pooled: by class: the four arrays ``POOLED``, mean over its images.
    """

    checkpoint: str | None
    images: Int[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    rows: dict[str, np.ndarray]
    pooled: dict[int, list[np.ndarray]]

    @classmethod
    def read(cls, parts: Parts, classes: dict[int, int], checkpoint: str | None) -> Found:
        """All parts of a phase, in their order; classes: by image."""
        images: list[int] = []
        columns: dict[str, list[np.ndarray]] = {}
        sums: dict[int, np.ndarray] = {}
        for part in parts:
            images += part["images"].tolist()
            for name, values in part.items():
                if name not in _ARRAYS:
                    columns.setdefault(name, []).append(values)
            for row, image in enumerate(part["images"].tolist()):
                own = np.stack([part[name][row] for name in POOLED])
                known = np.stack([~np.isnan(own), np.nan_to_num(own)])  # how many images, and their sum
                sums[classes[image]] = sums.get(classes[image], 0) + known
        with np.errstate(invalid="ignore"):
            pooled = {label: list(total / count) for label, (count, total) in sums.items()}
        of_images = np.array([classes[image] for image in images], np.int64)
        rows = {name: np.concatenate(values) for name, values in columns.items()}
        return cls(checkpoint, np.array(images, np.int64), of_images, rows, pooled)


def selection_table(found: Found, asked: Resampling, class_names: Sequence[str]) -> dict[str, Any]:
    """Columns of selections.parquet, of single images."""
    if not found.rows:
        return {}
    rows = {name: values for name, values in found.rows.items() if name not in _HIDDEN}
    labels = dict(zip(found.images.tolist(), found.classes.tolist(), strict=True))
    own = [labels[image] for image in rows["image"].tolist()]
    boxless, unseen = rows["x0"] < 0, rows["touches"] < 0
    numbers = {name: pa.array(rows[name].astype(np.int32), mask=boxless) for name in ("x0", "y0", "x1", "y1")}
    reals = ("score", "null_score", "retest", "retest_null", "chance", "activation", "overlap", "object_share")
    return {
        **{name: rows[name] for name in ("image", "top", "rank", "unit", "y", "x")},
        "class": pa.array(own, pa.int32(), mask=np.array(own) < 0),
        "class_name": [class_names[label] if label >= 0 else None for label in own],
        "layer": _names(rows["layer"], [layer.name for layer in asked.layers]),
        "metric": _names(rows["metric"], asked.metrics),
        **{name: pa.array(rows[name], mask=np.isnan(rows[name])) for name in reals},
        "unstable": rows["retest"] < UNSTABLE,
        **numbers,
        "touches": pa.array(rows["touches"] > 0, mask=unseen),
        "checkpoint": pa.array([found.checkpoint] * len(own), pa.string()),
    }


def class_rows(
    found: Found, asked: Resampling, units: Sequence[int], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of selections.parquet for classes: by |mean over its images of signed r|.

    Args:
        found: of one set of weights.
        asked: layers and numbers of units.
        units: D of every layer.
        class_names: by id.
    """
    rows = []
    for label, arrays in sorted(found.pooled.items()) if CORRELATION in asked.metrics else ():
        of_layers = zip(*(np.split(np.abs(one), np.cumsum(units)[:-1]) for one in arrays), strict=True)
        for layer, draws in zip(asked.layers, of_layers, strict=True):
            own, null, again, null_again = (torch.from_numpy(one) for one in draws)
            for top in asked.tops:
                one, other = top_units(own, top), top_units(again, top)
                retest = jaccard(one, other)
                common = {
                    "image": None, "class": label, "class_name": class_names[label], "layer": layer.name,
                    "metric": CORRELATION, "top": top, "retest": known(retest),
                    "retest_null": known(jaccard(top_units(null, top), top_units(null_again, top))),
                    "chance": known(chance_jaccard(len(own), len(one), len(other))), "unstable": retest < UNSTABLE,
                    "layer_score": known(float(own.nanmean())), "layer_null_score": known(float(null.nanmean())),
                    "checkpoint": found.checkpoint,
                }  # fmt: skip
                rows += [
                    {**common, "rank": rank, "unit": unit, "score": float(own[unit]), "null_score": float(null[unit])}
                    for rank, unit in enumerate(one.tolist())
                ]
    return rows


def without_hidden(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as selections.parquet has them: what is the layer's is in the means."""
    return [{name: value for name, value in row.items() if name not in _HIDDEN} for row in rows]


def known(value: float) -> float | None:
    """A number of a table: null for NaN."""
    return None if np.isnan(value) else value


def _names(places: np.ndarray, names: Sequence[str]) -> list[str]:
    return [names[place] for place in places.tolist()]
