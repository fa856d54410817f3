"""What is asked of every image, and the scores of a layer's units by every metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.units.resampling import (
    PrecisionRule,
    Reduce,
    ResponseSums,
    correlations,
    directional_slopes,
    precisions,
    squares_over_variances,
)
from gmm_ops.units.selections import chance_jaccard, jaccard, top_units
from workflows.networks.attribution.readers import ReadingWeights
from workflows.networks.attribution.response_layers import ResponseLayer
from workflows.networks.taps import Tap

CORRELATION, DIRECTIONAL, RANDOM = "correlation", "directional", "random"
METRICS = (
    CORRELATION,
    "precision",
    "mean_square_over_variance",
    DIRECTIONAL,
    "activation_sum",
    "activation_variance",
    "weight_sum",
    "weight_variance",
    RANDOM,
)
"""IR's two, what stands beside them, APPLE's four baselines, and units drawn at random."""

DEFAULT_METRICS = tuple(metric for metric in METRICS if metric not in (DIRECTIONAL, "mean_square_over_variance"))

OF_OUTPUTS = (CORRELATION, DIRECTIONAL)
"""What reads the network's outputs, which a network may not have."""

UNSTABLE = 0.3
"""A selection whose test-retest Jaccard is below this is flagged."""


@dataclass(frozen=True)
class Resampling:
    """What is asked of every image.

    Attributes:
        layers: whose units.
        metrics: of ``METRICS``; ``random`` is among them, and the last.
        copies: n of one draw; there are two draws, for the test-retest.
        sigma: standard deviation of the noise, as a share of the pixel.
        tops: numbers of units that are selected a layer, ascending.
        reduce, precision: see ``gmm_ops.units.resampling``.
        tap: where responses are read.
    """

    layers: tuple[ResponseLayer, ...]
    metrics: tuple[str, ...]
    copies: int = 50
    sigma: float = 0.1
    tops: tuple[int, ...] = (5, 20)
    reduce: Reduce = "position"
    precision: PrecisionRule = "inverse_of_mean"
    tap: Tap = "post"

    @property
    def forward_passes(self) -> int:
        """Of an image: itself, two draws of copies, and of ``directional`` a gradient (3) and two images."""
        return 1 + 2 * self.copies + (5 if DIRECTIONAL in self.metrics else 0)

    @property
    def most_units(self) -> int:
        """Whose signals go back to the pixels of an image, if no two metrics select the same."""
        return len(self.layers) * len(self.metrics) * max(self.tops)


@dataclass(frozen=True)
class Evidence:
    """What the scores of a layer's units are computed from.

    Attributes:
        sums: over copies of the image; their origin is its own response.
        weights: that read the layer.
        slopes: responses along the output's own direction, where ``directional`` is asked for.
        rng: of random units.
    """

    sums: ResponseSums
    weights: ReadingWeights
    slopes: tuple[Tensor, Tensor] | None
    rng: np.random.Generator


@dataclass(frozen=True)
class LayerScores:
    """Scores (D,) of a layer's units by metric: of one draw, and with the outputs permuted (correlation alone)."""

    own: dict[str, Tensor]
    null: dict[str, Tensor]

    @classmethod
    def of(cls, evidence: Evidence, asked: Resampling) -> LayerScores:
        """Every metric that is asked for."""
        own = {metric: _scored(metric, evidence, asked).cpu() for metric in asked.metrics}
        null = correlations(evidence.sums, asked.reduce, permuted=True).cpu()
        return cls(own, {CORRELATION: null} if CORRELATION in own else {})

    def chosen(self, metric: str, top: int) -> list[int]:
        """Units of the highest scores, best first."""
        return [int(unit) for unit in top_units(self.own[metric], top)]


def _scored(metric: str, evidence: Evidence, asked: Resampling) -> Float[Tensor, " D"]:
    sums, origin = evidence.sums, evidence.sums.origin.flatten(1)
    match metric:
        case "correlation":
            return correlations(sums, asked.reduce)
        case "precision":
            return precisions(sums, asked.precision)
        case "mean_square_over_variance":
            return squares_over_variances(sums)
        case "directional":
            assert evidence.slopes is not None, "computed where it is asked for"
            return directional_slopes(*evidence.slopes, sums, asked.reduce)
        case "activation_sum":
            return origin.sum(dim=1)
        case "activation_variance":
            return origin.var(dim=1, correction=0)
        case "weight_sum":
            return evidence.weights.total
        case "weight_variance":
            return evidence.weights.variance
    return torch.from_numpy(evidence.rng.random(len(origin)))


def selection_columns(first: LayerScores, again: LayerScores, metric: str, top: int) -> dict[str, int | float]:
    """How far a selection can be trusted: Jaccard with that of a second draw, beside chance and permuted outputs.

    ``retest_null``, ``layer_null_score``: with permuted outputs; NaN for metrics that read no output.
    """
    own = first.own[metric]
    one, other = top_units(own, top), top_units(again.own[metric], top)
    null = null_score = float("nan")
    if metric in first.null:
        null = jaccard(top_units(first.null[metric], top), top_units(again.null[metric], top))
        null_score = float(first.null[metric].nanmean())
    return {
        "retest": jaccard(one, other),
        "retest_null": null,
        "chance": chance_jaccard(len(own), len(one), len(other)),
        "layer_score": float(own.nanmean()),
        "layer_null_score": null_score,
    }
