"""Selections of units: the best by a score, how far two of them agree beside chance, means with intervals."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_count


def top_units(scores: Float[Tensor, " D"], top: int) -> Int[Tensor, " n"]:
    """Units of the highest scores, best first; of equals the lower unit, none without a score (NaN).

    Raises:
        RefusedInput: ``top`` is no count of at least 1.
    """
    order = torch.sort(scores.nan_to_num(-torch.inf, torch.inf, -torch.inf), descending=True, stable=True).indices
    return order[~scores[order].isnan()][: as_count("top", top)]


def jaccard(first: Int[Tensor, " n"], second: Int[Tensor, " m"]) -> float:
    """|A and B| / |A or B| of two sets of units; NaN where both are empty."""
    one, other = set(first.tolist()), set(second.tolist())
    return len(one & other) / len(one | other) if one or other else math.nan


def chance_jaccard(units: int, first: int, second: int) -> float:
    """Expectation of ``jaccard`` for two sets of these sizes drawn among ``units``; NaN where both are empty.

    The overlap of two random sets is hypergeometric.
    """
    if max(first, second) > units:
        raise RefusedInput(f"units: must be at least {max(first, second)}, got {units}; take fewer units")
    if not first and not second:
        return math.nan
    every = math.comb(units, second)
    return sum(
        math.comb(first, both) * math.comb(units - first, second - both) / every * both / (first + second - both)
        for both in range(min(first, second) + 1)
    )


def bootstrap_means(
    values: Float[Tensor, "n K"], seed: int, draws: int = 1000, level: float = 0.95
) -> Float[Tensor, "3 K"]:
    """Means over images with a percentile interval of a bootstrap over images (Efron 1979): mean, low, high.

    Args:
        values: a row for every image; NaN where it has none.
        seed: of the draws.
        draws: of as many images as there are, with replacement.
        level: of the interval.

    Returns:
        NaN where no image has a value; no interval, that is NaN, where fewer than two have.
    """
    exact, known = values.double().nan_to_num(0.0), ~values.isnan()
    count = known.sum(dim=0)
    generator = torch.Generator().manual_seed(seed % 2**63)
    images = len(values)
    rows = torch.randint(0, max(images, 1), (draws if images else 0, images), generator=generator)
    weights = torch.zeros((len(rows), images), dtype=torch.float64)
    weights.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    drawn = (weights @ exact) / (weights @ known.double())  # NaN: a draw without any image that has a value
    mean = exact.sum(dim=0) / count
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ends = torch.nanquantile(drawn, tails, dim=0) if len(drawn) else mean.new_full((2, values.shape[1]), torch.nan)
    return torch.cat([mean[None], torch.where(count > 1, ends, torch.nan)])
