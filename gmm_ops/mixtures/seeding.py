"""Where a fit starts: seeds that depend on what is fitted, and the first words."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.gaussian import refuse_non_finite
from gmm_ops.mixtures.mixture import Mixture

Initialisation = Literal["random", "kmeans++"]

VARIANCE_SAMPLE = 1_000
"""Columns that the first variance is measured on (Konforti et al., supplement)."""

KMEANS_POOL = 20
"""k-means++ draws its words from this many random columns per word: the distances cost K passes."""


def fit_seed(run_seed: int, scope: str, layer: str) -> int:
    """Seed of one fit, below 2^63: a hash of what is fitted, never the order in which fits were scheduled."""
    digest = hashlib.sha256(f"{run_seed}\x1f{scope}\x1f{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int) -> torch.Generator:
    """A CPU generator, so that a seed gives the same numbers on every device."""
    return torch.Generator().manual_seed(seed)


def random_columns(columns: Columns, n_words: int, source: torch.Generator) -> Columns:
    """``n_words`` different rows of ``columns``, uniformly, without replacement."""
    refuse_too_many_words(n_words, columns.shape[0])
    chosen = torch.randperm(columns.shape[0], generator=source)[:n_words]
    return columns[chosen.to(columns.device)]


def kmeans_plus_plus(columns: Columns, n_words: int, source: torch.Generator) -> Columns:
    """Rows far from each other: each drawn with probability proportional to the squared distance to the
    nearest one before it, in units of the layer's standard deviation (Arthur and Vassilvitskii 2007)."""
    pool = random_columns(columns, min(columns.shape[0], max(n_words, KMEANS_POOL * n_words)), source)
    refuse_too_many_words(n_words, columns.shape[0])
    deviation = pool.double().std(dim=0)
    scaled = pool.double() / torch.where(deviation > 0, deviation, 1.0)
    chosen = [int(torch.randint(scaled.shape[0], (1,), generator=source))]
    distance = ((scaled - scaled[chosen[0]]) ** 2).sum(dim=1)
    for _ in range(1, n_words):
        chosen.append(_draw(distance, chosen, source))
        distance = torch.minimum(distance, ((scaled - scaled[chosen[-1]]) ** 2).sum(dim=1))
    return pool[torch.tensor(chosen, device=pool.device)]


def initial_mixture(
    sample: Columns,
    n_words: int,
    seed: int,
    method: Initialisation = "random",
    var_floor: float = 1e-4,
) -> Mixture:
    """K columns as means, one variance per unit from 1,000 random columns, equal shares.

    sample: (n, D), n >= K. var_floor: lowest variance, as a share of the mean variance over units.
    Raises NonFiniteActivations, RefusedInput (K > n; columns that are all the same).
    """
    if method not in ("random", "kmeans++"):
        raise RefusedInput(f"init must be 'random' or 'kmeans++'; got {method!r}.")
    refuse_too_many_words(n_words, sample.shape[0])
    refuse_non_finite(sample)
    source = generator(seed)
    draw = random_columns if method == "random" else kmeans_plus_plus
    mean = draw(sample, n_words, source).double()
    variance = first_variance(sample, source, var_floor)
    # Rounded to float32 so that float16, float32 and float64 columns are centred to the same values.
    center = sample.mean(dim=0, dtype=torch.float64).float().double()
    shares = torch.full((n_words,), 1.0 / n_words, dtype=torch.float64, device=sample.device)
    return Mixture(shares.log(), mean, variance.expand_as(mean).clone(), center)


def first_variance(sample: Columns, source: torch.Generator, var_floor: float) -> Float[Tensor, " D"]:
    """The variance that all words start with: of some columns, unit by unit. Raises RefusedInput (all are the same)."""
    measured = random_columns(sample, min(VARIANCE_SAMPLE, sample.shape[0]), source).double()
    spread = measured.var(dim=0, unbiased=False)
    if not bool((spread > 0).any()):
        raise RefusedInput(
            f"columns must differ from each other; {measured.shape[0]} sampled columns are all the same. "
            "Is the layer dead, or the network's input constant?"
        )
    return spread.clamp(min=float(var_floor * spread.mean()))


def refuse_too_many_words(n_words: int, n_columns: int) -> None:
    """Raise RefusedInput unless 1 <= K <= number of columns."""
    if n_words < 1:
        raise RefusedInput(f"n_words must be at least 1; got {n_words}.")
    if n_words > n_columns:
        raise RefusedInput(
            f"n_words must not be larger than the number of columns; got {n_words} words for {n_columns} "
            "columns. Take fewer words, more images or more columns_per_image."
        )


def _draw(distance: Float[Tensor, " n"], chosen: list[int], source: torch.Generator) -> int:
    cumulative = distance.cpu().cumsum(dim=0)
    if float(cumulative[-1]) > 0:
        at = torch.rand((), dtype=torch.float64, generator=source) * cumulative[-1]
        return min(int(torch.searchsorted(cumulative, at, right=True)), len(cumulative) - 1)
    # Every column equals a chosen one: take any row not taken yet, so that rows stay without replacement.
    left = _rows_left(len(cumulative), chosen)
    return int(left[torch.randint(len(left), (1,), generator=source)])


def _rows_left(n: int, chosen: list[int]) -> Int[Tensor, " m"]:
    free = torch.ones(n, dtype=torch.bool)
    free[torch.tensor(chosen)] = False
    return free.nonzero().squeeze(1)
