"""What a dictionary says of columns: hard words, log-likelihoods, posteriors; whole, or in slices that meet."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.gaussian import peaks, refuse_non_finite, refuse_other_shape, refuse_overflow
from gmm_ops.mixtures.mixture import Assignment, Mixture
from gmm_ops.mixtures.near_ties import ExactScores
from gmm_ops.mixtures.powers import normalised, powers
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.row_loops import row_maxima
from gmm_ops.mixtures.slices import WordSlice, as_slice
from gmm_ops.mixtures.tiles import refuse_other_columns, rows_per_tile, scored_tiles, slice_weights


@torch.no_grad()
def assign(
    words: Mixture | WordSlice, columns: Columns, collective: Collective = LONE, tile_rows: int | None = None
) -> Assignment:
    """The hard word of every column (IG Sec. 3.1), numbered in the whole dictionary.

    Float32 products pick the words within rounding of the best; among those float64 decides, of each slice and then
    between them, so the word depends neither on tiles, threads nor slices.

    Args:
        words: A dictionary, or the slice of it that this actor holds.
        columns: (n, D), the same on every slice, and so is the result.

    Raises:
        NonFiniteActivations, RefusedInput: on every slice alike.
    """
    place = _checked(words, columns, collective)
    own, n, device = place.own, columns.shape[0], columns.device
    exact = ExactScores.of(own.mean, own.variance, own.center, peaks(own.log_pi, own.variance))
    word = torch.empty(n, dtype=torch.int64, device=device)
    posterior = torch.empty(n, dtype=torch.float32, device=device)
    log_joint = torch.empty(n, dtype=torch.float32, device=device)
    rows = tile_rows or rows_per_tile(place.n_words, collective.world, device)
    with full_precision():
        for tile in scored_tiles(columns, own.center, slice_weights(place), rows):
            score = tile.score[: tile.rows]
            found, joint = exact.settle(score, columns[tile.part])
            best, best_joint = collective.all_reduce_max(torch.stack([row_maxima(score).double(), joint]))
            word[tile.part] = chosen = _lowest(place.first + found, joint == best_joint, place.n_words, collective)
            own_total = powers(tile, best.to(score.dtype))
            total, power = collective.all_reduce_sum(torch.stack([own_total, _own(score, chosen - place.first)]))
            posterior[tile.part] = (power / total).float()
            log_joint[tile.part] = best_joint.float()
    refuse_overflow(posterior + log_joint)
    return Assignment(word, posterior, log_joint)


@torch.no_grad()
def log_likelihood(words: Mixture | WordSlice, columns: Columns, collective: Collective = LONE) -> Float[Tensor, " n"]:
    """log p(x) per column under all words, natural logarithm, float64 from float32 products (IG Eq. 7: minus its mean).

    words, columns, errors: as for ``assign``.
    """
    place = _checked(words, columns, collective)
    found = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    rows = rows_per_tile(place.n_words, collective.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, place.own.center, slice_weights(place), rows):
            best, total = normalised(tile, collective)
            torch.add(best.double(), total.log(), out=found[tile.part])
    refuse_overflow(found)
    return found


@torch.no_grad()
def posteriors(words: Mixture | WordSlice, columns: Columns, collective: Collective = LONE) -> Float[Tensor, "n K_own"]:
    """P(word | column) of the own words, float32, tile by tile. words, columns, errors: as for ``assign``."""
    place = _checked(words, columns, collective)
    found = torch.empty(columns.shape[0], place.own.n_words, dtype=torch.float32, device=columns.device)
    evidence = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    rows = rows_per_tile(place.n_words, collective.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, place.own.center, slice_weights(place), rows):
            best, total = normalised(tile, collective)
            evidence[tile.part] = best.double() + total.log()
            power = tile.score[: tile.rows]
            torch.div(power, total[:, None].to(power.dtype), out=found[tile.part])
    refuse_overflow(evidence)
    return found


def _checked(words: Mixture | WordSlice, columns: Columns, collective: Collective) -> WordSlice:
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, collective)
    return as_slice(words)


def _lowest(word: Int[Tensor, " n"], wins: Tensor, n_words: int, collective: Collective) -> Int[Tensor, " n"]:
    """The lowest of the slices' winning words."""
    candidate = torch.where(wins, word, n_words)
    return (-collective.all_reduce_max(-candidate.double())).long()


def _own(power: Float[Tensor, "n K_own"], word: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The power of each row's word where it is an own one, else 0; float64."""
    is_own = (word >= 0) & (word < power.shape[1])
    at = torch.where(is_own, word, 0)
    return torch.where(is_own, power.gather(1, at[:, None]).squeeze(1), 0.0).double()
