"""Which images train and which are counted: stratified, seeded, independent of every other class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

_VALIDATION_STREAM, _LIMIT_STREAM, _REMAINDER_STREAM = 1, 2, 3


def validation_mask(labels: Int[np.ndarray, "N"], fraction: float, seed: int) -> Bool[np.ndarray, "N"]:
    """True for the images that become S_V: about ``fraction`` of every class, drawn by image.

    A class of two or more images keeps at least one on either side; a class of one image trains.
    The draw of a class depends on its label and size alone, never on the other classes.
    """
    mask = np.zeros(len(labels), dtype=bool)
    for label, rows in _rows_of_classes(labels):
        if len(rows) > 1:
            n_validation = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            mask[_shuffled(rows, seed, _VALIDATION_STREAM, label)[:n_validation]] = True
    return mask


def balanced_rows(labels: Int[np.ndarray, "N"], limit: int | None, seed: int) -> Int[np.ndarray, "n"]:
    """At most ``limit`` rows, as equal in number for every class as the classes allow, in ascending order.

    Small classes are taken whole and the others share what they leave. A smaller limit takes a subset of
    what a larger one takes, except for the remainder that does not divide among the classes.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    classes = _rows_of_classes(labels)
    quotas = _quotas(np.array([len(rows) for _, rows in classes]), limit, seed)
    chosen = [
        _shuffled(rows, seed, _LIMIT_STREAM, label)[:quota]
        for (label, rows), quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _quotas(sizes: Int[np.ndarray, "M"], limit: int, seed: int) -> Int[np.ndarray, "M"]:
    quotas = np.zeros_like(sizes)
    while (left := limit - int(quotas.sum())) > 0:
        open_classes = np.flatnonzero(quotas < sizes)
        share = left // len(open_classes)
        if share == 0:
            # Fewer images left than classes: a seeded draw, so that no class is always the loser.
            quotas[_shuffled(open_classes, seed, _REMAINDER_STREAM, 0)[:left]] += 1
            break
        quotas[open_classes] = np.minimum(quotas[open_classes] + share, sizes[open_classes])
    return quotas


def _rows_of_classes(labels: Int[np.ndarray, "N"]) -> list[tuple[int, Int[np.ndarray, "n"]]]:
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return [(int(value), rows) for value, rows in zip(values, np.split(order, starts[1:]), strict=True)]


def _shuffled(rows: Int[np.ndarray, "n"], seed: int, stream: int, label: int) -> Int[np.ndarray, "n"]:
    # Seed sequences take no negative numbers; the modulus keeps distinct 64-bit seeds distinct.
    return np.random.default_rng([seed % 2**64, stream, label]).permutation(rows)
