"""Means over images of what they select, against loops over rows; agreement of two sets of weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gmm_ops.units.selections import chance_jaccard
from workflows.networks.attribution.response_layers import ResponseLayer
from workflows.studies.resample.means import agreement_rows, mean_rows
from workflows.studies.resample.scores import Resampling
from workflows.studies.resample.selections import Found

METRICS = ("correlation", "precision", "random")
TOPS = (2, 3)
UNITS = (8, 12)
LAYERS = (ResponseLayer("low", 1, "low"), ResponseLayer("high", 2, "high"))
ASKED = Resampling(LAYERS, METRICS, tops=TOPS)
IMAGES, CLASSES = np.array([3, 5, 9, 12, 20]), np.array([0, 0, 1, 1, 1])


def made(seed: int, checkpoint: str | None = None) -> Found:
    """Two images without mask or with a large object; one selection is empty, some units have no patch."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    shares = {3: 0.2, 5: 0.7, 9: 0.4, 12: math.nan, 20: 0.1}
    for image in IMAGES.tolist():
        for layer, units in enumerate(UNITS):
            for metric in range(len(METRICS)):
                order = rng.permutation(units)
                for top in TOPS:
                    retest = rng.uniform()
                    for rank, unit in enumerate(order[:top].tolist()):
                        if (image, layer, metric) == (9, 1, 0):
                            continue
                        boxed = rng.uniform() < 0.8
                        masked = boxed and not math.isnan(shares[image])
                        overlap = rng.uniform() if masked and rng.uniform() < 0.7 else 0.0
                        rows.append({
                            "image": image, "layer": layer, "metric": metric, "top": top, "rank": rank, "unit": unit,
                            "retest": retest, "retest_null": math.nan, "chance": 0.1, "layer_score": 1.0,
                            "layer_null_score": math.nan, "x0": 0 if boxed else -1,
                            "touches": int(overlap > 0) if masked else -1,
                            "overlap": overlap if masked else math.nan, "object_share": shares[image],
                        })  # fmt: skip
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Found(checkpoint, IMAGES, CLASSES, columns, {})


def rows_of(found: Found) -> list[dict[str, Any]]:
    columns = [values.tolist() for values in found.rows.values()]
    return [dict(zip(found.rows, values, strict=True)) for values in zip(*columns, strict=True)]


def selected(found: Found | list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    rows = rows_of(found) if isinstance(found, Found) else found
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def touch_of(found: list[dict[str, Any]], image: int, metric: int, top: int, layers: list[int]) -> float:
    own = [row for layer in layers for row in selected(found, image=image, metric=metric, top=top, layer=layer)]
    seen = [row["touches"] for row in own if row["touches"] >= 0]
    return sum(seen) / len(seen) if seen else math.nan


def test_means_are_those_of_the_loops() -> None:
    rows, found = list(mean_rows(made(0), ASKED, ["cat", "dog"], seed=0)), rows_of(made(0))
    groups = {"all": IMAGES.tolist(), "up to half": [3, 9, 20], "above half": [5]}
    assert {(row["class"], row["objects"]) for row in rows} == {
        *((None, group) for group in groups), (0, "all"), (0, "up to half"), (0, "above half"), (1, "all"),
        (1, "up to half"),
    }  # fmt: skip
    for row in rows:
        members = [image for image, label in zip(IMAGES, CLASSES, strict=True) if row["class"] in (None, label)]
        images = [image for image in members if image in groups[row["objects"]]]
        layers = [0, 1] if row["layer"] is None else [["low", "high"].index(row["layer"])]
        metric = METRICS.index(row["metric"])
        assert row["images"] == len(images)
        touch = [touch_of(found, image, metric, row["top"], layers) for image in images]
        random = [touch_of(found, image, 2, row["top"], layers) for image in images]
        assert row["touch"] == mean_of(touch)
        assert row["touch_difference"] == mean_of([a - b for a, b in zip(touch, random, strict=True)])
        of_images = [
            mean_of([selected(found, image=image, layer=layer, metric=metric, top=row["top"], rank=0)[0]["retest"]
                     for layer in layers if selected(found, image=image, layer=layer, metric=metric)])
            for image in images
        ]  # fmt: skip
        assert row["retest"] == mean_of([math.nan if one is None else one.expected for one in of_images])
        if row["retest_low"] is not None:
            assert row["retest_low"] <= row["retest"] <= row["retest_high"]


def mean_of(values: list[float]) -> Any:
    known = [value for value in values if not math.isnan(value)]
    return pytest.approx(sum(known) / len(known)) if known else None


def test_an_empty_selection_and_units_without_patch_are_counted() -> None:
    found = made(0)
    (row,) = [
        row
        for row in mean_rows(found, ASKED, ["cat", "dog"], 0)
        if (row["class"], row["objects"], row["layer"], row["metric"], row["top"])
        == (None, "all", "high", "correlation", 3)
    ]
    assert row["without_variance"] == 1
    own = selected(found, layer=1, metric=0, top=3)
    assert row["patches"] == sum(one["x0"] >= 0 for one in own)
    assert row["without_patch"] == sum(one["x0"] < 0 for one in own) > 0
    assert row["unstable"] == pytest.approx(np.mean([one["retest"] < 0.3 for one in own if one["rank"] == 0]))


def test_agreement_of_two_sets_of_weights() -> None:
    first, other = made(1, "epoch-1"), made(2)
    rows = {(row["layer"], row["metric"], row["top"]): row for row in agreement_rows(first, other, ASKED, UNITS, 0)}
    assert {row["compared"] for row in rows.values()} == {"run"}
    values = []
    for image in IMAGES.tolist():
        one, two = ({row["unit"] for row in selected(found, image=image, layer=0, metric=1, top=3)}
                    for found in (first, other))  # fmt: skip
        values.append(len(one & two) / len(one | two))
    assert rows["low", "precision", 3]["agreement"] == pytest.approx(np.mean(values))
    assert rows["low", "precision", 3]["chance"] == pytest.approx(chance_jaccard(8, 3, 3))
    same = {row["agreement"] for row in agreement_rows(first, first, ASKED, UNITS, 0)}
    assert same == {1.0}


def test_nothing_selected_anywhere_is_no_error() -> None:
    empty = Found(None, IMAGES, CLASSES, {}, {})
    rows = list(mean_rows(empty, ASKED, ["cat", "dog"], 0))
    assert {row["objects"] for row in rows} == {"all"}
    assert all(row["retest"] is None and row["patches"] == 0 for row in rows)
