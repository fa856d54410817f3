"""Words of any slice that lost their columns move to the globally worst-explained ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.fitting.collective import Collective, gathered
from gmm_ops.mixtures.online_step import OnlineEMSettings
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.statistics import MixtureStatistics, WorstColumns
from gmm_ops.word_slices.totals import LayerTotals


def reseed_own(
    statistics: MixtureStatistics,
    totals: LayerTotals,
    worst: WorstColumns,
    words: WordSlice,
    var_floor: float,
    settings: OnlineEMSettings,
    reduce: Collective,
) -> tuple[MixtureStatistics, Int[Tensor, " R"], bool]:
    """(statistics, own words moved, whether any slice moved one): `gmm_ops.mixtures.online_step.reseed` over slices.

    The emptiest word of the whole dictionary (ties: lowest) goes to the worst column, and so on; a slice rewrites
    the sums of its own. ``min_share`` is relative to 1/K of the whole dictionary.
    """
    none = torch.zeros(0, dtype=torch.int64)
    share = statistics.s0 / totals.share
    low, table = _emptiest(share, words, settings, reduce)
    columns = int(torch.isfinite(worst.log_likelihood).sum())
    count = min(low, settings.max_reseeds, columns, words.n_words - 1)
    if count == 0:
        return statistics, none, False
    order = np.lexsort((table[:, 1].cpu().numpy(), table[:, 0].cpu().numpy()))[:count]
    emptiest = table[torch.from_numpy(order).to(table.device)]
    shrink = (1.0 - count / words.n_words) / float(1.0 - emptiest[:, 0].sum())
    s0, s1, s2 = statistics.s0 * shrink, statistics.s1 * shrink, statistics.s2 * shrink
    variance = totals.variance.clamp(min=var_floor)
    weight = totals.share / words.n_words
    center = words.own.center
    moved = []
    for rank, word in enumerate(emptiest[:, 1].long().tolist()):
        if words.first <= word < words.last:
            own = word - words.first
            target = worst.column[rank].to(center.device, torch.float64) - center
            s0[own], s1[own], s2[own] = weight, weight * target, weight * (target * target + variance)
            moved.append(own)
    return replace(statistics, s0=s0, s1=s1, s2=s2), torch.tensor(moved, dtype=torch.int64), True


def _emptiest(
    share: Float[Tensor, " K_own"], words: WordSlice, settings: OnlineEMSettings, reduce: Collective
) -> tuple[int, Float[Tensor, "candidates 2"]]:
    """(words below the least share, (share, word) of every slice's emptiest words), over all slices."""
    size = settings.max_reseeds
    own = torch.argsort(share, stable=True)[:size]
    # One row more carries the number of low words; infinity marks rows of a slice with fewer than ``size`` words.
    table = share.new_full((size + 1, 2), torch.inf)
    table[: len(own), 0] = share[own]
    table[: len(own), 1] = (words.first + own).double()
    table[size] = (share < settings.min_share / words.n_words).sum()
    everyone = gathered(table, reduce)
    return int(everyone[:, size, 0].sum()), everyone[:, :size].reshape(-1, 2)
