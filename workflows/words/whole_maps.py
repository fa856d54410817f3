"""All columns of a shard's images, batch by batch: back from the disk, or from the network, which runs again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workflows.data.shards import Shard
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.settings import Settings
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from workflows.words.forward import FrozenForward

Batch = tuple[int, LayerPlan, Float[Tensor, "N positions D"]]
"""Row of the shard where the batch begins, the layer, and its columns in the storage dtype."""


class WholeMaps:
    """The maps of a shard, read once however many dictionaries ask for them.

    Both ways give the same columns, and a shard is always cut into the same batches, so nothing that is made of them
    depends on who works on it, nor on who else asks.

    Args:
        settings, plan, folder: of the run.
        device: where columns are put.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, device: torch.device) -> None:
        self._plan, self._folder, self._device = plan, folder, device
        self._batch, self._dtype = settings.extract.largest_batch, STORAGE_DTYPES[settings.extract.dtype]
        self._forward = None if plan.stores_everything else _forward(settings, plan, folder)

    def __call__(
        self, shard: Shard, layers: Collection[str] | None = None
    ) -> Iterator[tuple[Sequence[LayerPlan], Iterator[Batch]]]:
        """Groups of layers whose maps are held at once, each with its batches. layers: names; None: all."""
        wanted = [layer for layer in self._plan.layers if layers is None or layer.name in layers]
        if self._forward is not None:
            yield wanted, self._recomputed(self._forward, shard, wanted)
            return
        for layer in wanted:
            yield [layer], self._stored(shard, layer)

    def _recomputed(self, forward: FrozenForward, shard: Shard, layers: Sequence[LayerPlan]) -> Iterator[Batch]:
        for batch in forward(shard):
            for layer in layers:
                yield batch.first - shard.first, layer, batch.columns[layer.name].to(self._dtype)

    def _stored(self, shard: Shard, layer: LayerPlan) -> Iterator[Batch]:
        block = read_rows(self._folder.activations(layer.name), shard.first, shard.stop)
        for start in range(0, len(block), self._batch):
            yield start, layer, torch.from_numpy(block[start : start + self._batch]).to(self._device)


def columns_of_rows(
    rows: Int[np.ndarray, " n"], first: int, columns: Float[Tensor, "N positions D"]
) -> tuple[slice, Float[Tensor, "m positions D"]]:
    """Which of some rows of a shard (ascending) are in a batch that begins at row ``first``, and their columns."""
    start, stop = np.searchsorted(rows, [first, first + len(columns)])
    if stop - start < len(columns):
        columns = columns[torch.from_numpy(rows[start:stop] - first).to(columns.device)]
    return slice(start, stop), columns


def _forward(settings: Settings, plan: Plan, folder: RunFolder) -> FrozenForward:
    # Late, because torchvision costs an actor a second and stored columns need no network.
    from workflows.words.forward import FrozenForward

    return FrozenForward(settings, plan, folder)
