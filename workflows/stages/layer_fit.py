"""One rank's share of one layer's fit: online EM over the columns that this rank reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_ops.axes import Columns
from gmm_ops.mixture import log_likelihood
from gmm_ops.online_em import OnlineEMSettings, OnlineEMState, advance, has_converged, start
from gmm_ops.schedule import Buffer, MinibatchSchedule, Step
from gmm_ops.seeding import fit_seed, initial_mixture
from gmm_ops.statistics import MixtureStatistics, WorstColumns, sweep
from workflows.plan import LayerPlan, Plan
from workflows.runtime.collective import Collective
from workflows.settings import FitSettings, Settings
from workflows.stages.columns import ColumnBlock, ColumnSource
from workflows.stages.devices import STORAGE_DTYPES, choose_device
from workflows.storage.mixtures import load_state, save_mixture, save_state
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table

START_COLUMNS_A_WORD = 20
"""Columns drawn for the start, a word; at least 10,000 in all."""

PARTS = 12
"""Parts of a global minibatch, each one sweep of one rank: float32 sums within a part, float64 sums over parts.
Fixed, so that the sums do not depend on the number of ranks; and divisible by most numbers of ranks."""

BUFFER_BYTES = 32 * 2**20
BUFFER_CHUNKS = 32
"""A fit group mixes stored columns of so many bytes, or so many chunks if that is more (images lie in class order,
so a few chunks would be a few classes). Neither grows with the number of images."""

HISTORY = (
    "step",
    "epoch",
    "columns",
    "held_out_log_likelihood",
    "train_log_likelihood",
    "held_out_full",
    "reseeded",
    "empty",
)


def history_path(folder: RunFolder, scope: str, layer: str) -> Path:
    """The rows of history.parquet of one layer."""
    return folder.mixture(scope, layer).with_suffix(".history.parquet")


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
        self.state: OnlineEMState
        self.history: list[tuple[float, ...]]
        self.stopped = False
        self._buffer: Buffer | None = None
        self._blocks: dict[int, ColumnBlock] = {}

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        if checkpoint is not None:
            arrays = load_state(checkpoint)
            self.history = [tuple(row) for row in arrays.pop("history").tolist()]
            self.stopped = bool(arrays.pop("stopped"))
            self.state = OnlineEMState.from_arrays(arrays).to(self.source.device)
            return
        fit = self.fit
        sample = self.source.start_sample(max(10_000, START_COLUMNS_A_WORD * self.layer.words), self.seed)
        mixture = initial_mixture(sample, self.layer.words, self.seed, fit.init, fit.var_floor)
        self.state, self.history, self.stopped = start(mixture, self.em), [], False

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; ends with the last epoch, or with an epoch that gained too little."""
        total = self._total_steps()
        while n_steps > 0 and not self.stopped and self.state.step < total:
            self._step(self.schedule.step(self.state.step), collective)
            n_steps -= 1
        return {
            "step": self.state.step,
            "steps": total,
            "held_out": self.history[-1][3] if self.history else float("nan"),
            "done": self.stopped or self.state.step >= total,
            "digest": hashlib.sha256(self.state.mixture.mean.cpu().numpy().tobytes()).hexdigest(),
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint: the whole state, the history so far, whether it has stopped."""
        history = np.array(self.history, np.float64).reshape(-1, len(HISTORY))
        save_state(path, self.state.to_arrays() | {"history": history, "stopped": np.array(self.stopped)})

    def result(self) -> dict[str, Any]:
        """Write the dictionary and its history; return what the ledger keeps."""
        scope, mixture = self.fit.scope, self.state.result(self.em)
        rows = [self._history_row(row) for row in self.history]
        write_table(history_path(self.folder, scope, self.layer.name), rows, "history", network=self.settings.name)
        reseeded = self.state.reseeded
        save_mixture(self.folder.mixture(scope, self.layer.name), mixture, reseeded)
        full = [row["held_out_full"] for row in rows if row["held_out_full"] is not None]
        return {
            "steps": self.state.step,
            "held_out": full[-1] if full else None,
            "reseeded": int(reseeded.sum()),
            "empty": rows[-1]["empty"] if rows else 0,
        }

    def _history_row(self, values: tuple[float, ...]) -> dict[str, Any]:
        row: dict[str, Any] = dict(zip(HISTORY, values, strict=True))
        row |= {name: int(row[name]) for name in ("step", "epoch", "columns", "reseeded", "empty")}
        full = None if np.isnan(row["held_out_full"]) else row["held_out_full"]
        return row | {"scope": self.fit.scope, "layer": self.layer.name, "restart": 0, "held_out_full": full}

    def _total_steps(self) -> int:
        return sum(self.schedule.steps_in(epoch) for epoch in range(self.fit.epochs))

    def _step(self, step: Step, collective: Collective) -> None:
        batch, worst = self._minibatch(step, collective)
        self.state = advance(self.state, batch, worst, self.em)
        held_out = self._mean_log_likelihood([self.held_out], collective)
        last_of_epoch = step.index + 1 == sum(self.schedule.steps_in(epoch) for epoch in range(step.epoch + 1))
        full = self._full_held_out(collective) if last_of_epoch else float("nan")
        columns = batch.count + (self.history[-1][2] if self.history else 0)
        train = batch.log_likelihood / batch.count
        reseeded, empty = float(self.state.reseeded.sum()), float((batch.s0 < 1).sum())
        self.history.append((self.state.step, step.epoch, columns, held_out, train, full, reseeded, empty))
        if last_of_epoch:
            full_passes = [row[5] for row in self.history if not np.isnan(row[5])]
            self.stopped = has_converged(full_passes, self.fit.tolerance)

    def _minibatch(self, step: Step, collective: Collective) -> tuple[MixtureStatistics, WorstColumns]:
        """Statistics of the whole global minibatch at the present mixture, the same on every rank."""
        if step.buffer != self._buffer:
            self._blocks = {}  # free the old columns before the new ones come
            self._blocks = {
                chunk: self.source.fitted(chunk)
                for part in self._own_parts()
                for chunk in step.buffer.chunks[part::PARTS]
            }
            self._buffer = step.buffer
        size, units = self.em.max_reseeds, self.layer.units
        total = MixtureStatistics.zero(self.layer.words, units, self.source.device)
        worst = WorstColumns.none(size, units)
        for number in self._own_parts():
            chunks = step.buffer.chunks[number::PARTS]
            if not chunks:
                continue
            part = ColumnBlock.joined([self._blocks[chunk].take(self.schedule.rows(step, chunk)) for chunk in chunks])
            found, candidates = sweep(
                self.state.mixture, part.columns, n_worst=size, image=part.image, position=part.position
            )
            total, worst = total.merge(found), worst.merge(candidates)
        packed = collective.all_reduce_sum(total.pack())
        for other in collective.all_gather(worst.pack()):
            worst = worst.merge(WorstColumns.unpack(other)) if collective.world > 1 else worst
        return MixtureStatistics.unpack(packed, self.layer.words, units), worst

    def _own_parts(self) -> range:
        return range(self.rank, PARTS, self.world)

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
    chunk = settings.extract.images_per_chunk * layer.stored * column
    return max(1, round(max(BUFFER_BYTES, BUFFER_CHUNKS * chunk) / (minibatch * column)))


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
