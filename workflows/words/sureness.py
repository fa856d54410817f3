"""How sure the graphs of a scope are: intervals of log ratios, and how often words are chosen again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from gmm_ops.axes import PairCounts
from gmm_ops.trust.intervals import NORMAL_95, PairMoments, log_ratio_deviations
from gmm_ops.trust.stability import ResampledPairs, Resamplings, times_chosen
from workflows.plan.run_plan import LayerPair
from workflows.settings import Settings
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.pair_counts import read_fold_counts
from workflows.storage.states import load_state
from workflows.words.mining import ScopeCounts


@dataclass(frozen=True)
class PairIntervals:
    """Of one pair of layers.

    Attributes:
        low, high: (K, K_lower), ends of the 95 % interval of every log ratio, in its unit; NaN: the pair never occurs.
        images: (K, K_lower) int64, images of S_V in which the pair occurs.
    """

    low: Float[np.ndarray, "K K_lower"]
    high: Float[np.ndarray, "K K_lower"]
    images: Int[np.ndarray, "K K_lower"]

    def of(self, upper: int, lower: int) -> dict[str, float | int]:
        """Columns of a row of edges.parquet."""
        at = upper, lower
        ends = {"log_ratio_low": float(self.low[at]), "log_ratio_high": float(self.high[at])}
        return {**ends, "images": int(self.images[at])} if self.images[at] else {}


def scope_intervals(counted: ScopeCounts, settings: Settings) -> tuple[PairIntervals, ...]:
    """Intervals of every pair of layers, from the output downwards; none where `count.intervals` is off."""
    if not settings.count.intervals:
        return ()
    return tuple(_intervals(counted, settings, level, pair) for level, pair in enumerate(counted.plan.pairs()))


def _intervals(counted: ScopeCounts, settings: Settings, level: int, pair: LayerPair) -> PairIntervals:
    path = counted.folder.pair_moments(counted.scope, pair.lower, pair.upper)
    moments, options = PairMoments.from_arrays(load_state(path, "count")), settings.mine
    total = counted.counts[pair.name].total(pair.upper_words, pair.lower_words)
    frequency = counted.frequency(pair) if options.prior == "frequency" else None
    deviations = log_ratio_deviations(moments, total, options.prior, frequency, options.pseudo_count, LOG_UNIT.base)
    images = np.zeros(total.shape, np.int64)
    images[moments.upper.numpy(), moments.lower.numpy()] = moments.images.numpy()
    middle, reach = counted.ratios[level].values.numpy(), NORMAL_95 * deviations.numpy()
    return PairIntervals(middle - reach, middle + reach, images)


class ScopeStability:
    """Algorithm 1 again on resampled images of S_V; see ``gmm_ops.trust.stability``.

    In the graph of a class its own images are resampled with all others. An image stays as it is: what is resampled are
    the log ratios that its words are judged by. With ``mine.prior = "frequency"`` P(t) stays too.

    Args:
        counted: of the scope.
        settings: of the run.
    """

    def __init__(self, counted: ScopeCounts, settings: Settings) -> None:
        self._folds, self._options, folder = settings.count.folds, settings.mine, counted.folder
        pairs = counted.plan.pairs()
        paths = [folder.fold_counts(counted.scope, pair.lower, pair.upper) for pair in pairs]
        counts = [read_fold_counts(path, self._folds) for path in paths]
        # Every image has a word of the output; lower layers may have none of some image.
        self._drawn = Resamplings.draw(counts[0].group.numpy(), self._folds, seed=settings.seed)
        self._layers = [
            ResampledPairs(
                count,
                self._drawn,
                pair.upper_words,
                pair.lower_words,
                _shares(counted.frequency(pair)) if self._options.prior == "frequency" else None,
                self._options.pseudo_count,
                LOG_UNIT.base,
            )
            for count, pair in zip(counts, pairs, strict=True)
        ]

    def shares(self, root: int, counts: Sequence[PairCounts] | None = None) -> dict[tuple[int, int], float]:
        """(layer as ``mine`` numbers it, word) -> share of the resamplings in which the word is chosen.

        Args:
            root: class.
            counts: Q of an image; None: the graph of the class, empty where it has fewer images than folds.
        """
        if counts is None and self._drawn.folds_of(root) < self._folds:
            return {}
        times = times_chosen(root, self._layers, counts, self._options.top, self._options.positive_only)
        return {
            (len(times) - 1 - level, word): n / self._layers[0].resamplings
            for level, found in enumerate(times)
            for word, n in enumerate(found.tolist())
            if n
        }


def _shares(frequency: torch.Tensor) -> Float[torch.Tensor, " K_lower"]:
    return frequency.to(torch.float64) / frequency.sum().clamp(min=1)


def scope_stability(counted: ScopeCounts, settings: Settings) -> ScopeStability | None:
    """None where `count.folds` is 0."""
    return ScopeStability(counted, settings) if settings.count.folds else None
