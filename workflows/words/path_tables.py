"""Rows of transitions.parquet, triage.parquet and junctions.parquet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.hmm.branches import BranchCounts
from gmm_ops.hmm.chain import Chain
from workflows.plan.run_plan import Plan
from workflows.storage.images_table import ImageColumns
from workflows.words.chain_words import layer_names
from workflows.words.triage import PathCounts, Triaged

START = "start"
"""The junction of level 1."""


def transition_table(plan: Plan, scope: str, chain: Chain, counts: PathCounts) -> pa.Table:
    """One row per cell of every table of the chain, the prediction's last.

    Where the prediction is no variable of the chain, its probability is the share of the training images whose path
    comes by; 0 where none does.
    """
    names = layer_names(plan)
    parts = []
    for level, (lower, upper) in enumerate(pairwise(names), start=2):
        train, validation = counts.train.total(level), counts.validation.total(level)
        index = level - 2
        table = chain.transitions[index] if index < len(chain.transitions) else _shares(train)
        n_upper, n_lower = table.shape
        cells = n_upper * n_lower
        parts.append(
            pa.table(
                {
                    "scope": pa.array([scope] * cells, pa.string()),
                    "upper_layer": pa.array([upper] * cells, pa.string()),
                    "upper_word": np.tile(np.arange(n_upper), n_lower),
                    "lower_layer": pa.array([lower] * cells, pa.string()),
                    "lower_word": np.repeat(np.arange(n_lower), n_upper),
                    "probability": table.T.flatten().numpy(),
                    "train_images": train.T.flatten().numpy(),
                    "validation_images": validation.T.flatten().numpy(),
                }
            )
        )
    return pa.concat_tables(parts)


def _shares(counts: Tensor) -> Float[Tensor, "K_upper K_lower"]:
    return counts.double() / counts.sum(dim=0).clamp(min=1)


def triage_table(plan: Plan, scope: str, found: Triaged, images: ImageColumns) -> pa.Table:
    """One row per misclassified image, in the order of the images."""
    names, classes = pa.array(layer_names(plan)), pa.array(plan.class_names)
    errors = found.errors
    image, level, lower = errors["image"], errors["level"], errors["lower"]
    label, predicted = images.label[image], images.predicted[image]
    start = level == 1
    lower_layer = names.take(pa.array(np.maximum(level - 2, 0))).to_pylist()
    junctions = [
        START if first else junction_name(layer, word)
        for first, layer, word in zip(start, lower_layer, lower, strict=True)
    ]
    odds = errors["log_odds"]
    return pa.table(
        {
            "image": image,
            "scope": pa.array([scope] * len(image), pa.string()),
            "split": pa.array(np.where(image < plan.train_images, "train", "validation"), pa.string()),
            "label": label,
            "label_name": classes.take(pa.array(label)),
            "predicted": predicted,
            "predicted_name": classes.take(pa.array(predicted)),
            "junction": pa.array(junctions, pa.string()),
            "level": level,
            "lower_layer": pa.array(lower_layer, pa.string(), mask=start),
            "lower_word": pa.array(lower, mask=start),
            "upper_layer": names.take(pa.array(level - 1)),
            "upper_word": errors["taken"],
            "expected_word": pa.array(errors["expected"], mask=errors["expected"] < 0),
            # A branch that the model holds for impossible has no finite log-odds either.
            "log_odds": pa.array(odds, mask=~np.isfinite(odds)),
        }
    )


def junction_name(layer: str | None, word: int | None) -> str:
    """``<lower layer>:<lower word>``, or ``start``."""
    return START if layer is None else f"{layer}:{word}"


@dataclass
class _Junction:
    """What gathers at one junction; the errors that count are those of S_V."""

    errors: int = 0
    train_errors: int = 0
    correct_leaving: int = 0
    log_odds: list[float] = field(default_factory=list)
    confusions: Counter[tuple[int, int]] = field(default_factory=Counter)


def junction_rows(
    plan: Plan, scope: str, found: Triaged, images: ImageColumns, validation: BranchCounts
) -> list[dict[str, Any]]:
    """One row per junction where an image leaves, most errors of the validation images first.

    Ties go to the one with more errors of the training images, then to the lower level and word. validation: branches
    of all images of S_V.
    """
    junctions = _gathered(plan, found, images)
    order = sorted(junctions, key=lambda key: (-junctions[key].errors, -junctions[key].train_errors, key))
    total = sum(junction.errors for junction in junctions.values())
    names, passing = layer_names(plan), list(_images_at(validation))
    rows, explained = [], 0
    for rank, (level, lower) in enumerate(order):
        junction = junctions[level, lower]
        explained += junction.errors
        layer, word = (names[level - 2], lower) if level > 1 else (None, None)
        rows.append(
            {"scope": scope, "rank": rank, "junction": junction_name(layer, word), "level": level}
            | {"lower_layer": layer, "lower_word": word, "upper_layer": names[level - 1], "errors": junction.errors}
            | {"share": junction.errors / max(1, total), "cumulative_share": explained / max(1, total)}
            | {"train_errors": junction.train_errors, "correct_leaving": junction.correct_leaving}
            | {"images": int(passing[level - 1][max(lower, 0)])}
            | {"mean_log_odds": float(np.mean(junction.log_odds)) if junction.log_odds else None}
            | _commonest(junction.confusions, plan)
        )
    return rows


def _gathered(plan: Plan, found: Triaged, images: ImageColumns) -> dict[tuple[int, int], _Junction]:
    """(level, lower word or -1) -> everything that leaves there."""
    junctions: defaultdict[tuple[int, int], _Junction] = defaultdict(_Junction)
    columns = (found.errors[name].tolist() for name in ("image", "level", "lower", "log_odds"))
    for image, level, lower, odds in zip(*columns, strict=True):
        junction = junctions[level, lower]
        if image < plan.train_images:
            junction.train_errors += 1
            continue
        junction.errors += 1
        junction.confusions[int(images.label[image]), int(images.predicted[image])] += 1
        if np.isfinite(odds):
            junction.log_odds.append(odds)
    for level, leaving in enumerate(found.correct_leaving, start=1):
        for word in np.flatnonzero(leaving).tolist():
            junctions[level, word if level > 1 else -1].correct_leaving = int(leaving[word])
    return junctions


def _images_at(branches: BranchCounts) -> Iterator[torch.Tensor]:
    """Per level, the counted images by lower word."""
    for level in range(1, len(branches.n_states) + 1):
        yield branches.total(level).sum(dim=0)


def _commonest(confusions: Counter[tuple[int, int]], plan: Plan) -> dict[str, Any]:
    """True and predicted class of the commonest confusion; ties to the lowest true, then the lowest predicted class."""
    if not confusions:
        return {"label_name": None, "predicted_name": None, "confusions": 0}
    (label, predicted), count = min(confusions.items(), key=lambda item: (-item[1], item[0]))
    names = plan.class_names
    return {"label_name": names[label], "predicted_name": names[predicted], "confusions": count}
