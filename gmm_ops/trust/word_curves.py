"""How fast a class's logit goes, or comes back, as the words of a layer are taken out, or left, one after another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput


def curve_steps(words: int) -> Int[Tensor, " S"]:
    """Numbers of words at which a curve is known: 0, 1, 2, 3, 5, 10, 20, 50, ... and all of them.

    Raises:
        RefusedInput: no word.
    """
    if words < 1:
        raise RefusedInput(f"words: must be at least 1 for a curve, got {words}; take a layer that has some")
    steps = [3, *(first * 10**power for power in range(len(str(words))) for first in (1, 2, 5))]
    return torch.tensor(sorted({0, words, *(step for step in steps if step < words)}))


def kept_shares(
    plain: Float[Tensor, " n"], after: Float[Tensor, "n S"], without: Float[Tensor, " n"]
) -> Float[Tensor, " S"]:
    """f(k) = (logit after k words - logit after all) / (logit - logit after all), of sums over images.

    Args:
        plain: logit of each image.
        after: after each step of a curve.
        without: after all words are taken out.

    Returns:
        1 where nothing is taken out, 0 where all is; NaN where taking out all changes no sum.

    Raises:
        RefusedInput: not one row an image.
    """
    if not len(plain) == len(after) == len(without):
        raise RefusedInput(
            f"plain, after, without: must have a row for every image, got {len(plain)}, {len(after)} and "
            f"{len(without)}; take them of the same images"
        )
    nothing = without.double().sum()
    whole = plain.double().sum() - nothing
    return torch.where(whole == 0, torch.nan, (after.double().sum(dim=0) - nothing) / whole)


def curve_area(steps: Int[Tensor, " S"], kept: Float[Tensor, " S"]) -> float:
    """Area under f over k/K, by trapezoids. Deletion: the smaller, the sooner the words that matter went."""
    return float(torch.trapezoid(kept.double(), steps.double() / int(steps[-1])))


def explained_share(scores: Float[Tensor, " K"], chosen: Int[Tensor, " Z"]) -> float:
    """Scores of the chosen words (IG Eq. 16) over the sum of all positive ones; NaN where none is positive."""
    known = scores.double().nan_to_num(0.0)
    positive = float(known.clamp(min=0.0).sum())
    return float(known[chosen].sum()) / positive if positive > 0 else float("nan")
