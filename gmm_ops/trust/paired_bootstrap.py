"""Ratios of sums over images with percentile intervals of a bootstrap over images (Efron 1979)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.errors import RefusedInput

DRAWS = 2000
"""Of as many images as there are, with replacement."""

_AT_ONCE = 2**22
"""Weights of images that are held together."""


def bootstrap_ratios(
    numerators: Float[Tensor, "n J"],
    denominators: Float[Tensor, "n J"],
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Float[Tensor, "3 J"]:
    """sum of numerators / sum of denominators, and the ends of its interval: value, low, high.

    All columns take the same images in each draw, so differences of columns are paired; an image without a value has
    0 and 0. With denominators of 1 these are means, see ``bootstrap_differences``.

    Args:
        numerators, denominators: a row for every image.
        seed: of the draws.
        draws: how often as many images as there are, are taken with replacement.
        level: of the interval.

    Returns:
        NaN where denominators sum to 0; no interval, that is NaN, where fewer than two images have a value.

    Raises:
        RefusedInput: other shapes, a level outside of (0, 1), or no draw.
    """
    if numerators.shape != denominators.shape:
        raise RefusedInput(
            f"denominators: must be (n, J) as the numerators, got {tuple(denominators.shape)} for "
            f"{tuple(numerators.shape)}; give one for each"
        )
    if draws < 1 or not 0 < level < 1:
        raise RefusedInput(
            f"draws, level: must be at least 1 and between 0 and 1, got {draws} and {level:g}; take 2000 and 0.95"
        )
    above, below = numerators.double(), denominators.double()
    value = _ratio(above.sum(dim=0), below.sum(dim=0))
    drawn = _drawn(above, below, seed, draws)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ends = torch.nanquantile(drawn, tails, dim=0)
    enough = (below != 0).sum(dim=0) > 1
    return torch.cat([value[None], torch.where(enough, ends, torch.nan)])


def bootstrap_differences(
    first: Float[Tensor, "n J"], second: Float[Tensor, "n J"], seed: int, draws: int = DRAWS
) -> Float[Tensor, "3 J"]:
    """Mean of first - second over the images where both are known (not NaN), paired: mean, low, high."""
    difference = first.double() - second.double()
    known = (~difference.isnan()).double()
    return bootstrap_ratios(difference.nan_to_num(0.0), known, seed, draws)


def _drawn(above: Float[Tensor, "n J"], below: Float[Tensor, "n J"], seed: int, draws: int) -> Float[Tensor, "draws J"]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    images, found = len(above), []
    if not images:
        return above.new_full((1, above.shape[1]), torch.nan)
    size = max(1, _AT_ONCE // images)
    for first in range(0, draws, size):
        rows = torch.randint(0, images, (min(size, draws - first), images), generator=generator)
        weights = torch.zeros(rows.shape, dtype=torch.float64)
        weights.scatter_add_(1, rows, torch.ones_like(weights))
        found.append(_ratio(weights @ above, weights @ below))
    return torch.cat(found)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, torch.nan, above / below)
