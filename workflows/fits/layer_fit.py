"""One rank's share of one layer's fit: online EM over the columns that this rank reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_ops.axes import Columns
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.mixtures.mixture import Mixture, log_likelihood
from gmm_ops.mixtures.online_em import OnlineEMSettings, OnlineEMState, advance, start
from gmm_ops.mixtures.seeding import fit_seed, initial_mixture
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from workflows.errors import DataError
from workflows.fits.columns import ColumnSource
from workflows.fits.fit_history import FitHistory, HistoryRow, history_path
from workflows.fits.minibatches import OwnParts, mixed_minibatches, parts_of
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.runtime.collective import Collective
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import FitSettings, Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import save_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state

START_COLUMNS_A_WORD = 20
"""Columns drawn for the start, a word; at least 10,000 in all."""


class LayerFit:
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Every rank sweeps its own parts of the global minibatch, all sums are added in float64, and every rank makes
    the same update; so the number of ranks changes nothing but the order of float64 sums. After every step a fixed
    held-out sample (a quarter of a minibatch) is scored, at the end of an epoch the whole held-out share.

    Args:
        rank, world: place in the fit group.
        settings, plan, folder: of the run.
        layer: whose columns are fitted, with how many words.
        scope: whose images are fitted.
        out: folder of the dictionary and its history; None: the run's own.

    Raises:
        DataError: the scope has fewer fitted columns than the layer has words.
    """

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
    ) -> None:
        self.rank, self.world, self.layer, self.scope = rank, world, layer, scope
        self.settings, self.fit, self.out = settings, settings.fit, out or folder
        self.seed = fit_seed(settings.seed, scope.name, layer.name)
        members = scope.contains(ImageColumns.read(folder, 0, plan.train_images).label)
        self.source = ColumnSource(settings, plan, folder, layer, choose_device(settings.runtime.device), members)
        sizes = self.source.chunk_sizes()
        refuse_too_few_columns(sum(sizes), layer, scope)
        self.em = em_settings(settings.fit).for_columns(sum(sizes), layer.words)
        self.schedule = MinibatchSchedule(
            sizes, self.em.minibatch, buffer_minibatches(self.em.minibatch, layer, settings), self.seed
        )
        sample = self.source.held_out_sample(max(250, self.em.minibatch // 4), self.seed)
        self.held_out: Columns = sample[rank::world]
        self.parts = OwnParts(self.schedule, self.source.fitted, rank, world, parts_of(self.em.minibatch))
        self.state: OnlineEMState
        self.history: FitHistory

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        self.restore_arrays(None if checkpoint is None else load_state(checkpoint))

    def restore_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> None:
        """Take the state that ``to_arrays`` gave, or draw the first words."""
        if arrays is not None:
            self.history = FitHistory.from_arrays(arrays)
            self.state = OnlineEMState.from_arrays(arrays).to(self.source.device)
            return
        self.state, self.history = start(self.first_words(), self.em), FitHistory()

    def start_sample(self) -> Columns:
        """The columns that the first words are drawn from, the same on every rank."""
        return self.source.start_sample(max(10_000, START_COLUMNS_A_WORD * self.layer.words), self.seed)

    def first_words(self) -> Mixture:
        """Where the fit starts: random columns, one variance a unit, equal shares."""
        return initial_mixture(
            self.start_sample(), self.layer.words, self.seed, self.fit.init, self.em.var_floor, self.em.floor_of
        )

    @property
    def steps(self) -> int:
        """Global minibatches of all epochs."""
        return self.schedule.steps_of(self.em.epochs)

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or an epoch gained too little."""
        return self.history.stopped or self.state.step >= self.steps

    def words(self) -> Mixture:
        """The dictionary as it is now."""
        return self.state.result(self.em)

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; ends with the last epoch, or with an epoch that gained too little."""
        while n_steps > 0 and not self.done:
            self.take_step(collective)
            n_steps -= 1
        return self.progress() | {"done": self.done}

    def progress(self) -> dict[str, Any]:
        """What callers show, and a digest that all ranks must agree on."""
        return {
            "phase": "generative",
            "step": self.state.step,
            "steps": self.steps,
            "taken": self.state.step,
            "held_out": self.history.held_out,
            "digest": hashlib.sha256(self.state.mixture.mean.cpu().numpy().tobytes()).hexdigest(),
        }

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint: the whole state, the history so far, whether it has stopped."""
        return self.state.to_arrays() | self.history.to_arrays()

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        save_state(path, self.to_arrays())

    def result(self) -> dict[str, Any]:
        """Write the dictionary and its history; return what the ledger keeps."""
        scope, name = self.scope.name, self.layer.name
        self.history.write(history_path(self.out, scope, name), self.settings.name, scope=scope, layer=name, restart=0)
        save_mixture(self.out.mixture(scope, name), self.words(), self.state.reseeded)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """For the ledger."""
        return self.history.summary() | {"reseeded": int(self.state.reseeded.sum())}

    def take_step(self, collective: Collective) -> None:
        """The next global minibatch."""
        step = self.schedule.step(self.state.step)
        batch = self._minibatch(step, collective)
        reseeded, empty = self._update(batch)
        last_of_epoch = self.schedule.ends_epoch(step)
        self.history.rows.append(
            HistoryRow(
                step=self.state.step,
                epoch=step.epoch,
                columns=self.history.columns + batch.count,
                held_out_log_likelihood=self._mean_log_likelihood([self.held_out], collective),
                train_log_likelihood=batch.log_likelihood / batch.count,
                held_out_full=self._full_held_out(collective) if last_of_epoch else float("nan"),
                reseeded=reseeded,
                empty=empty,
            )
        )
        if last_of_epoch:
            self.history.stop_if_converged(self.fit.tolerance)

    def _update(self, batch: MixtureStatistics) -> tuple[float, float]:
        """Take in a global minibatch; gives the re-seeds so far, and the words without a column in it."""
        self.state = advance(self.state, batch, self.em)
        return float(self.state.reseeded.sum()), float((batch.s0 < 1).sum())

    def _minibatch(self, step: Step, collective: Collective) -> MixtureStatistics:
        """Statistics of the whole global minibatch at the present mixture, the same on every rank.

        Sums are float32 within a part and float64 over parts, so that they do not depend on the number of ranks.
        """
        total = MixtureStatistics.zero(self.layer.words, self.layer.units, self.source.device)
        for part in self.parts.of(step):
            total = total.merge(em_pass(self.state.mixture, part.columns))
        packed = collective.all_reduce_sum(total.pack())
        return MixtureStatistics.unpack(packed, self.layer.words, self.layer.units)

    def _full_held_out(self, collective: Collective) -> float:
        blocks = (self.source.held_out(chunk) for chunk in range(self.rank, self.source.chunks, self.world))
        return self._mean_log_likelihood((block.columns.float() for block in blocks if block is not None), collective)

    def _mean_log_likelihood(self, parts: Any, collective: Collective) -> float:
        sums = torch.zeros(2, dtype=torch.float64)
        for columns in parts:
            if len(columns):
                values = log_likelihood(self.words(), columns)
                sums += torch.tensor([float(values.sum()), float(len(columns))], dtype=torch.float64)
        total, count = collective.all_reduce_sum(sums).tolist()
        return total / count if count else float("nan")


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
    )
