"""One rank's share of one layer's fit: online EM over the columns that this rank reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from gmm_ops.axes import Columns
from gmm_ops.mixture import log_likelihood
from gmm_ops.online_em import OnlineEMSettings, OnlineEMState, advance, start
from gmm_ops.schedule import MinibatchSchedule, Step
from gmm_ops.seeding import fit_seed, initial_mixture
from gmm_ops.statistics import MixtureStatistics, WorstColumns, sweep
from workflows.plan import LayerPlan, Plan
from workflows.runtime.collective import Collective
from workflows.settings import FitSettings, Settings
from workflows.stages.columns import ColumnSource
from workflows.stages.devices import STORAGE_DTYPES, choose_device
from workflows.stages.fit_history import FitHistory, HistoryRow, history_path
from workflows.stages.minibatches import OwnParts, ends_epoch, mixed_minibatches, steps_of
from workflows.storage.mixtures import load_state, save_mixture, save_state
from workflows.storage.run_folder import RunFolder

START_COLUMNS_A_WORD = 20
"""Columns drawn for the start, a word; at least 10,000 in all."""


class LayerFit:
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Every rank sweeps its own parts of the global minibatch, all sums are added in float64, and every rank makes
    the same update; so the number of ranks changes nothing but the order of float64 sums. After every step a fixed
    held-out sample (a quarter of a minibatch) is scored, at the end of an epoch the whole held-out share.
    """

    def __init__(
        self, *, rank: int, world: int, settings: Settings, plan: Plan, folder: RunFolder, layer: LayerPlan
    ) -> None:
        self.rank, self.world, self.layer, self.folder = rank, world, layer, folder
        self.settings, self.fit = settings, settings.fit
        self.seed = fit_seed(settings.seed, settings.fit.scope, layer.name)
        self.source = ColumnSource(settings, plan, folder, layer, choose_device(settings.runtime.device))
        sizes = self.source.chunk_sizes()
        self.em = em_settings(settings.fit).for_columns(sum(sizes), layer.words)
        self.schedule = MinibatchSchedule(
            sizes, self.em.minibatch, buffer_minibatches(self.em.minibatch, layer, settings), self.seed
        )
        sample = self.source.held_out_sample(max(1_000, self.em.minibatch // 4), self.seed)
        self.held_out: Columns = sample[rank::world]
        self.parts = OwnParts(self.schedule, self.source.fitted, rank, world)
        self.state: OnlineEMState
        self.history: FitHistory

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        if checkpoint is not None:
            arrays = load_state(checkpoint)
            self.history = FitHistory.from_arrays(arrays)
            self.state = OnlineEMState.from_arrays(arrays).to(self.source.device)
            return
        fit = self.fit
        sample = self.source.start_sample(max(10_000, START_COLUMNS_A_WORD * self.layer.words), self.seed)
        mixture = initial_mixture(sample, self.layer.words, self.seed, fit.init, fit.var_floor)
        self.state, self.history = start(mixture, self.em), FitHistory()

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; ends with the last epoch, or with an epoch that gained too little."""
        total = steps_of(self.schedule, self.fit.epochs)
        while n_steps > 0 and not self.history.stopped and self.state.step < total:
            self._step(self.schedule.step(self.state.step), collective)
            n_steps -= 1
        return {
            "step": self.state.step,
            "steps": total,
            "held_out": self.history.held_out,
            "done": self.history.stopped or self.state.step >= total,
            "digest": hashlib.sha256(self.state.mixture.mean.cpu().numpy().tobytes()).hexdigest(),
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint: the whole state, the history so far, whether it has stopped."""
        save_state(path, self.state.to_arrays() | self.history.to_arrays())

    def result(self) -> dict[str, Any]:
        """Write the dictionary and its history; return what the ledger keeps."""
        scope, name = self.fit.scope, self.layer.name
        self.history.write(
            history_path(self.folder, scope, name), self.settings.name, scope=scope, layer=name, restart=0
        )
        reseeded = self.state.reseeded
        save_mixture(self.folder.mixture(scope, name), self.state.result(self.em), reseeded)
        return self.history.summary() | {"reseeded": int(reseeded.sum())}

    def _step(self, step: Step, collective: Collective) -> None:
        batch, worst = self._minibatch(step, collective)
        self.state = advance(self.state, batch, worst, self.em)
        last_of_epoch = ends_epoch(self.schedule, step)
        self.history.rows.append(
            HistoryRow(
                step=self.state.step,
                epoch=step.epoch,
                columns=self.history.columns + batch.count,
                held_out_log_likelihood=self._mean_log_likelihood([self.held_out], collective),
                train_log_likelihood=batch.log_likelihood / batch.count,
                held_out_full=self._full_held_out(collective) if last_of_epoch else float("nan"),
                reseeded=float(self.state.reseeded.sum()),
                empty=float((batch.s0 < 1).sum()),
            )
        )
        if last_of_epoch:
            self.history.stop_if_converged(self.fit.tolerance)

    def _minibatch(self, step: Step, collective: Collective) -> tuple[MixtureStatistics, WorstColumns]:
        """Statistics of the whole global minibatch at the present mixture, the same on every rank.

        Sums are float32 within a part and float64 over parts, so that they do not depend on the number of ranks.
        """
        size, units = self.em.max_reseeds, self.layer.units
        total = MixtureStatistics.zero(self.layer.words, units, self.source.device)
        worst = WorstColumns.none(size, units)
        for part in self.parts.of(step):
            found, candidates = sweep(
                self.state.mixture, part.columns, n_worst=size, image=part.image, position=part.position
            )
            total, worst = total.merge(found), worst.merge(candidates)
        packed = collective.all_reduce_sum(total.pack())
        for other in collective.all_gather(worst.pack()):
            worst = worst.merge(WorstColumns.unpack(other)) if collective.world > 1 else worst
        return MixtureStatistics.unpack(packed, self.layer.words, units), worst

    def _full_held_out(self, collective: Collective) -> float:
        blocks = (self.source.held_out(chunk) for chunk in range(self.rank, self.source.chunks, self.world))
        return self._mean_log_likelihood((block.columns.float() for block in blocks if block is not None), collective)

    def _mean_log_likelihood(self, parts: Any, collective: Collective) -> float:
        sums = torch.zeros(2, dtype=torch.float64)
        for columns in parts:
            if len(columns):
                values = log_likelihood(self.state.result(self.em), columns)
                sums += torch.tensor([float(values.sum()), float(len(columns))], dtype=torch.float64)
        total, count = collective.all_reduce_sum(sums).tolist()
        return total / count if count else float("nan")


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
    )
