"""One rank's words of one layer's fit by online EM: every rank reads all columns and holds a slice of the words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gmm_ops.axes import Columns
from gmm_ops.fitting.schedule import Step
from gmm_ops.mixtures.averaging import MixtureAverage
from gmm_ops.mixtures.estep import sliced_log_likelihood
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import advance, start
from gmm_ops.mixtures.slices import initial_slice
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from workflows.fits.layer_fit import START_COLUMNS_A_WORD, LayerFit
from workflows.fits.minibatches import OwnParts, in_groups
from workflows.runtime.collective import Collective
from workflows.words.sliced_words import SWEEP_COLUMNS, Place, columns_parts

START_BYTES = 64 * 2**20
"""Of the columns that the first words are drawn from, float32; more only for more words than that."""


class SlicedEM(LayerFit):
    """``LayerFit`` on the same minibatches, with K / W of the words on each of W ranks.

    As to columns it is a group of one; its state is that of the own words, whose shares are of the whole dictionary.
    Where 20 columns a word fit into ``START_BYTES`` it starts from the same words as ``LayerFit``.

    Args:
        place: of the rank.
        inputs: those of LayerFit but for rank and world.
    """

    def __init__(self, place: Place, **inputs: Any) -> None:
        super().__init__(rank=0, world=1, **inputs)
        self.place = place
        self.parts = OwnParts(self.schedule, self.source.fitted, 0, 1, columns_parts(self.em.minibatch))
        self._finished: Mixture | None = None

    def start_sample(self) -> Columns:
        """The columns that the first words are drawn from, the same on every rank."""
        words = self.layer.words
        most = max(words, START_BYTES // (4 * self.layer.units))
        return self.source.start_sample(min(max(10_000, START_COLUMNS_A_WORD * words), most), self.seed)

    def first_words(self) -> Mixture:
        """The own words where the fit starts: random columns, one variance a unit, equal shares."""
        place, em = self.place, self.em
        sample = self.start_sample()
        return initial_slice(sample, place.n_words, self.seed, place.rank, place.world, em.var_floor, em.floor_of).own

    def restore_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> None:
        """Take the state that ``to_arrays`` gave, or draw the first words."""
        self._finished = None
        super().restore_arrays(arrays)

    def words(self) -> Mixture:
        """The own words as they are now."""
        if self._finished is not None:
            return self._finished
        return self.state.result(self.em, self.place.reduce)

    def finish(self) -> dict[str, np.ndarray]:
        """Keep nothing but the words, for training needs the memory; gives what ``restore_arrays`` takes."""
        words, units = self.words(), self.layer.units
        state = replace(self.state, words=self.place.slice(words), average=MixtureAverage.none(0, units))
        self._finished = words
        self.state = replace(state, statistics=MixtureStatistics.zero(0, units))
        self.parts.release()
        return state.to_arrays()

    def progress(self) -> dict[str, Any]:
        """What callers show, and a digest of what the ranks have in common."""
        seen = np.array(self.history.rows, np.float64).tobytes()
        return {
            "phase": "generative",
            "step": self.state.step,
            "steps": self.steps,
            "taken": self.state.step,
            "held_out": self.history.held_out,
            "digest": hashlib.sha256(seen).hexdigest(),
        }

    def summary(self) -> dict[str, Any]:
        """For the ledger."""
        return self.history.summary() | {"reseeded": int(self.history.rows[-1].reseeded)}

    def take_step(self, collective: Collective) -> None:
        """The next global minibatch."""
        if self.state.step == 0:
            # Not where the first words are drawn: the ranks have not met there.
            self.state = start(self.place.slice(self.state.mixture), self.em, self.place.reduce)
        super().take_step(collective)

    def _update(self, batch: MixtureStatistics) -> tuple[float, float]:
        reduce = self.place.reduce
        self.state = advance(self.state, batch, self.em, reduce)
        numbers = torch.stack([self.state.reseeded.sum().double(), (batch.s0 < 1).sum().cpu().double()])
        reseeded, empty = reduce.all_reduce_sum(numbers.to(self.source.device)).tolist()
        return reseeded, empty

    def _minibatch(self, step: Step, collective: Collective) -> MixtureStatistics:
        """Statistics of the own words over the whole global minibatch."""
        total: MixtureStatistics | None = None
        for part in self.parts.of(step):
            found = em_pass(self.state.words, part.columns, self.place.reduce)
            total = found if total is None else total.merge(found)
        assert total is not None, "a minibatch holds a column"
        return total

    def _full_held_out(self, collective: Collective) -> float:
        groups = in_groups(self._held_out_columns(), SWEEP_COLUMNS)
        return self._mean_log_likelihood((torch.cat(group) for group in groups), collective)

    def _held_out_columns(self) -> Iterator[Columns]:
        blocks = (self.source.held_out(chunk) for chunk in range(self.source.chunks))
        return (block.columns.float() for block in blocks if block is not None)

    def _mean_log_likelihood(self, parts: Iterable[Columns], collective: Collective) -> float:
        total, count, words = 0.0, 0, self.place.slice(self.words())
        for columns in parts:
            if len(columns):
                total += float(sliced_log_likelihood(words, columns, self.place.reduce).sum())
                count += len(columns)
        return total / count if count else float("nan")
