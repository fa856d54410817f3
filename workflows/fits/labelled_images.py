"""Columns of a layer image by image, with the scope's labels: what a fit of the discriminative loss reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workflows.fits.columns import sampled_positions
from workflows.fits.training_images import TrainingImages
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.settings import Settings
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder


class ImageReader(Protocol):
    """Gives the columns of some images of a chunk."""

    def __call__(self, images: Int[np.ndarray, " N"]) -> Float[Tensor, "N positions D"]:
        """Of images with these ids, ascending, in the storage dtype."""


class StoredImages:
    """The columns that the extract stage stored: all of a map, or its sample."""

    def __init__(self, folder: RunFolder, layer: LayerPlan, device: torch.device) -> None:
        self._array, self._device = open_array(folder.activations(layer.name)), device

    def __call__(self, images: Int[np.ndarray, " N"]) -> Float[Tensor, "N positions D"]:
        """As ``ImageReader``."""
        block = read_rows(self._array, int(images[0]), int(images[-1]) + 1)
        return torch.from_numpy(block[images - images[0]]).to(self._device)


class RecomputedImages:
    """The whole maps, from the network in this process, rounded to the storage dtype as stored ones are."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, layer: LayerPlan) -> None:
        # Late, because torchvision costs an actor a second and stored columns need no network.
        from workflows.words.forward import FrozenForward

        self._forward = FrozenForward(settings, replace(plan, layers=(layer,)), folder)
        self._layer, self._dtype = layer.name, STORAGE_DTYPES[settings.extract.dtype]

    def __call__(self, images: Int[np.ndarray, " N"]) -> Float[Tensor, "N positions D"]:
        """As ``ImageReader``."""
        batches = self._forward.of(images.tolist())
        return torch.cat([batch.columns[self._layer].to(self._dtype) for batch in batches])


class SampledImages:
    """Recomputed maps cut to the positions that would have been stored: the same columns as ``StoredImages``."""

    def __init__(self, maps: RecomputedImages, seed: int, layer: LayerPlan) -> None:
        self._maps, self._seed, self._layer = maps, seed, layer

    def __call__(self, images: Int[np.ndarray, " N"]) -> Float[Tensor, "N positions D"]:
        """As ``ImageReader``."""
        maps = self._maps(images)
        if self._layer.all_stored:
            return maps
        positions = np.stack([sampled_positions(self._seed, self._layer, image) for image in images.tolist()])
        index = torch.from_numpy(positions).to(maps.device)
        return maps.gather(1, index[:, :, None].expand(-1, -1, maps.shape[2]))


class ImageSource:
    """The training images of a scope in one layer; a chunk is the unit of reading, as in ``ColumnSource``.

    Args:
        settings, plan, folder, layer, scope: of the fit.
        device: where columns are put.
        read: stored or recomputed columns.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        layer: LayerPlan,
        scope: Scope,
        device: torch.device,
        read: ImageReader,
    ) -> None:
        self.layer, self.device, self._read_images = layer, device, read
        self._labels = scope.scope_label(ImageColumns.read(folder, 0, plan.train_images).label)
        self._images = TrainingImages(settings, plan, folder, self._labels >= 0)
        self.chunks = self._images.chunks

    def chunk_sizes(self) -> tuple[int, ...]:
        """Images of every chunk that take part in the fit."""
        return tuple(self._images.count(self._images.fitted, chunk) for chunk in range(self.chunks))

    def held_out_sizes(self) -> tuple[int, ...]:
        """Images of every chunk that are held out."""
        return tuple(self._images.count(self._images.held_out, chunk) for chunk in range(self.chunks))

    def fitted(self, chunk: int) -> tuple[Float[Tensor, "N positions D"], Int[Tensor, " N"]]:
        """Columns and labels of the images of a chunk that take part in the fit."""
        return self._read(chunk, self._images.fitted)

    def held_out(self, chunk: int) -> tuple[Float[Tensor, "N positions D"], Int[Tensor, " N"]]:
        """Columns and labels of the held-out images of a chunk."""
        return self._read(chunk, self._images.held_out)

    def _read(self, chunk: int, mask: Bool[np.ndarray, " N"]) -> tuple[Tensor, Tensor]:
        images = self._images.bounds(chunk)[0] + self._images.kept(mask, chunk)
        labels = torch.from_numpy(self._labels[images]).to(self.device)
        if not len(images):
            return torch.empty(0, self.layer.stored, self.layer.units, device=self.device), labels
        return self._read_images(images), labels
