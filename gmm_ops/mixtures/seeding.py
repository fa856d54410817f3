"""Where a fit starts: seeds that depend on what is fitted, and the first words."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.gaussian import refuse_non_finite
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice, slice_bounds

Initialisation = Literal["random", "kmeans++"]

FloorOf = Literal["layer", "unit"]
"""What a variance floor is a share of: the layer's mean variance over units, or each unit's own."""

VARIANCE_SAMPLE = 1_000
"""Columns that the first variance is measured on (Konforti et al., supplement)."""

ROWS_AT_ONCE = 4_096
"""Rows compared at a time in the search for columns that differ."""

KMEANS_POOL = 20
"""k-means++ draws its words from this many random columns per word: the distances cost K passes."""

_ALL_THE_SAME = (
    "columns must differ from each other; all {} are the same. Is the layer dead, or the network's input constant?"
)


def fit_seed(run_seed: int, scope: str, layer: str) -> int:
    """Seed of one fit, below 2^63: a hash of what is fitted, never the order in which fits were scheduled."""
    digest = hashlib.sha256(f"{run_seed}\x1f{scope}\x1f{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int) -> torch.Generator:
    """A CPU generator, so that a seed gives the same numbers on every device."""
    return torch.Generator().manual_seed(seed)


def distinct_rows(columns: Columns, n_words: int, source: torch.Generator) -> Int[Tensor, " K"]:
    """``n_words`` rows whose columns differ from each other: the first such ones of a random order.

    Two words that start as the same column stay the same for ever.
    Raises RefusedInput where there are not as many different columns.
    """
    refuse_too_many_words(n_words, columns.shape[0])
    seen: dict[bytes, int] = {}
    for rows in torch.randperm(columns.shape[0], generator=source).split(ROWS_AT_ONCE):
        # Adding zero makes -0.0 the 0.0 that it equals.
        values = (columns[rows.to(columns.device)].double() + 0.0).cpu().numpy()
        for row, column in zip(rows.tolist(), values, strict=True):
            seen.setdefault(column.tobytes(), row)
            if len(seen) == n_words:
                return torch.tensor(list(seen.values()))
    if len(seen) == 1:
        raise RefusedInput(_ALL_THE_SAME.format(columns.shape[0]))
    raise RefusedInput(
        f"n_words must not be larger than the number of different columns; got {n_words} words for {len(seen)} "
        f"different ones among {columns.shape[0]}. Take fewer words, or more images."
    )


def kmeans_plus_plus(columns: Columns, n_words: int, source: torch.Generator) -> Int[Tensor, " K"]:
    """Rows far from each other, greedily (Arthur and Vassilvitskii 2007, and their code).

    Every next one is the best of 2 + log K candidates, drawn with probability proportional to the squared distance
    to the nearest row before them, in units of the layer's standard deviation: the best leaves the least sum of such
    distances. A single draw finds outliers.
    """
    rows = torch.randperm(columns.shape[0], generator=source)[: KMEANS_POOL * n_words]
    pool = columns[rows.to(columns.device)].double().cpu()
    deviation = pool.std(dim=0, unbiased=False)
    scaled = pool / torch.where(deviation > 0, deviation, 1.0)
    chosen = [int(torch.randint(len(scaled), (1,), generator=source))]
    distance = _squared_distances(scaled, chosen)[0]
    trials = 2 + int(math.log(n_words))
    while len(chosen) < n_words and bool((distance > 0).any()):
        candidates = torch.multinomial(distance, trials, replacement=True, generator=source).tolist()
        nearest = torch.minimum(distance, _squared_distances(scaled, candidates))
        best = int(nearest.sum(dim=1).argmin())
        chosen.append(candidates[best])
        distance = nearest[best]
    if len(chosen) < n_words:
        return distinct_rows(columns, n_words, source)
    return rows[torch.tensor(chosen)]


def _squared_distances(scaled: Float[Tensor, "n D"], rows: list[int]) -> Float[Tensor, "m n"]:
    return torch.stack([((scaled - scaled[row]) ** 2).sum(dim=1) for row in rows])


def initial_mixture(
    sample: Columns,
    n_words: int,
    seed: int,
    method: Initialisation = "random",
    var_floor: float = 1e-4,
    floor_of: FloorOf = "layer",
) -> Mixture:
    """K different columns as means, one variance per unit from 1,000 random columns, equal shares.

    sample: (n, D), n >= K. var_floor, floor_of: lowest variance, as in ``lowest_variance``.
    Raises NonFiniteActivations, RefusedInput (K > n; fewer different columns than words).
    """
    return initial_slice(sample, n_words, seed, 0, 1, var_floor, floor_of, method).own


def initial_slice(
    sample: Columns,
    n_words: int,
    seed: int,
    rank: int,
    world: int,
    var_floor: float = 1e-4,
    floor_of: FloorOf = "layer",
    method: Initialisation = "random",
) -> WordSlice:
    """Slice ``rank`` of ``world`` of ``initial_mixture``, bit for bit, without the other words.

    sample: the same on every slice. Others, errors: as there; more slices than words are refused too.
    """
    if method not in ("random", "kmeans++"):
        raise RefusedInput(f"init must be 'random' or 'kmeans++'; got {method!r}.")
    refuse_too_many_words(n_words, sample.shape[0])
    refuse_non_finite(sample)
    first, last = slice_bounds(n_words, rank, world)
    source = generator(seed)
    draw = distinct_rows if method == "random" else kmeans_plus_plus
    mean = sample[draw(sample, n_words, source)[first:last].to(sample.device)].double()
    variance = first_variance(sample, source, var_floor, floor_of)
    # Rounded to float32 so that float16, float32 and float64 columns are centred to the same values.
    center = sample.mean(dim=0, dtype=torch.float64).float().double()
    shares = torch.full((last - first,), 1.0 / n_words, dtype=torch.float64, device=sample.device)
    return WordSlice(Mixture(shares.log(), mean, variance.expand_as(mean).clone(), center), first, n_words)


def first_variance(
    sample: Columns, source: torch.Generator, var_floor: float, floor_of: FloorOf = "layer"
) -> Float[Tensor, " D"]:
    """The variance that all words start with: of some columns, unit by unit; of all, if those are all the same.

    Raises RefusedInput if all columns are the same.
    """
    rows = torch.randperm(sample.shape[0], generator=source)[:VARIANCE_SAMPLE]
    spread = sample[rows.to(sample.device)].double().var(dim=0, unbiased=False)
    if not bool((spread > 0).any()):
        spread = sample.double().var(dim=0, unbiased=False)
    if not bool((spread > 0).any()):
        raise RefusedInput(_ALL_THE_SAME.format(sample.shape[0]))
    return torch.maximum(spread, lowest_variance(spread, var_floor, floor_of))


def lowest_variance(layer: Float[Tensor, " D"], share: float, floor_of: FloorOf) -> Float[Tensor, " D"]:
    """The floor of every unit's variance: ``share`` of the layer's mean variance, or of the unit's own.

    A unit's own floor is at least ``share`` of what the layer's would be, for units that never change.
    layer: (D,) variance of every unit over all columns.
    """
    mean = layer.mean().expand_as(layer)
    return share * (mean if floor_of == "layer" else torch.maximum(layer, share * mean))


def refuse_too_many_words(n_words: int, n_columns: int) -> None:
    """Raise RefusedInput unless 1 <= K <= number of columns."""
    if n_words < 1:
        raise RefusedInput(f"n_words must be at least 1; got {n_words}.")
    if n_words > n_columns:
        raise RefusedInput(
            f"n_words must not be larger than the number of columns; got {n_words} words for {n_columns} "
            "columns. Take fewer words, more images or more columns_per_image."
        )
