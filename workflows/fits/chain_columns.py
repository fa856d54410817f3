"""Stored activations of all layers of a chain, image by image: what the fit of a hidden Markov model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.hmm.learning import ChainImages
from workflows.fits.training_images import TrainingImages
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder


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
