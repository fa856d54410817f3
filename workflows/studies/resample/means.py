"""Means over images of what they select, with intervals; and how far two sets of weights agree."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from gmm_ops.units.selections import bootstrap_means, chance_jaccard
from workflows.studies.resample.scores import RANDOM, UNSTABLE, Resampling
from workflows.studies.resample.selections import Found, known

LARGE = 0.5
"""Share of the image from which on touching its object is trivial."""

OBJECTS = ("all", "up to half", "above half")

_SELECTED = ("retest", "retest_null", "chance", "layer_score", "layer_null_score")
"""Columns that are the same for all units of a selection."""


@dataclass(frozen=True)
class Grid:
    """What images select, (images, layers, metrics, tops); NaN where a selection is empty or nothing is known.

    Attributes:
        selected: by column: what holds for a selection as a whole.
        touch, overlap: sums over its patches that have a mask.
        masked: how many they are.
        patches, patchless: units with and without a patch.
        object_share: (images,).
    """

    selected: dict[str, Float[np.ndarray, "n L M T"]]
    touch: Float[np.ndarray, "n L M T"]
    overlap: Float[np.ndarray, "n L M T"]
    masked: Float[np.ndarray, "n L M T"]
    patches: Float[np.ndarray, "n L M T"]
    patchless: Float[np.ndarray, "n L M T"]
    object_share: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, found: Found, asked: Resampling) -> Grid:
        """Counted from the rows."""
        shape = (len(found.images), len(asked.layers), len(asked.metrics), len(asked.tops))
        selected = {name: np.full(shape, np.nan) for name in _SELECTED}
        share, rows = np.full(len(found.images), np.nan), found.rows
        if not rows:
            nothing = np.zeros(shape)
            return cls(selected, nothing, nothing, nothing, nothing, nothing, share)
        image = np.searchsorted(found.images, rows["image"])
        place = (image, rows["layer"], rows["metric"], np.searchsorted(asked.tops, rows["top"]))

        def counted(values: np.ndarray) -> np.ndarray:
            total = np.zeros(shape)
            np.add.at(total, place, values)
            return total

        for name, values in selected.items():
            values[place] = rows[name]
        share[image] = rows["object_share"]
        boxed, masked = rows["x0"] >= 0, rows["touches"] >= 0
        touches = counted(np.where(masked, rows["touches"], 0.0))
        overlaps = counted(np.where(masked, np.nan_to_num(rows["overlap"]), 0.0))
        seen, patches, patchless = (counted(one.astype(float)) for one in (masked, boxed, ~boxed))
        return cls(selected, touches, overlaps, seen, patches, patchless, share)

    def means(self, asked: Resampling, chosen: Bool[np.ndarray, " n"], seed: int) -> Iterator[dict[str, Any]]:
        """A row for every layer and all together, metric and number of units, over some of the images."""
        number, shape = int(chosen.sum()), (len(asked.layers) + 1, len(asked.metrics), len(asked.tops))
        values = {name: _with_all(one[chosen], np.nanmean) for name, one in self.selected.items()}
        values["unstable"] = _with_all(_flagged(self.selected["retest"][chosen]), np.nanmean)
        masked = _with_all(self.masked[chosen], np.nansum)
        random = asked.metrics.index(RANDOM)
        for name, one in (("touch", self.touch), ("overlap", self.overlap)):
            with np.errstate(invalid="ignore"):
                values[name] = _with_all(one[chosen], np.nansum) / masked
            values[f"{name}_difference"] = values[name] - values[name][:, :, random : random + 1]
        means = {name: _interval(one.reshape(number, -1), seed).reshape(3, *shape) for name, one in values.items()}
        empty = np.isnan(self.selected["chance"][chosen])
        counts = {
            "without_variance": _with_all(empty.astype(float), np.nansum).sum(axis=0),
            "patches": _with_all(self.patches[chosen], np.nansum).sum(axis=0),
            "without_patch": _with_all(self.patchless[chosen], np.nansum).sum(axis=0),
        }
        for layer, metric, top in np.ndindex(*shape):
            row: dict[str, Any] = {
                "layer": None if layer == len(asked.layers) else asked.layers[layer].name,
                "metric": asked.metrics[metric],
                "top": asked.tops[top],
                "images": number,
                **{name: int(one[layer, metric, top]) for name, one in counts.items()},
            }
            for name, one in means.items():
                mean, low, high = (known(float(value)) for value in one[:, layer, metric, top])
                row |= {name: mean} if name in _PLAIN else {name: mean, f"{name}_low": low, f"{name}_high": high}
            yield row


_PLAIN = ("chance", "unstable", "layer_score", "layer_null_score")
"""Means without an interval."""


def mean_rows(found: Found, asked: Resampling, class_names: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Rows of selection_means.parquet for images: of all classes and each, by the size of the object."""
    grid = Grid.of(found, asked)
    large = grid.object_share > LARGE
    groups = dict(zip(OBJECTS, (np.ones(len(large), bool), ~large & ~np.isnan(grid.object_share), large), strict=True))
    present = np.unique(found.classes).tolist()
    for label in [None, *(present if len(present) > 1 else ())]:
        of_class = np.ones(len(large), bool) if label is None else found.classes == label
        key = {"class": label, "class_name": None if label is None else class_names[label]}
        key |= {"selected_for": "image", "checkpoint": found.checkpoint}
        for objects, group in groups.items():
            if (of_class & group).any():
                yield from ({**key, "objects": objects, **row} for row in grid.means(asked, of_class & group, seed))


def class_mean_rows(rows: Iterable[dict[str, Any]], found: Found) -> list[dict[str, Any]]:
    """Rows of selection_means.parquet for the selections of classes, one a class, layer and number of units."""
    means = []
    for row in rows:
        if row["rank"] == 0:
            names = ("class", "class_name", "layer", "metric", "top", "checkpoint", *_SELECTED)
            flag = float(row["unstable"])
            own = {"selected_for": "class", "objects": OBJECTS[0], "unstable": flag, "without_variance": 0}
            images = int((found.classes == row["class"]).sum())
            means.append(
                {**{name: row[name] for name in names}, **own, "images": images, "patches": 0, "without_patch": 0}
            )
    return means


def agreement_rows(
    first: Found, other: Found, asked: Resampling, units: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of selection_epochs.parquet: Jaccard of what two sets of weights select, image by image, beside chance."""
    sets = [_sets(one) for one in (first, other)]
    shape = (len(asked.layers), len(asked.metrics), len(asked.tops))
    images = np.intersect1d(first.images, other.images)
    values, chance = (np.full((len(images), *shape), np.nan) for _ in range(2))
    nothing: set[int] = set()
    for row, image in enumerate(images.tolist()):
        for layer, metric, top in np.ndindex(*shape):
            key = (image, layer, metric, asked.tops[top])
            one, two = (of.get(key, nothing) for of in sets)
            values[row, layer, metric, top] = len(one & two) / len(one | two) if one or two else np.nan
            chance[row, layer, metric, top] = chance_jaccard(units[layer], len(one), len(two))
    values, chance = (_with_all(one, np.nanmean) for one in (values, chance))
    means = _interval(values.reshape(len(images), -1), seed).reshape(3, *values.shape[1:])
    expected = _interval(chance.reshape(len(images), -1), seed).reshape(3, *values.shape[1:])[0]
    for layer, metric, top in np.ndindex(*values.shape[1:]):
        mean, low, high = (known(float(value)) for value in means[:, layer, metric, top])
        yield {
            "checkpoint": first.checkpoint or "run",
            "compared": other.checkpoint or "run",
            "layer": None if layer == len(asked.layers) else asked.layers[layer].name,
            "metric": asked.metrics[metric],
            "top": asked.tops[top],
            "images": len(images),
            **{"agreement": mean, "agreement_low": low, "agreement_high": high},
            "chance": known(float(expected[layer, metric, top])),
        }


def _sets(found: Found) -> dict[tuple[int, int, int, int], set[int]]:
    sets: dict[tuple[int, int, int, int], set[int]] = {}
    columns = [found.rows[name].tolist() for name in ("image", "layer", "metric", "top", "unit")] if found.rows else []
    for image, layer, metric, top, unit in zip(*columns, strict=True):
        sets.setdefault((image, layer, metric, top), set()).add(unit)
    return sets


def _with_all(values: np.ndarray, pool: Any) -> np.ndarray:
    """(n, L + 1, M, T): behind the layers, what they are together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a layer in which nothing is known
        return np.concatenate([values, pool(values, axis=1, keepdims=True)], axis=1)


def _flagged(retest: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(retest), np.nan, retest < UNSTABLE)


def _interval(values: np.ndarray, seed: int) -> np.ndarray:
    return bootstrap_means(torch.from_numpy(values), seed).numpy()
