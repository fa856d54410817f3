"""One rank's share of one start of the hidden Markov model: online EM over all layers of a chain at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.fitting.loop import Source
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.fitting import initial_model
from gmm_ops.hmm.learning import ChainImages, HMMSettings, HMMState, OnlineChainEM, start
from gmm_ops.mixtures.seeding import fit_seed
from workflows.fits.fit_history import FitHistory, history_path
from workflows.fits.layer_fit import em_settings
from workflows.fits.minibatches import OwnParts, in_groups, mixed_minibatches
from workflows.fits.online_fit import OnlineFit
from workflows.fits.training_images import TrainingImages
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import Settings
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.chains import save_chain
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import CHAIN, JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state

START_IMAGES_A_WORD = 20
"""Images drawn for the start, a word; at least ``START_IMAGES`` in all."""
START_IMAGES = 2_000

SCORED_IMAGES = 1_000
"""Held-out images scored at once: a chunk holds only a few, and each call prepares all words anew."""


def restart_name(restart: int) -> str:
    """Names the files of one start: ``chain-0``."""
    return f"{CHAIN}-{restart}"


@dataclass(frozen=True)
class ImageBlock:
    """Some images: their column in every layer, lowest first, and their prediction where the model observes it."""

    columns: tuple[Columns, ...]
    predicted: Int[Tensor, " n"] | None

    @classmethod
    def joined(cls, blocks: Sequence[ImageBlock]) -> ImageBlock:
        """All images of some blocks, in order."""
        columns = tuple(torch.cat(layer) for layer in zip(*(block.columns for block in blocks), strict=True))
        predicted = [block.predicted for block in blocks if block.predicted is not None]
        return cls(columns, torch.cat(predicted) if predicted else None)

    def take(self, rows: Int[np.ndarray, "m"]) -> ImageBlock:
        """Some of the images; the columns as float32."""
        index = torch.from_numpy(rows).to(self.columns[0].device)
        columns = tuple(layer[index].float() for layer in self.columns)
        return ImageBlock(columns, None if self.predicted is None else self.predicted[index])

    @property
    def images(self) -> ChainImages:
        """As the model takes them."""
        return self.columns, self.predicted

    def __len__(self) -> int:
        return len(self.columns[0])


class ChainSource:
    """The training images of a chain; a chunk is the unit of reading (``extract.images_per_chunk`` images).

    Broken images never take part, held-out ones are read apart (see ``TrainingImages``); S_V is never read here.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, device: torch.device) -> None:
        assert settings.hmm is not None, "only a run with an [hmm] section has a chain"
        self.images, self.device = TrainingImages(settings, plan, folder), device
        self._arrays = [open_array(folder.activations(layer.name)) for layer in plan.layers]
        self._predicted: Int[np.ndarray, " N"] | None = None
        if settings.hmm.output == "fixed":
            rows = read_image_rows(folder.images_table, 0, plan.train_images, ["predicted"])
            self._predicted = rows["predicted"].fill_null(-1).to_numpy().astype(np.int64)

    def chunk_sizes(self) -> tuple[int, ...]:
        """Images of every chunk that take part in the fit."""
        return tuple(self.images.count(self.images.fitted, chunk) for chunk in range(self.images.chunks))

    def fitted(self, chunk: int) -> ImageBlock:
        """The images of a chunk that take part in the fit."""
        return self._read(chunk, self.images.kept(self.images.fitted, chunk))

    def held_out(self, chunk: int) -> ImageBlock | None:
        """The held-out images of a chunk; None where it has none."""
        kept = self.images.kept(self.images.held_out, chunk)
        return self._read(chunk, kept) if len(kept) else None

    def start_sample(self, images: int, seed: int) -> ImageBlock:
        """So many fitted images, or all, spread over seeded chunks; float32. The same on every rank."""
        return self._sample(self.images.fitted, images, seed)

    def held_out_sample(self, images: int, seed: int) -> ImageBlock:
        """So many held-out images, or all, spread over seeded chunks; float32. The same on every rank."""
        return self._sample(self.images.held_out, images, seed)

    def _sample(self, mask: Bool[np.ndarray, " N"], images: int, seed: int) -> ImageBlock:
        """Rows are drawn before anything is read, so only what is kept is held in memory."""
        order = np.random.default_rng([seed, 2]).permutation(self.images.chunks)
        sizes = np.array([self.images.count(mask, int(chunk)) for chunk in order])
        ends = np.cumsum(sizes)
        pool = int(ends[min(len(ends) - 1, int(np.searchsorted(ends, 4 * images)))])
        rows = np.sort(np.random.default_rng([seed, 4]).permutation(pool)[:images])
        blocks = []
        for chunk, size, end in zip(order, sizes, ends, strict=True):
            first, stop = np.searchsorted(rows, [end - size, end])
            if stop > first:
                kept = self.images.kept(mask, int(chunk))[rows[first:stop] - (end - size)]
                blocks.append(self._read(int(chunk), kept).take(np.arange(len(kept))))
        return ImageBlock.joined(blocks)

    def _read(self, chunk: int, kept: Int[np.ndarray, " n"]) -> ImageBlock:
        """Rows ``kept`` of a chunk, as they are stored."""
        first, stop = self.images.bounds(chunk)
        columns = tuple(
            torch.from_numpy(read_rows(array, first, stop)[kept, 0, :]).to(self.device) for array in self._arrays
        )
        if self._predicted is None:
            return ImageBlock(columns, None)
        return ImageBlock(columns, torch.from_numpy(self._predicted[first + kept]).to(self.device))


class ChainFit(OnlineFit[HMMState, ChainImages, ChainStatistics]):
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Every rank takes the E-step on its own parts of the global minibatch, all sums are added in float64, and every
    rank makes the same M-step; so the number of ranks changes nothing but the order of float64 sums. The held-out
    sample is the same for every start.
    """

    em: HMMSettings

    def __init__(
        self, *, rank: int, world: int, settings: Settings, plan: Plan, folder: RunFolder, restart: int
    ) -> None:
        self.rank, self.world, self.restart, self.folder = rank, world, restart, folder
        self.settings, self.fit, self.plan = settings, settings.fit, plan
        self.seed = fit_seed(settings.seed, JOINT, f"chain restart {restart}")
        self.source = ChainSource(settings, plan, folder, choose_device(settings.runtime.device))
        sizes = self.source.chunk_sizes()
        self.em = chain_settings(settings, plan, sum(sizes))
        mixed = chain_buffer_minibatches(self.em.minibatch, plan, settings)
        self.schedule = MinibatchSchedule(sizes, self.em.minibatch, mixed, self.seed)
        # Whole chunks make an epoch a few steps shorter or longer than its images tell.
        self.em = replace(self.em, warmup=min(self.em.warmup, self.schedule.steps_in(0) - 1))
        self._parts = OwnParts(self.schedule, self.source.fitted, rank, world)
        sample = self.source.held_out_sample(max(250, self.em.minibatch // 4), fit_seed(settings.seed, JOINT, CHAIN))
        self.held_out = sample.take(np.arange(rank, len(sample), world))
        glimpse = [self.held_out.images] if len(self.held_out) else []
        self.share = Source(self.schedule, self._images_of, self._held_out, glimpse)

    def _images_of(self, step: Step) -> Iterator[ChainImages]:
        """All parts of this rank at once: preparing the words costs as much as some 50 images, and sums are float64."""
        parts = list(self._parts.of(step))
        if parts:
            yield ImageBlock.joined(parts).images

    def _held_out(self) -> Iterator[ChainImages]:
        blocks = (self.source.held_out(chunk) for chunk in range(self.rank, self.source.images.chunks, self.world))
        groups = in_groups((block for block in blocks if block is not None), SCORED_IMAGES)
        return (ImageBlock.joined(group).images for group in groups)

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
        floor = self.em.var_floor, self.em.floor_of
        model = initial_model(sample.columns, words, self.seed, rectified, classes, self.fit.init, *floor).to("cpu")
        self.state, self.history = start(model, self.em, self.schedule.n_rows), FitHistory()

    def learner(self) -> OnlineChainEM:
        """Online EM of the whole model."""
        return OnlineChainEM(self.em, self.source.device)

    def counts(self, batch: ChainStatistics) -> tuple[float, float]:
        """Of all layers; re-seeds are not counted."""
        return 0.0, float(sum(int((shares < 1).sum()) for shares in batch.s0))

    def digest(self) -> str:
        """Of the model."""
        digest = hashlib.sha256()
        for values in self.state.model.to_arrays().values():
            digest.update(values.tobytes())
        return digest.hexdigest()

    def result(self) -> dict[str, Any]:
        """Write the model of this start and its history; return what the ledger keeps."""
        scope, name = JOINT, restart_name(self.restart)
        path = history_path(self.folder, scope, name)
        self.history.write(path, self.settings.name, scope=scope, layer=CHAIN, restart=self.restart)
        save_chain(self.folder.mixture(scope, name), self.state.result(self.em))
        return self.history.summary()


def chain_settings(settings: Settings, plan: Plan, images: int) -> HMMSettings:
    """The run's settings as the core knows them, cut to ``images`` fitted images."""
    fit, hmm = settings.fit, settings.hmm
    assert hmm is not None, "only a run with an [hmm] section has a chain"
    online = vars(em_settings(fit))
    limits = HMMSettings(**online, clamp=hmm.clamp, transition_prior=hmm.transition_prior, restarts=hmm.restarts)
    return limits.for_images(images, max(layer.words for layer in plan.layers))


def chain_buffer_minibatches(minibatch: int, plan: Plan, settings: Settings) -> int:
    """Minibatches that are mixed at a time."""
    image = sum(layer.units for layer in plan.layers) * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return mixed_minibatches(minibatch, image, settings.extract.images_per_chunk)
