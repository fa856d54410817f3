"""Rows of the tables of dissect, from its sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gmm_ops.units.code_histograms import Thresholds
from gmm_ops.units.concept_counts import LabelCounts, OverlapCounts, iou_cap
from gmm_ops.units.unit_sums import WordSums
from workflows.data.masks.concept_masks import Concept
from workflows.studies.dissect.workers import Dictionary

DETECTOR = 0.04
"""A mask with a larger IoU is a detector of its best concept."""

BEST = 3
"""Concepts kept for each unit and word."""

Row = dict[str, Any]


class Overlaps:
    """The best concepts of the masks of one layer or dictionary.

    Args:
        counts, labels: of the same images.
        concepts: by number.
        category: (C,) of every concept.
    """

    def __init__(
        self,
        counts: OverlapCounts,
        labels: LabelCounts,
        concepts: Sequence[Concept],
        category: Int[np.ndarray, " C"],
    ) -> None:
        self._concepts, self._category = concepts, category
        self.iou = counts.iou(labels, category)
        self._lite = counts.iou(labels, category, "lite")
        pixels = np.maximum(labels.pixels, 1)[category]
        self._masked = counts.areas[:, :, category] / pixels
        self._share = labels.areas / pixels
        self._cap = iou_cap(self._masked, np.broadcast_to(self._share, self._masked.shape))
        self._order = np.argsort(-self.iou, axis=2, kind="stable")[:, :, :BEST]

    def best(self, mask: int, share: int = 0) -> Iterator[Row]:
        """Rows of the best concepts of one mask; none where it meets no concept."""
        for rank, concept in enumerate(self._order[mask, share].tolist()):
            here = (mask, share, concept)
            if self.iou[here] > 0:
                yield {
                    "rank": rank,
                    "concept": self._concepts[concept].name,
                    "category": self._concepts[concept].category,
                    "iou": float(self.iou[here]),
                    "iou_lite": float(self._lite[here]),
                    "mask_share": float(self._masked[here]),
                    "concept_share": float(self._share[concept]),
                    "cap": float(self._cap[here]),
                }


def unit_rows(
    layer: str,
    overlaps: Overlaps,
    thresholds: Thresholds,
    moments: tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]],
) -> tuple[list[Row], list[Row]]:
    """Rows of the tables units and unit_concepts."""
    units, concepts = [], []
    mean, spread = moments
    for unit in range(len(thresholds.values)):
        for place, share in enumerate(thresholds.shares):
            key = {"layer": layer, "unit": unit, "quantile": share}
            best = list(overlaps.best(unit, place))
            first: Row = best[0] if best else {"concept": None, "category": None, "iou": 0.0}
            units.append(
                {
                    **key,
                    "threshold": float(thresholds.values[unit, place]),
                    "above": float(thresholds.above[unit, place] / thresholds.total),
                    "mean": float(mean[unit]),
                    "sd": float(spread[unit]),
                    **{name: first[name] for name in ("concept", "category", "iou")},
                    "detector": first["iou"] > DETECTOR,
                }
            )
            concepts += [{**key, **row} for row in best]
    return units, concepts


def word_rows(dictionary: Dictionary, overlaps: Overlaps) -> list[Row]:
    """Rows of word_concepts."""
    return [
        {
            "scope": dictionary.scope,
            "layer": dictionary.layer,
            "word": word,
            **row,
            "detector": row["rank"] == 0 and row["iou"] > DETECTOR,
        }
        for word in range(dictionary.words)
        for row in overlaps.best(word)
    ]


def member_columns(
    dictionary: Dictionary,
    members: WordSums,
    moments: tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]],
) -> dict[str, Any]:
    """Columns of word_units: every unit of every word that has a column."""
    scores = members.z_scores(*moments)
    used = np.flatnonzero(members.columns > 0)
    order = np.argsort(-scores[used], axis=1, kind="stable")
    units = order.shape[1]
    return {
        "scope": [dictionary.scope] * order.size,
        "layer": [dictionary.layer] * order.size,
        "word": np.repeat(used, units).astype(np.int32),
        "unit": order.ravel().astype(np.int32),
        "z": np.take_along_axis(scores[used], order, 1).ravel().astype(np.float32),
        "rank": np.tile(np.arange(units), len(used)).astype(np.int32),
    }
