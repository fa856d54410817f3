"""Words of a hidden Markov model that lost their images take half of the heaviest word of their layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords
from gmm_ops.mixtures.em import VarianceFloor
from gmm_ops.mixtures.splitting import APART, Split, planned_splits


def split_dead_words(
    statistics: ChainStatistics, model: HiddenMarkovModel, var_floors: Sequence[VarianceFloor], min_share: float
) -> ChainStatistics:
    """As `gmm_ops.mixtures.splitting.split_dead` does, in every layer; decided by sums alone.

    Both halves have the transitions of the word that was split: its column of the table above is copied, its row of
    the table below, the share that comes in from every lower word, is halved.

    Args:
        statistics: about the means of ``model``; left as they are.
        var_floors: lowest variance of every layer or its units, squared.
        min_share: least share of a word in its layer, times 1/K; 0 splits nothing.
    """
    s0, s1, s2, s3 = (list(getattr(statistics, name)) for name in ("s0", "s1", "s2", "s3"))
    for layer, words in enumerate(model.layers):
        splits = planned_splits(s0[layer].cpu().numpy(), min_share)
        if not splits:
            continue
        s0[layer], s1[layer], s2[layer] = s0[layer].clone(), s1[layer].clone(), s2[layer].clone()
        _split_moments(words, s0[layer], s1[layer], s2[layer], splits, var_floors[layer])
        if layer > 0:
            s3[layer - 1] = _split_rows(s3[layer - 1], splits)
        if layer < len(s3):
            s3[layer] = _split_rows(s3[layer].T, splits).T
    return replace(statistics, s0=tuple(s0), s1=tuple(s1), s2=tuple(s2), s3=tuple(s3))


def _split_moments(
    words: LayerWords,
    s0: Float[Tensor, " K"],
    s1: Float[Tensor, "K D"],
    s2: Float[Tensor, "K D"],
    splits: Sequence[Split],
    var_floor: VarianceFloor,
) -> None:
    """In place: half of the mass to either word, means half a deviation apart, each about its own word's mean."""
    for dead, heaviest in splits:
        moved = s1[heaviest] / s0[heaviest]
        variance = (s2[heaviest] / s0[heaviest] - moved * moved).clamp(min=var_floor)
        mean, half = words.mean[heaviest] + moved, s0[heaviest] / 2.0
        for side, word in ((APART, dead), (-APART, heaviest)):
            about = mean + side * variance.sqrt() - words.mean[word]
            s0[word], s1[word] = half, half * about
            s2[word] = half * (about * about + (1.0 - APART * APART) * variance)


def _split_rows(counts: Float[Tensor, "K other"], splits: Sequence[Split]) -> Float[Tensor, "K other"]:
    found = counts.clone()
    for dead, heaviest in splits:
        found[[dead, heaviest]] = found[heaviest] / 2.0
    return found
