"""Hard words of a sliced dictionary: the argmax over slices, decided in float64, ties to the lowest word."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.gaussian import peaks, refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.mixture import Assignment
from gmm_ops.mixtures.near_ties import ExactScores
from gmm_ops.mixtures.powers import powers
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.tiles import refuse_other_columns, rows_per_tile, scored_tiles, slice_weights


@torch.no_grad()
def sliced_assign(words: WordSlice, columns: Columns, reduce: Collective, tile_rows: int | None = None) -> Assignment:
    """`gmm_ops.mixtures.mixture.assign` of a sliced dictionary (IG Sec. 3.1): words by whole numbering.

    Each slice settles its own best word in float64 among those within float32 rounding of its best, and the
    slices compare these: the words are those of the unsliced dictionary. columns: (n, D), the same on every slice,
    and so is the result. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, reduce)
    own, n, device = words.own, columns.shape[0], columns.device
    exact = ExactScores.of(own.mean, own.variance, own.center, peaks(own.log_pi, own.variance))
    word = torch.empty(n, dtype=torch.int64, device=device)
    posterior = torch.empty(n, dtype=torch.float32, device=device)
    log_joint = torch.empty(n, dtype=torch.float32, device=device)
    rows = tile_rows or rows_per_tile(words.n_words, reduce.world, device)
    with full_precision():
        for tile in scored_tiles(columns, own.center, slice_weights(words), rows):
            found, joint = exact.settle(tile.score[: tile.rows], columns[tile.part])
            top = tile.score[: tile.rows].amax(dim=1)
            best, best_joint = reduce.all_reduce_max(torch.stack([top.double(), joint]))
            word[tile.part] = chosen = _lowest(words.first + found, joint == best_joint, words.n_words, reduce)
            total = powers(tile, best.to(top.dtype))
            mine = _own_powers(tile.score[: tile.rows], chosen - words.first)
            total, power = reduce.all_reduce_sum(torch.stack([total, mine]))
            posterior[tile.part] = (power / total).float()
            log_joint[tile.part] = best_joint.float()
    return Assignment(word, posterior, log_joint)


def _lowest(word: Int[Tensor, " n"], wins: Tensor, n_words: int, reduce: Collective) -> Int[Tensor, " n"]:
    """The lowest of the slices' winning words."""
    candidate = torch.where(wins, word, n_words)
    return (-reduce.all_reduce_max(-candidate.double())).long()


def _own_powers(power: Float[Tensor, "n K_own"], word: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The power of each row's word where it is an own one, else 0; float64."""
    is_own = (word >= 0) & (word < power.shape[1])
    at = torch.where(is_own, word, 0)
    return torch.where(is_own, power.gather(1, at[:, None]).squeeze(1), 0.0).double()
