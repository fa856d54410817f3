"""One rank's share of one layer's fit by online EM: its part of the columns, or its slice of the words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_ops.axes import Columns
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.loop import Source
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.mixtures.averaging import MixtureAverage
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEM, OnlineEMSettings, OnlineEMState, start
from gmm_ops.mixtures.seeding import fit_seed, initial_slice
from gmm_ops.mixtures.statistics import MixtureStatistics
from workflows.errors import DataError
from workflows.fits.columns import ColumnBlock, ColumnSource
from workflows.fits.fit_history import FitHistory, history_path
from workflows.fits.minibatches import OwnParts, in_groups, mixed_minibatches, parts_of
from workflows.fits.online_fit import OnlineFit
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import FitSettings, Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import save_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.words.sliced_words import SWEEP_COLUMNS, Place, columns_parts

START_COLUMNS_A_WORD = 20
"""Columns drawn for the start, a word; at least 10,000 in all."""

START_BYTES = 64 * 2**20
"""Of the columns that sliced words are drawn from, float32; more only for more words than that."""


class LayerFit(OnlineFit[OnlineEMState, Columns, MixtureStatistics]):
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Ranks share either the columns or the words. Of whole words every rank sweeps its own parts of the global
    minibatch, all sums are added in float64, and every rank makes the same update; so the number of ranks changes
    nothing but the order of float64 sums. Of words in slices every rank sweeps all columns and holds K / W words, whose
    shares are of the whole dictionary; where 20 columns a word fit into ``START_BYTES`` it starts from the same words.

    Args:
        rank, world: place in the group that shares the columns; (0, 1) where the words are sliced.
        settings, plan, folder: of the run.
        layer: whose columns are fitted, with how many words.
        scope: whose images are fitted.
        out: folder of the dictionary and its history; None: the run's own.
        place: in the group that shares the words; None: they are whole.

    Raises:
        DataError: the scope has fewer fitted columns than the layer has words.
    """

    em: OnlineEMSettings

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        layer: LayerPlan,
        scope: Scope,
        out: RunFolder | None = None,
        place: Place | None = None,
    ) -> None:
        self.rank, self.world, self.layer, self.scope = rank, world, layer, scope
        self.settings, self.fit, self.out = settings, settings.fit, out or folder
        self.place = place or Place(0, 1, layer.words)
        self.seed = fit_seed(settings.seed, scope.name, layer.name)
        members = scope.contains(ImageColumns.read(folder, 0, plan.train_images).label)
        self.source = ColumnSource(settings, plan, folder, layer, choose_device(settings.runtime.device), members)
        sizes = self.source.chunk_sizes()
        refuse_too_few_columns(sum(sizes), layer, scope)
        self.em = em_settings(settings.fit).for_columns(sum(sizes), layer.words)
        self.parts, self.share = self._own_share(sizes)
        self._finished: Mixture | None = None

    def _own_share(self, sizes: tuple[int, ...]) -> tuple[OwnParts[ColumnBlock], Source[Columns]]:
        minibatch, rank, world = self.em.minibatch, self.rank, self.world
        mixed = buffer_minibatches(minibatch, self.layer, self.settings)
        schedule = MinibatchSchedule(sizes, minibatch, mixed, self.seed)
        count = columns_parts(minibatch) if self.place.sliced else parts_of(minibatch)
        parts = OwnParts(schedule, self.source.fitted, rank, world, count)
        glimpse = self.source.held_out_sample(max(250, minibatch // 4), self.seed)[rank::world]

        def columns_of(step: Step) -> Iterator[Columns]:
            return (part.columns for part in parts.of(step))

        return parts, Source(schedule, columns_of, self._held_out, [glimpse] if len(glimpse) else [])

    def _held_out(self) -> Iterator[Columns]:
        """This rank's: chunk by chunk, so that no sum depends on the number of ranks; slices take more at once."""
        blocks = (self.source.held_out(chunk) for chunk in range(self.rank, self.source.chunks, self.world))
        columns = (block.columns.float() for block in blocks if block is not None)
        return (torch.cat(group) for group in in_groups(columns, SWEEP_COLUMNS if self.place.sliced else 1))

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        self.restore_arrays(None if checkpoint is None else load_state(checkpoint))

    def restore_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> None:
        """Take the state that ``to_arrays`` gave, or draw the first words."""
        self._finished = None
        if arrays is not None:
            self.history = FitHistory.from_arrays(arrays)
            self.state = OnlineEMState.from_arrays(arrays).to(self.source.device)
            return
        self.state, self.history = start(self.first_words(), self.em), FitHistory()

    def start_sample(self) -> Columns:
        """The columns that the first words are drawn from, the same on every rank."""
        words = self.layer.words
        columns = max(10_000, START_COLUMNS_A_WORD * words)
        if self.place.sliced:
            columns = min(columns, max(words, START_BYTES // (4 * self.layer.units)))
        return self.source.start_sample(columns, self.seed)

    def first_words(self) -> Mixture:
        """The own words where the fit starts: random columns, one variance a unit, equal shares."""
        sample, limits = self.start_sample(), (self.em.var_floor, self.em.floor_of)
        place, init = self.place, self.fit.init
        return initial_slice(sample, place.n_words, self.seed, place.rank, place.world, *limits, init).own

    def learner(self) -> OnlineEM:
        """Online EM of the own words."""
        return OnlineEM(self.em, self.place.reduce)

    def take_step(self, collective: Collective) -> None:
        """The next global minibatch."""
        if self.state.step == 0:
            # Not where the first words are drawn: the ranks have not met there.
            self.state = start(self.place.slice(self.state.mixture), self.em, self.place.reduce)
        super().take_step(LONE if self.place.sliced else collective)

    def counts(self, batch: MixtureStatistics) -> tuple[float, float]:
        """Of all words."""
        numbers = torch.stack([self.state.reseeded.sum().double(), (batch.s0 < 1).sum().cpu().double()])
        reseeded, empty = self.place.reduce.all_reduce_sum(numbers.to(self.source.device)).tolist()
        return reseeded, empty

    def digest(self) -> str:
        """Of the words where all ranks hold the same, else of what they saw."""
        seen = np.array(self.history.rows, np.float64) if self.place.sliced else self.state.mixture.mean.cpu().numpy()
        return hashlib.sha256(seen.tobytes()).hexdigest()

    def words(self) -> Mixture:
        """The own words as they are now."""
        return self.state.result(self.em, self.place.reduce) if self._finished is None else self._finished

    def finish(self) -> dict[str, np.ndarray]:
        """Keep nothing but the words, for training needs the memory; gives what ``restore_arrays`` takes."""
        words, units = self.words(), self.layer.units
        state = replace(self.state, words=self.place.slice(words), average=MixtureAverage.none(0, units))
        self._finished = words
        self.state = replace(state, statistics=MixtureStatistics.zero(0, units))
        self.parts.release()
        return state.to_arrays()

    def result(self) -> dict[str, Any]:
        """Write the dictionary and its history; return what the ledger keeps."""
        scope, name = self.scope.name, self.layer.name
        self.history.write(history_path(self.out, scope, name), self.settings.name, scope=scope, layer=name, restart=0)
        save_mixture(self.out.mixture(scope, name), self.words(), self.state.reseeded)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """For the ledger."""
        return self.history.summary() | {"reseeded": int(self.history.rows[-1].reseeded)}


def refuse_too_few_columns(columns: int, layer: LayerPlan, scope: Scope) -> None:
    """Raise DataError unless the fitted images of a scope have a column for every word of a layer."""
    if columns < layer.words:
        raise DataError(
            f"scope {scope.name}, layer {layer.name}: fit.words asks for {layer.words} words, and the scope's fitted "
            f"training images have {columns} columns; take fewer words, more images or more columns_per_image"
        )


def buffer_minibatches(minibatch: int, layer: LayerPlan, settings: Settings) -> int:
    """Minibatches that are mixed at a time."""
    column = layer.units * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return mixed_minibatches(minibatch, column, settings.extract.images_per_chunk * layer.stored)


def em_settings(fit: FitSettings) -> OnlineEMSettings:
    """The run's settings as the core knows them."""
    return OnlineEMSettings(
        exponent=fit.exponent,
        offset=fit.offset,
        minibatch=fit.minibatch,
        epochs=fit.epochs,
        warmup=fit.warmup,
        min_share=fit.min_share,
        var_floor=fit.var_floor,
        tolerance=fit.tolerance,
        polyak=fit.polyak,
        floor_of=fit.floor_of,
        variance_of=fit.variance_of,
    )
