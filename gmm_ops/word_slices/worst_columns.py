"""The worst-explained columns of a minibatch under a sliced dictionary, the same on every slice."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.fitting.collective import Collective, log_sum_exp
from gmm_ops.mixtures.gaussian import centred, score_parameters, scores
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.statistics import WorstColumns
from gmm_ops.word_slices.tiles import WORDS_AT_ONCE

COLUMNS_AT_ONCE = 1_024
"""Candidates scored together in float64; more than a few hundred only if very many columns tie."""


def worst_of(
    words: WordSlice,
    columns: Columns,
    log_likelihood: Float[Tensor, " n"],
    size: int,
    image: Int[Tensor, " n"] | None,
    position: Int[Tensor, " n"] | None,
    reduce: Collective,
) -> WorstColumns:
    """The ``size`` columns with the lowest log p(x), ordered in float64.

    log_likelihood: (n,) from float32 scores, the same bits on every slice, which so choose the same candidates.
    image, position: (n,) int, to break ties; default the row number and 0.
    """
    worst = WorstColumns.none(size, words.n_units)
    n = columns.shape[0]
    if size == 0 or n == 0:
        return worst
    # Float32 sums order close columns at random, so a few more candidates than asked are rescored.
    last = log_likelihood.kthvalue(min(n, 4 * size)).values
    rows = (log_likelihood <= last).nonzero().squeeze(1)
    for row in rows.split(COLUMNS_AT_ONCE):
        chosen = columns[row]
        exact = exact_log_likelihood(words, chosen, reduce).cpu()
        row = row.cpu()
        images = row if image is None else image.cpu()[row].long()
        positions = torch.zeros_like(row) if position is None else position.cpu()[row].long()
        candidates = WorstColumns(exact, images, positions, chosen.cpu().double())
        for part in torch.arange(len(row)).split(size):
            worst = worst.merge(_rows(candidates, part))
    return worst


def exact_log_likelihood(words: WordSlice, columns: Columns, reduce: Collective) -> Float[Tensor, " n"]:
    """log p(x) in float64 all through, for few columns; natural logarithm, the same bits on every slice."""
    own = words.own
    about_center = centred(columns, own.center, torch.float64)
    found = torch.full((columns.shape[0],), -torch.inf, dtype=torch.float64, device=columns.device)
    for start in range(0, own.n_words, WORDS_AT_ONCE):
        part = slice(start, start + WORDS_AT_ONCE)
        mean = own.mean[part] - own.center
        parameters = score_parameters(own.log_pi[part], mean, own.variance[part], torch.float64)
        found = torch.logaddexp(found, torch.logsumexp(scores(about_center, parameters), dim=1))
    return log_sum_exp(found, reduce)


def _rows(columns: WorstColumns, row: Int[Tensor, " r"]) -> WorstColumns:
    return WorstColumns(columns.log_likelihood[row], columns.image[row], columns.position[row], columns.column[row])
