"""Classes of the overview: accuracy, confusions, misclassified images, and which graphs are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from workflows.site.chunks import significant_list
from workflows.site.run_tables import RunTables
from workflows.storage.names import JOINT

CONFUSIONS = 500
"""Pairs of classes that the page lists, most frequent first."""

WRONG = 50_000
"""Misclassified images that the page lists."""

_EXACT_ORDER = 200
"""Classes up to which the order of similar graphs is the best one; it takes the third power of their number."""


def class_columns(tables: RunTables) -> dict[str, Any]:
    """Name, validation images, those classified right, and predictions of every class."""
    images, ids = tables.images, tables.validation
    n_classes = len(tables.run.plan.class_names)
    label, predicted = images.label[ids], images.predicted[ids]
    known = label >= 0
    shown = np.bincount(label[known], minlength=n_classes)
    right = np.bincount(label[known & (label == predicted)], minlength=n_classes)
    return {
        "name": list(tables.run.plan.class_names),
        "images": shown.tolist(),
        "right": right.tolist(),
        "predicted": np.bincount(predicted, minlength=n_classes).tolist(),
    }


def confusions(tables: RunTables) -> list[list[int]]:
    """(true class, predicted class, images), most images first."""
    images, ids = tables.images, tables.validation
    n_classes = len(tables.run.plan.class_names)
    label, predicted = images.label[ids], images.predicted[ids]
    wrong = (label >= 0) & (label != predicted)
    pairs, counts = np.unique(label[wrong] * n_classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CONFUSIONS]
    return [[int(pairs[at] // n_classes), int(pairs[at] % n_classes), int(counts[at])] for at in order]


def wrong_images(tables: RunTables) -> dict[str, Any]:
    """Misclassified validation images as columns, and how many there are."""
    images, ids = tables.images, tables.validation
    wrong = ids[(images.label[ids] >= 0) & (images.label[ids] != images.predicted[ids])]
    shown = wrong[:WRONG]
    return {
        "total": len(wrong),
        "image": shown.tolist(),
        "label": images.label[shown].tolist(),
        "predicted": images.predicted[shown].tolist(),
        "probability": significant_list(images.probability[shown].astype(np.float64)),
    }


def class_words(tables: RunTables, scope: str) -> dict[int, set[tuple[str, int]]]:
    """Words of each class graph of a scope, without the class itself."""
    filters = [("scope", "=", scope), ("criterion", "=", tables.criterion)]
    rows = tables.table("nodes", filters, ["graph", "layer", "word"])
    found: dict[int, set[tuple[str, int]]] = {}
    for graph, layer, word in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
        kind, _, number = graph.partition(":")
        if kind == "class" and layer != "output":
            found.setdefault(int(number), set()).add((layer, word))
    return found


def likeness(words: Mapping[int, set[tuple[str, int]]]) -> dict[str, list[Any]]:
    """How alike class graphs are: Jaccard of their words.

    Returns:
        ``class``, and for each its ``place`` in an order in which similar graphs stand together, the ``nearest`` class
        and the ``jaccard`` of both; nearest is None where there is no other graph.
    """
    classes = sorted(words)
    if len(classes) < 2:
        return {"class": classes, "place": [0] * len(classes), "nearest": [None] * len(classes), "jaccard": [None]}
    every = {word: place for place, word in enumerate(sorted(set().union(*words.values())))}
    holds = np.zeros((len(classes), len(every)), np.float32)
    for row, label in enumerate(classes):
        holds[row, [every[word] for word in words[label]]] = 1
    shared, sizes = holds @ holds.T, holds.sum(1)
    jaccard = shared / np.maximum(sizes[:, None] + sizes[None, :] - shared, 1)
    np.fill_diagonal(jaccard, 1)
    place = np.empty(len(classes), int)
    place[_order(1 - jaccard.astype(np.float64))] = np.arange(len(classes))
    np.fill_diagonal(jaccard, -1)
    nearest = jaccard.argmax(1)
    return {
        "class": classes,
        "place": place.tolist(),
        "nearest": [classes[at] for at in nearest],
        "jaccard": significant_list(jaccard[np.arange(len(classes)), nearest].astype(np.float64)),
    }


def _order(distance: np.ndarray) -> np.ndarray:
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=len(distance) <= _EXACT_ORDER)
    return np.asarray(leaves_list(tree))


def widest_scope(scopes: Sequence[str], words: Mapping[str, Mapping[int, Any]]) -> str:
    """The scope whose class graphs are compared: `joint`, or the one with most of them."""
    return JOINT if JOINT in scopes else max(scopes, key=lambda scope: len(words.get(scope, {})))
