"""Stored activation columns of the training images, chunk by chunk: what the fits read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.axes import Columns
from workflows.fits.training_images import TrainingImages
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.run_folder import RunFolder

START_CHUNKS = 16
"""Chunks at least that the start is drawn from: images lie in class order, so one chunk may be one class."""


def sampled_positions(seed: int, layer: LayerPlan, image: int) -> np.ndarray:
    """Positions (flat, ascending) whose columns are stored for an image; seeded by run, layer and image alone."""
    if layer.all_stored:
        return np.arange(layer.positions)
    text = f"{seed}/{layer.name}/{image}".encode()
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))
    return np.sort(generator.choice(layer.positions, layer.stored, replace=False))


@dataclass(frozen=True)
class ColumnBlock:
    """Columns with the image and the position (flat, row by row) that each comes from."""

    columns: Columns
    image: Int[Tensor, "n"]
    position: Int[Tensor, "n"]

    @classmethod
    def joined(cls, blocks: Sequence[ColumnBlock]) -> ColumnBlock:
        """All rows of some blocks, in order."""
        columns, image, position = zip(*((block.columns, block.image, block.position) for block in blocks), strict=True)
        return cls(torch.cat(columns), torch.cat(image), torch.cat(position))

    def take(self, rows: Int[np.ndarray, "m"]) -> ColumnBlock:
        """Some of the rows; the columns as float32."""
        index = torch.from_numpy(rows).to(self.columns.device)
        return ColumnBlock(self.columns[index].float(), self.image[rows], self.position[rows])


class ColumnSource:
    """One layer's training columns; a chunk is the unit of reading (``extract.images_per_chunk`` images).

    Broken images never take part. Held-out images (a seeded share of S_T, the same for every layer) are kept
    from the fit and read apart; S_V is never read here.

    Args:
        settings, plan, folder, layer: of the run.
        device: where columns are put.
        members: mask over the training images, those of the scope's classes; None: all.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        layer: LayerPlan,
        device: torch.device,
        members: Bool[np.ndarray, "N"] | None = None,
    ) -> None:
        self.settings, self.plan, self.layer, self.device = settings, plan, layer, device
        self._array = open_array(folder.activations(layer.name))
        self._images = TrainingImages(settings, plan, folder, members)
        self.chunks = self._images.chunks

    def chunk_sizes(self) -> tuple[int, ...]:
        """Columns of every chunk that take part in the fit."""
        return tuple(self._count(self._images.fitted, chunk) for chunk in range(self.chunks))

    def fitted(self, chunk: int) -> ColumnBlock:
        """The columns of a chunk that take part in the fit."""
        return self._read(chunk, self._images.fitted)

    def held_out(self, chunk: int) -> ColumnBlock | None:
        """The held-out columns of a chunk; None where it has none."""
        return self._read(chunk, self._images.held_out) if self._count(self._images.held_out, chunk) else None

    def start_sample(self, columns: int, seed: int) -> Columns:
        """About so many fitted columns, spread over seeded chunks; float32. The same on every rank."""
        sizes = np.array(self.chunk_sizes())
        order = np.random.default_rng([seed, 2]).permutation(self.chunks)
        order = order[sizes[order] > 0]
        enough = int(np.searchsorted(sizes[order].cumsum(), 4 * columns)) + 1
        return self._sample([self.fitted(int(chunk)) for chunk in order[: max(START_CHUNKS, enough)]], columns, seed)

    def held_out_sample(self, columns: int, seed: int) -> Columns:
        """About so many held-out columns, from seeded chunks; float32. The same on every rank."""
        order = [int(chunk) for chunk in np.random.default_rng([seed, 3]).permutation(self.chunks)]
        blocks, held = [], 0
        for chunk in order:
            block = self.held_out(chunk) if held < 4 * columns else None
            if block is not None:
                blocks.append(block)
                held += len(block.columns)
        return self._sample(blocks, columns, seed)

    def _sample(self, blocks: list[ColumnBlock], columns: int, seed: int) -> Columns:
        if not blocks:
            return torch.empty(0, self.layer.units, device=self.device)
        joined = torch.cat([block.columns for block in blocks])
        rows = np.sort(np.random.default_rng([seed, 4]).permutation(len(joined))[:columns])
        return joined[torch.from_numpy(rows).to(self.device)].float()

    def _count(self, mask: Bool[np.ndarray, "N"], chunk: int) -> int:
        return self._images.count(mask, chunk) * self.layer.stored

    def _read(self, chunk: int, mask: Bool[np.ndarray, "N"]) -> ColumnBlock:
        first, stop = self._images.bounds(chunk)
        kept = self._images.kept(mask, chunk)
        stop = stop if len(kept) else first  # nothing is read from a chunk without an image of the scope
        block = read_rows(self._array, first, stop)[kept]
        image = torch.from_numpy(np.repeat((first + kept).astype(np.int32), self.layer.stored))
        positions = [sampled_positions(self.settings.seed, self.layer, int(first + row)) for row in kept]
        joined = np.concatenate([np.empty(0, np.int32), *positions]).astype(np.int32)
        position = torch.from_numpy(joined)
        columns = torch.from_numpy(block.reshape(-1, self.layer.units)).to(self.device)
        return ColumnBlock(columns, image, position)
