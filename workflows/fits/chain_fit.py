"""One rank's share of one start of the hidden Markov model: online EM over all layers of a chain at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.hmm.fitting import initial_model
from gmm_ops.hmm.learning import HMMSettings, HMMState, advance, start
from gmm_ops.hmm.model import HiddenMarkovModel
from gmm_ops.hmm.statistics import ChainStatistics
from gmm_ops.mixtures.seeding import fit_seed
from workflows.fits.chain_columns import ChainSource, ImageBlock
from workflows.fits.fit_history import FitHistory, HistoryRow, history_path
from workflows.fits.minibatches import OwnParts, in_groups, mixed_minibatches
from workflows.plan.run_plan import Plan
from workflows.runtime.collective import Collective
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import Settings
from workflows.storage.chains import save_chain
from workflows.storage.names import CHAIN, JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state

START_IMAGES_A_WORD = 20
"""Images drawn for the start, a word; at least ``START_IMAGES`` in all."""
START_IMAGES = 2_000

SCORED_IMAGES = 1_000
"""Held-out images scored at once: a chunk holds only a few, and each call prepares all words anew."""


def restart_name(restart: int) -> str:
    """Names the files of one start: ``chain-0``."""
    return f"{CHAIN}-{restart}"


class ChainFit:
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Every rank takes the E-step on its own parts of the global minibatch, all sums are added in float64, and every
    rank makes the same M-step; so the number of ranks changes nothing but the order of float64 sums. After every step
    a fixed held-out sample, the same for every start, is scored; at the end of an epoch the whole held-out share.
    """

    def __init__(
        self, *, rank: int, world: int, settings: Settings, plan: Plan, folder: RunFolder, restart: int
    ) -> None:
        self.rank, self.world, self.restart, self.folder = rank, world, restart, folder
        self.settings, self.fit, self.plan = settings, settings.fit, plan
        self.seed = fit_seed(settings.seed, JOINT, f"chain restart {restart}")
        self.source = ChainSource(settings, plan, folder, choose_device(settings.runtime.device))
        sizes = self.source.chunk_sizes()
        self.em = chain_settings(settings, plan, sum(sizes))
        self.schedule = MinibatchSchedule(
            sizes, self.em.minibatch, chain_buffer_minibatches(self.em.minibatch, plan, settings), self.seed
        )
        # Whole chunks make an epoch a few steps shorter or longer than its images tell.
        self.em = replace(self.em, warmup=min(self.em.warmup, self.schedule.steps_in(0) - 1))
        self.parts = OwnParts(self.schedule, self.source.fitted, rank, world)
        sample = self.source.held_out_sample(max(250, self.em.minibatch // 4), fit_seed(settings.seed, JOINT, CHAIN))
        self.held_out = sample.take(np.arange(rank, len(sample), world))
        self.state: HMMState
        self.history: FitHistory

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        if checkpoint is not None:
            arrays = load_state(checkpoint)
            self.state, self.history = HMMState.from_arrays(arrays), FitHistory.from_arrays(arrays)
            return
        words = [layer.words for layer in self.plan.layers]
        rectified = [layer.rectified for layer in self.plan.layers]
        sample = self.source.start_sample(max(START_IMAGES, START_IMAGES_A_WORD * max(words)), self.seed)
        classes = None if sample.predicted is None else len(self.plan.class_names)
        model = initial_model(
            sample.columns, words, self.seed, rectified, classes, self.fit.init, self.fit.var_floor
        ).to("cpu")
        self.state, self.history = start(model, self.em, self.schedule.n_rows), FitHistory()

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; ends with the last epoch, or with an epoch that gained too little."""
        total = self.schedule.steps_of(self.fit.epochs)
        while n_steps > 0 and not self.history.stopped and self.state.step < total:
            self._step(self.schedule.step(self.state.step), collective)
            n_steps -= 1
        return {
            "step": self.state.step,
            "steps": total,
            "taken": self.state.step,
            "held_out": self.history.held_out,
            "done": self.history.stopped or self.state.step >= total,
            "digest": _digest(self.state.model),
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint: the whole state, the history so far, whether it has stopped."""
        save_state(path, self.state.to_arrays() | self.history.to_arrays())

    def result(self) -> dict[str, Any]:
        """Write the model of this start and its history; return what the ledger keeps."""
        scope, name = JOINT, restart_name(self.restart)
        path = history_path(self.folder, scope, name)
        self.history.write(path, self.settings.name, scope=scope, layer=CHAIN, restart=self.restart)
        save_chain(self.folder.mixture(scope, name), self.state.result(self.em))
        return self.history.summary()

    def _step(self, step: Step, collective: Collective) -> None:
        batch = self._minibatch(step, collective)
        self.state = advance(self.state, batch, self.em)
        last_of_epoch = self.schedule.ends_epoch(step)
        self.history.rows.append(
            HistoryRow(
                step=self.state.step,
                epoch=step.epoch,
                columns=self.history.columns + batch.count,
                held_out_log_likelihood=self._mean_log_likelihood([self.held_out], collective),
                train_log_likelihood=batch.log_likelihood / batch.count,
                held_out_full=self._full_held_out(collective) if last_of_epoch else float("nan"),
                reseeded=0,
                empty=float(sum(int((shares < 1).sum()) for shares in batch.s0)),
            )
        )
        if last_of_epoch:
            self.history.stop_if_converged(self.fit.tolerance)

    def _minibatch(self, step: Step, collective: Collective) -> ChainStatistics:
        """Sums over the whole global minibatch at the present model, the same on every rank.

        Everything is float64, so the parts of a rank may go through one E-step: preparing the words costs as much as
        some 50 images. The M-step, small, is done on the CPU.
        """
        parts = list(self.parts.of(step))
        found = ChainStatistics.zero(self.state.model.shape)
        if parts:
            block = ImageBlock.joined(parts)
            found = ChainStatistics.from_batch(self._on_device(self.state.model), block.columns, block.predicted)
        packed = collective.all_reduce_sum(found.pack().cpu())
        return ChainStatistics.unpack(packed, self.state.model.shape)

    def _full_held_out(self, collective: Collective) -> float:
        blocks = (self.source.held_out(chunk) for chunk in range(self.rank, self.source.images.chunks, self.world))
        groups = in_groups((block for block in blocks if block is not None), SCORED_IMAGES)
        return self._mean_log_likelihood((ImageBlock.joined(group) for group in groups), collective)

    def _mean_log_likelihood(self, blocks: Iterable[ImageBlock], collective: Collective) -> float:
        model = self._on_device(self.state.result(self.em))
        sums = torch.zeros(2, dtype=torch.float64)
        for block in blocks:
            if len(block):
                values = model.log_likelihood(block.columns, block.predicted)
                sums += torch.tensor([float(values.sum()), float(len(block))], dtype=torch.float64)
        total, count = collective.all_reduce_sum(sums).tolist()
        return total / count if count else float("nan")

    def _on_device(self, model: HiddenMarkovModel) -> HiddenMarkovModel:
        return model if self.source.device.type == "cpu" else model.to(self.source.device)


def chain_settings(settings: Settings, plan: Plan, images: int) -> HMMSettings:
    """The run's settings as the core knows them, cut to ``images`` fitted images."""
    fit, hmm = settings.fit, settings.hmm
    assert hmm is not None, "only a run with an [hmm] section has a chain"
    limits = HMMSettings(
        exponent=fit.exponent,
        offset=fit.offset,
        minibatch=fit.minibatch,
        epochs=fit.epochs,
        warmup=fit.warmup,
        clamp=hmm.clamp,
        var_floor=fit.var_floor,
        transition_prior=hmm.transition_prior,
        tolerance=fit.tolerance,
        polyak=fit.polyak,
        restarts=hmm.restarts,
        min_share=fit.min_share,
    )
    return limits.for_images(images, max(layer.words for layer in plan.layers))


def chain_buffer_minibatches(minibatch: int, plan: Plan, settings: Settings) -> int:
    """Minibatches that are mixed at a time."""
    image = sum(layer.units for layer in plan.layers) * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return mixed_minibatches(minibatch, image, settings.extract.images_per_chunk)


def _digest(model: HiddenMarkovModel) -> str:
    digest = hashlib.sha256()
    for values in model.to_arrays().values():
        digest.update(values.tobytes())
    return digest.hexdigest()
